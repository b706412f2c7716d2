//! What is left out of a message that holds more than the limits allow.
//!
//! Never the default identity, and nothing that is in service already in favour of something new. Beyond that the order
//! of the message counts, and for trust domains that of their names: a map has no other. So every replica leaves out the same.

use std::collections::BTreeSet;

use crate::{
    identity::{IdentitySnapshot, TrustDomain},
    secret::DefaultIdentity,
};

/// What counts before its place does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Precedence {
    default: DefaultIdentity,
    svids: BTreeSet<String>,
    bundles: BTreeSet<TrustDomain>,
}

impl Precedence {
    /// Of the default identity, and nothing else.
    pub(crate) fn of(default: DefaultIdentity) -> Self {
        Self { default, ..Self::default() }
    }

    /// From now on what this state holds counts before what is new.
    pub(crate) fn learn(&mut self, snapshot: &IdentitySnapshot) {
        self.svids = snapshot.svids.iter().map(|svid| svid.id.to_string()).collect();
        self.bundles = snapshot.bundles.keys().cloned().collect();
    }

    /// Places of SVIDs in the order in which they are to be had; each is the SPIFFE ID and hint of one.
    pub(super) fn svids<'a>(&self, names: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<usize> {
        let names: Vec<_> = names.collect();
        let default = names.iter().position(|(id, hint)| self.default.wants(id, Some(hint)));
        let mut places: Vec<usize> = (0..names.len()).collect();
        let known = |place: &usize| names.get(*place).is_some_and(|(id, _)| self.svids.contains(*id));
        places.sort_by_key(|place| (Some(*place) != default, !known(place), *place));
        places
    }

    /// The trust domains that fit.
    pub(super) fn bundles(&self, mut domains: Vec<TrustDomain>, limit: usize) -> BTreeSet<TrustDomain> {
        domains.sort_by_cached_key(|domain| (!self.bundles.contains(domain), domain.clone()));
        domains.truncate(limit);
        domains.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    #[test]
    fn the_default_comes_first_then_what_is_known_then_the_order_of_the_message() {
        let names = || [("a", ""), ("b", "public"), ("c", ""), ("d", "")].into_iter();
        let mut precedence = Precedence::default();
        assert_eq!(precedence.svids(names()), [0, 1, 2, 3]);
        precedence.svids = [String::from("d")].into();
        assert_eq!(precedence.svids(names()), [0, 3, 1, 2]);
        precedence.default = DefaultIdentity::Hint("public".to_owned());
        assert_eq!(precedence.svids(names()), [1, 3, 0, 2]);
    }

    #[test]
    fn known_trust_domains_stay() {
        let domains = || ["a", "b", "c"].map(td).to_vec();
        let mut precedence = Precedence::default();
        assert_eq!(precedence.bundles(domains(), 2), [td("a"), td("b")].into());
        precedence.bundles = [td("c")].into();
        assert_eq!(precedence.bundles(domains(), 2), [td("a"), td("c")].into());
        assert_eq!(precedence.bundles(domains(), 3).len(), 3);
    }
}
