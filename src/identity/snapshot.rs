//! Everything a source said about one workload at one moment.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use spiffe::{SpiffeId, TrustDomain};

use super::{Refusal, Svid, TrustBundle};

/// A complete, validated state. Two snapshots are equal when a proxy could not tell them apart: what was left out is no
/// part of that, and a change of it alone is reported, but pushed to nobody.
#[derive(Clone, Debug, Default)]
pub struct IdentitySnapshot {
    /// In the source's order: the first one is the default identity (Workload API, section 8).
    pub svids: Vec<Arc<Svid>>,
    /// One bundle a trust domain, the workload's own and the federated ones.
    pub bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    /// The trust domain the workload belongs to; unknown for a verifier without an SVID whose source names several.
    pub trust_domain: Option<TrustDomain>,
    /// ASN.1 DER certificate revocation lists, as the source gave them.
    pub crls: Vec<Arc<[u8]>>,
    /// What the source sent besides, and why it is not here.
    pub refusals: Vec<Refusal>,
}

impl PartialEq for IdentitySnapshot {
    fn eq(&self, other: &Self) -> bool {
        let Self { svids, bundles, trust_domain, crls, refusals: _ } = self;
        *svids == other.svids && *bundles == other.bundles && *trust_domain == other.trust_domain && *crls == other.crls
    }
}

impl Eq for IdentitySnapshot {}

impl IdentitySnapshot {
    /// The identity to use when none is asked for by name.
    #[must_use]
    pub fn default_svid(&self) -> Option<&Arc<Svid>> {
        self.svids.first()
    }

    /// The identity with this SPIFFE ID; the first of several.
    #[must_use]
    pub fn svid(&self, id: &SpiffeId) -> Option<&Arc<Svid>> {
        self.svids.iter().find(|svid| svid.id == *id)
    }

    /// The bundle of the workload's own trust domain.
    #[must_use]
    pub fn own_bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundles.get(self.trust_domain.as_ref()?)
    }

    /// The end of the first SVID to expire; `None` without SVIDs.
    #[must_use]
    pub fn first_expiry(&self) -> Option<SystemTime> {
        self.svids.iter().map(|svid| svid.validity.not_after).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RefusedItem;

    #[test]
    fn what_was_left_out_makes_no_difference_to_proxies() {
        let refused = |id| vec![Refusal::new(RefusedItem::svid(id), "expired")];
        let with = |refusals| IdentitySnapshot { refusals, ..IdentitySnapshot::default() };
        assert_eq!(with(refused("spiffe://example.org/a")), with(Vec::new()));
        assert_ne!(with(Vec::new()), IdentitySnapshot { crls: vec![Arc::from([1])], ..IdentitySnapshot::default() });
    }
}
