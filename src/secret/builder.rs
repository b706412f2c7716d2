//! Parts of a resource set: what is there, what is withheld, and what else could come.

use std::{collections::BTreeMap, sync::Arc};

use super::{dot_free, encode::Payload};
use crate::xds::{Absence, Origin, Rank, Resource, ResourceName, ResourceSet};

/// Resources of one kind as of one moment. Cheap to clone; parts of different kinds make up a [`ResourceSet`].
#[derive(Clone)]
pub struct Part {
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: Vec<ResourceName>,
    possible: Absence,
}

impl Part {
    /// Everything in `self` and in `other`; where both have a name, `self` wins.
    #[must_use]
    pub fn join(&self, other: &Self) -> ResourceSet {
        let taken = |name: &ResourceName| self.resources.contains_key(name) || self.withheld.contains(name);
        let others = other.resources.iter().filter(|(name, _)| !taken(name)).map(|(_, resource)| resource);
        let resources = self.resources.values().chain(others).cloned();
        let withheld = self.withheld.iter().chain(other.withheld.iter().filter(|name| !taken(name))).cloned();
        let (one, two) = (self.possible.clone(), other.possible.clone());
        ResourceSet::new(resources, withheld, Arc::new(move |name| one(name) || two(name)))
    }
}

impl From<Part> for ResourceSet {
    fn from(part: Part) -> Self {
        Self::new(part.resources.into_values(), part.withheld, part.possible)
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.resources.keys()).finish()
    }
}

/// Collects resources under all the spellings of their names; the first claim to a name wins.
pub(super) struct Builder<'a> {
    origin: &'a Arc<Origin>,
    before: Option<&'a Part>,
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: Vec<ResourceName>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(origin: &'a Arc<Origin>) -> Self {
        Self { origin, before: None, resources: BTreeMap::new(), withheld: Vec::new() }
    }

    /// Takes what has the same name and version from an earlier part, with the frames that its streams share.
    pub(super) fn reusing(mut self, before: Option<&'a Part>) -> Self {
        self.before = before;
        self
    }

    pub(super) fn finish(self, possible: Absence) -> Part {
        Part { resources: self.resources, withheld: self.withheld, possible }
    }

    pub(super) fn add(&mut self, name: &str, listed: bool, rank: Rank, payload: &mut Payload) {
        let spellings = [(name.to_owned(), listed)].into_iter().chain(dot_free(name).map(|name| (name, false)));
        for (text, listed) in spellings {
            let name = ResourceName::from(text.as_str());
            if self.withheld.contains(&name) || self.resources.contains_key(&name) {
                continue;
            }
            let known = self.before.and_then(|before| before.resources.get(&name));
            let resource = match known.filter(|known| known.version() == payload.version()) {
                Some(known) => known.clone(),
                None => {
                    let (version, body) = (payload.version().clone(), payload.encode(&text));
                    Arc::new(Resource::new(name.clone(), version, rank, listed, body, self.origin.clone()))
                }
            };
            self.resources.insert(name, resource);
        }
    }

    pub(super) fn add_context<'n>(&mut self, names: impl Iterator<Item = (&'n str, bool)>, payload: Option<Payload>) {
        match payload {
            Some(mut payload) => names.for_each(|(name, listed)| self.add(name, listed, Rank::Trust, &mut payload)),
            None => names.for_each(|(name, _)| self.withhold(name)),
        }
    }

    pub(super) fn withhold(&mut self, name: &str) {
        let spellings = [name.to_owned()].into_iter().chain(dot_free(name)).map(ResourceName::from);
        self.withheld.extend(spellings.filter(|name| !self.resources.contains_key(name)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
    use prost::Message as _;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        identity::{JwtRequest, JwtSnapshot, JwtState, JwtSubject, JwtSvid, SpiffeId, Token, Validity},
        secret::{Naming, SecretCatalog},
        xds::Lookup,
    };

    const END: SystemTime = SystemTime::UNIX_EPOCH;

    fn request(audience: &str) -> JwtRequest {
        JwtRequest { subject: JwtSubject::Default, audience: [audience.to_owned()].into() }
    }

    fn catalog() -> SecretCatalog {
        let origin = Origin { type_url: crate::xds::SECRET_TYPE_URL, control_plane: "test".into() };
        let wanted = ["payments", "a.b"].map(request);
        SecretCatalog::new(Naming::default(), Arc::new(origin)).jwt_svids(wanted.into())
    }

    fn valid(token: &str) -> JwtState {
        JwtState::Valid(Arc::new(JwtSvid {
            id: SpiffeId::new("spiffe://example.org/web").unwrap(),
            audience: Default::default(),
            validity: Validity { not_before: END, not_after: END + Duration::from_secs(10) },
            hint: None,
            token: Token::new(Zeroizing::new(token.to_owned())),
        }))
    }

    fn snapshot(payments: JwtState, other: JwtState) -> JwtSnapshot {
        let svids = [(request("payments"), payments), (request("a.b"), other)];
        JwtSnapshot { svids: svids.into(), ..JwtSnapshot::default() }
    }

    fn text(part: &Part, name: &str) -> Option<String> {
        let secret = Secret::decode(part.resources.get(name)?.body()).unwrap();
        assert_eq!(secret.name, name);
        let Some(Type::GenericSecret(generic)) = secret.r#type else { panic!("{name} is no generic secret") };
        let specifier = generic.secret.unwrap().specifier.unwrap();
        let envoy_types::pb::envoy::config::core::v3::data_source::Specifier::InlineBytes(bytes) = specifier else {
            panic!("{name} is not inline")
        };
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_token_has_two_forms_and_each_two_spellings() {
        let part = catalog().tokens(&snapshot(valid("t1"), valid("t2")), END, None);
        for (name, content) in [
            ("jwt:payments", "t1"),
            ("jwt-bearer:payments", "Bearer t1"),
            ("jwt:a.b", "t2"),
            ("jwt:a%2Eb", "t2"),
            ("jwt-bearer:a%2Eb", "Bearer t2"),
        ] {
            assert_eq!(text(&part, name).as_deref(), Some(content), "{name}");
        }
        let set = ResourceSet::from(part);
        assert_eq!(set.listed().map(|it| it.name().as_str()).collect::<Vec<_>>(), ["jwt:a.b", "jwt:payments"]);
        assert!(matches!(set.lookup("jwt:billing"), Lookup::Impossible));
    }

    #[test]
    fn pending_is_withheld_and_gone_is_empty() {
        let part = catalog().tokens(&snapshot(JwtState::Pending, JwtState::Gone(END)), END, None);
        assert_eq!((text(&part, "jwt:payments"), text(&part, "jwt-bearer:a.b")), (None, Some(String::new())));
        assert!(matches!(ResourceSet::from(part).lookup("jwt:payments"), Lookup::Withheld));
        let ended = catalog().tokens(&snapshot(valid("t"), JwtState::Pending), END + Duration::from_secs(10), None);
        assert_eq!(text(&ended, "jwt:payments").as_deref(), Some(""), "nobody gets a token that has ended");
    }

    #[test]
    fn what_has_not_changed_is_shared() {
        let catalog = catalog();
        let before = catalog.tokens(&snapshot(valid("t1"), valid("t2")), END, None);
        let after = catalog.tokens(&snapshot(valid("t1"), valid("t3")), END, Some(&before));
        let same = |name: &str| Arc::ptr_eq(&before.resources[name], &after.resources[name]);
        assert!(same("jwt:payments") && !same("jwt:a.b"));
        assert_ne!(before.resources["jwt:payments"].version(), before.resources["jwt-bearer:payments"].version());
    }
}
