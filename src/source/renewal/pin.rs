//! Whose identity it is: the trust domain that is ours, and messages that would change it.
//!
//! A first SVID of another trust domain would take over `default` and our own bundle, and every handshake would fail. So the
//! own trust domain is the configured one, or else that of the first SVIDs that came into service, until the process ends.

use crate::{
    identity::{IdentitySnapshot, SpiffeId, TrustDomain},
    source::{RenewalEvent, SourceError},
};

/// Which trust domain is ours.
#[derive(Debug, Default)]
pub(in crate::source) struct Pin {
    /// That of each source, where one is configured.
    configured: Vec<Option<TrustDomain>>,
    established: Option<TrustDomain>,
    /// What a verifier without SVIDs was told first. The first SVID overrules it.
    told: Option<TrustDomain>,
}

/// An identity of another trust domain that stood where the default one should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct Foreign {
    pub(in crate::source) id: SpiffeId,
    pub(in crate::source) own: TrustDomain,
}

impl Foreign {
    pub(in crate::source) fn event(self) -> RenewalEvent {
        let Self { id, own } = self;
        let error = format!(
            "the first identity of the source is {id}; it is served by its name alone, and the default identity stays one \
             of {own}; correct its registration"
        );
        RenewalEvent::TrustDomainRefused {
            found: id.trust_domain().to_string().into(),
            own,
            error: error.into(),
            failures: 0,
        }
    }
}

impl Pin {
    pub(in crate::source) fn new(configured: Vec<Option<TrustDomain>>) -> Self {
        Self { configured, ..Self::default() }
    }

    /// The trust domain that is ours, as far as this source is concerned: where several have one of their own
    /// configured, a switch between them is meant to change it.
    pub(in crate::source) fn of(&self, source: usize) -> Option<&TrustDomain> {
        let own = self.configured.get(source).and_then(Option::as_ref);
        own.or_else(|| self.configured()).or(self.established.as_ref())
    }

    /// The configured one.
    pub(in crate::source) fn configured(&self) -> Option<&TrustDomain> {
        self.configured.iter().flatten().next()
    }

    /// This state came into service.
    pub(in crate::source) fn establish(&mut self, snapshot: &IdentitySnapshot) {
        let place = if snapshot.svids.is_empty() { &mut self.told } else { &mut self.established };
        if place.is_none() {
            place.clone_from(&snapshot.trust_domain);
        }
    }

    /// Makes our trust domain that of `snapshot`: our identities come first, so that one of them is the default.
    ///
    /// # Errors
    /// [`SourceError::OtherTrustDomain`] when nothing in it is ours.
    pub(in crate::source) fn apply(
        &self,
        source: usize,
        snapshot: &mut IdentitySnapshot,
    ) -> Result<Option<Foreign>, SourceError> {
        let verifier = snapshot.svids.is_empty();
        let own = self.of(source).or_else(|| self.told.as_ref().filter(|_| verifier));
        let Some(own) = own.cloned() else { return Ok(None) };
        let other = |found: Option<&TrustDomain>| SourceError::OtherTrustDomain {
            found: found.map_or_else(|| "none of ours".to_owned(), ToString::to_string),
            configured: self.configured().is_some(),
            own: own.clone(),
        };
        if verifier {
            return match &snapshot.trust_domain {
                Some(found) if *found != own => Err(other(Some(found))),
                None if !snapshot.bundles.contains_key(&own) => Err(other(None)),
                _ => {
                    snapshot.trust_domain = Some(own);
                    Ok(None)
                }
            };
        }
        let first = snapshot.svids.first().map(|svid| svid.id.clone());
        if !snapshot.svids.iter().any(|svid| *svid.id.trust_domain() == own) {
            return Err(other(first.as_ref().map(SpiffeId::trust_domain)));
        }
        // Stable: of ours the source's order counts.
        snapshot.svids.sort_by_key(|svid| *svid.id.trust_domain() != own);
        snapshot.trust_domain = Some(own.clone());
        Ok(first.filter(|id| *id.trust_domain() != own).map(|id| Foreign { id, own }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::fixture;

    const OWN: &str = "spiffe://own.org/web";
    const OTHER: &str = "spiffe://other.org/web";

    fn td(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn snapshot(ids: &[&str], bundles: &[&str]) -> IdentitySnapshot {
        let bundles: Vec<(&str, &[&str])> = bundles.iter().map(|domain| (*domain, &["r"] as &[&str])).collect();
        let svids: Vec<_> = ids.iter().map(|id| (*id, "leaf")).collect();
        let mut snapshot = fixture::snapshot(&svids, &bundles);
        let only = snapshot.bundles.keys().next().filter(|_| snapshot.bundles.len() == 1).cloned();
        snapshot.trust_domain = snapshot.svids.first().map(|svid| svid.id.trust_domain().clone()).or(only);
        snapshot
    }

    fn established() -> Pin {
        let mut pin = Pin::default();
        pin.establish(&snapshot(&[OWN], &["own.org"]));
        pin
    }

    fn configured(domains: &[Option<&str>]) -> Pin {
        Pin::new(domains.iter().map(|domain| domain.map(td)).collect())
    }

    #[test]
    fn the_first_that_came_into_service_stays_ours() {
        let mut pin = established();
        let error = pin.apply(0, &mut snapshot(&[OTHER], &["other.org"])).unwrap_err();
        assert!(error.is_bad_message(), "{error}");
        assert!(error.to_string().contains("other.org") && error.to_string().contains("own.org"), "{error}");
        pin.establish(&snapshot(&[OTHER], &["other.org"]));
        assert_eq!(pin.of(0), Some(&td("own.org")), "once is for good");
        assert_eq!(Pin::default().apply(0, &mut snapshot(&[OTHER], &["other.org"])).unwrap(), None, "before, any is");
    }

    #[test]
    fn a_foreign_identity_in_front_never_becomes_the_default() {
        for pin in [established(), configured(&[Some("own.org")])] {
            let mut mixed = snapshot(&[OTHER, OWN, "spiffe://own.org/db"], &["other.org", "own.org"]);
            let foreign = pin.apply(0, &mut mixed).unwrap().unwrap();
            assert_eq!((foreign.id.to_string().as_str(), foreign.own), (OTHER, td("own.org")));
            let ids: Vec<_> = mixed.svids.iter().map(|svid| svid.id.to_string()).collect();
            assert_eq!(ids, [OWN, "spiffe://own.org/db", OTHER], "it is there by its name");
            assert_eq!(mixed.trust_domain, Some(td("own.org")));
            let mut behind = snapshot(&[OWN, OTHER], &["other.org", "own.org"]);
            assert_eq!(pin.apply(0, &mut behind).unwrap(), None, "and behind ours it is no news");
        }
    }

    #[test]
    fn what_is_configured_counts_from_the_start_and_each_source_may_have_its_own() {
        let pin = configured(&[Some("own.org"), None, Some("third.org")]);
        assert!(pin.apply(0, &mut snapshot(&[OTHER], &["other.org"])).is_err());
        assert!(pin.apply(1, &mut snapshot(&[OTHER], &["other.org"])).is_err(), "one without goes by the preferred");
        assert!(pin.apply(2, &mut snapshot(&[OWN], &["own.org"])).is_err());
        assert!(pin.apply(2, &mut snapshot(&["spiffe://third.org/w"], &["third.org"])).is_ok());
    }

    #[test]
    fn verifiers_know_their_trust_domain_among_several() {
        let pin = established();
        let mut several = snapshot(&[], &["other.org", "own.org"]);
        assert_eq!(pin.apply(0, &mut several).unwrap(), None);
        assert_eq!(several.trust_domain, Some(td("own.org")));
        assert!(pin.apply(0, &mut snapshot(&[], &["other.org"])).is_err());
        assert!(pin.apply(0, &mut snapshot(&[], &["other.org", "third.org"])).is_err(), "ours is not among them");
    }

    #[test]
    fn what_a_verifier_was_told_binds_it_until_an_svid_comes() {
        let mut pin = Pin::default();
        pin.establish(&snapshot(&[], &["told.org"]));
        assert!(pin.apply(0, &mut snapshot(&[], &["other.org"])).is_err());
        assert!(pin.apply(0, &mut snapshot(&[], &["other.org", "told.org"])).is_ok());
        assert!(pin.apply(0, &mut snapshot(&[OWN], &["own.org"])).is_ok());
        pin.establish(&snapshot(&[OWN], &["own.org"]));
        assert!(pin.apply(0, &mut snapshot(&[], &["told.org"])).is_err());
    }
}
