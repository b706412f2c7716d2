//! The resources that all clients of one flavour share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Config, Contents, EncodeError, Flavour, Pattern, SecretName, contents::Found, dot_free, name::decode_dots,
};
use crate::{
    identity::TrustBundle,
    xds::{Absence, Content, Origin, Resource, ResourceName, ResourceSet},
};

/// Every resource that `contents` are to a client of this flavour, but for names that depend on the client.
pub(super) fn base(
    contents: &Arc<Contents>,
    flavour: Flavour,
    config: &Arc<Config>,
    origin: &Arc<Origin>,
) -> Result<ResourceSet, EncodeError> {
    let mut set = Builder::new(origin, config.allowed.as_deref());
    certificates(contents, config, &mut set);
    trust(contents, flavour, config, &mut set)?;
    set.allowed = None;
    let mut awaited = BTreeSet::new();
    for (name, target) in config.names.fixed() {
        match contents.find(target, flavour)? {
            Found::Here(content) => set.add(name, false, &content),
            Found::Withheld => set.withhold(name),
            Found::Absent => {
                awaited.insert(name.clone());
            }
            Found::Impossible => {}
        }
    }
    Ok(set.finish(possible(contents, flavour, config, awaited)))
}

fn certificates(contents: &Contents, config: &Config, set: &mut Builder<'_>) {
    for (id, content, is_default) in contents.svids() {
        let id = id.to_string();
        let names = [(id.as_str(), true)].into_iter();
        for (name, listed) in names.chain(is_default.then_some((config.naming.default_svid.as_str(), false))) {
            set.add_or_withhold(name, listed, content);
        }
    }
}

fn trust(contents: &Contents, flavour: Flavour, config: &Config, set: &mut Builder<'_>) -> Result<(), EncodeError> {
    let (snapshot, naming) = (contents.snapshot(), &config.naming);
    for bundle in snapshot.bundles.values() {
        let name = format!("spiffe://{}", bundle.trust_domain());
        let own = snapshot.own_bundle().is_some_and(|own| own == bundle);
        let content = contents.validation(&[bundle], flavour)?;
        set.add_or_withhold(&name, true, content.as_ref());
        if own {
            set.add_or_withhold(&naming.default_bundle, false, content.as_ref());
        }
    }
    let all: Vec<&TrustBundle> = snapshot.bundles.values().map(AsRef::as_ref).collect();
    if flavour == Flavour::Spiffe && naming.all_bundles != naming.default_bundle && !all.is_empty() {
        set.add_or_withhold(&naming.all_bundles, false, contents.validation(&all, flavour)?.as_ref());
    }
    Ok(())
}

/// Names that may get a meaning later. Only what the grammar, the flavour, the trust domain or the operator rules out
/// is impossible: registrations are eventually consistent, and an Envoy that is told "no" opens its port without a
/// certificate instead of waiting.
fn possible(contents: &Arc<Contents>, flavour: Flavour, config: &Arc<Config>, awaited: BTreeSet<String>) -> Absence {
    let (contents, config) = (contents.clone(), config.clone());
    Arc::new(move |name| {
        let name = decode_dots(name);
        if awaited.contains(&*name) {
            return true;
        }
        if !is_allowed(&name, config.allowed.as_deref()) {
            return false;
        }
        match SecretName::parse(&name, &config.naming) {
            None => false,
            Some(SecretName::AllBundles) => flavour == Flavour::Spiffe,
            Some(SecretName::Svid(id)) => contents.is_possible(&id),
            Some(SecretName::DefaultSvid | SecretName::OwnBundle | SecretName::Bundle(_)) => true,
        }
    })
}

fn is_allowed(name: &str, allowed: Option<&[Pattern]>) -> bool {
    allowed.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(name)))
}

/// Collects resources under all the spellings of their names; the first claim to a name wins.
pub(super) struct Builder<'a> {
    origin: &'a Arc<Origin>,
    allowed: Option<&'a [Pattern]>,
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: BTreeSet<ResourceName>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(origin: &'a Arc<Origin>, allowed: Option<&'a [Pattern]>) -> Self {
        Self { origin, allowed, resources: BTreeMap::new(), withheld: BTreeSet::new() }
    }

    /// A name for a content; its dot-free spelling is never listed.
    pub(super) fn add(&mut self, name: &str, listed: bool, content: &Arc<Content>) {
        if !is_allowed(name, self.allowed) {
            return;
        }
        let spellings = [(name.to_owned(), listed)].into_iter().chain(dot_free(name).map(|name| (name, false)));
        for (name, listed) in spellings {
            let name = ResourceName::from(name);
            if !self.withheld.contains(&name) {
                let resource = || Arc::new(Resource::new(name.clone(), listed, content.clone(), self.origin.clone()));
                self.resources.entry(name.clone()).or_insert_with(resource);
            }
        }
    }

    /// A name for something that is there and must not be sent now.
    pub(super) fn withhold(&mut self, name: &str) {
        if is_allowed(name, self.allowed) {
            let spellings = [name.to_owned()].into_iter().chain(dot_free(name)).map(ResourceName::from);
            self.withheld.extend(spellings.filter(|name| !self.resources.contains_key(name)));
        }
    }

    fn add_or_withhold(&mut self, name: &str, listed: bool, content: Option<&Arc<Content>>) {
        match content {
            Some(content) => self.add(name, listed, content),
            None => self.withhold(name),
        }
    }

    fn finish(self, possible: Absence) -> ResourceSet {
        ResourceSet::new(self.resources.into_values(), self.withheld, possible)
    }
}
