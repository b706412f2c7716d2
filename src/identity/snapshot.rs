//! Everything a source said about one workload at one moment.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use spiffe::{SpiffeId, TrustDomain};

use super::{Svid, TrustBundle};

/// A complete, validated state. Two snapshots are equal when a proxy could not tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySnapshot {
    /// In the source's order: the first one is the default identity (Workload API, section 8).
    pub svids: Vec<Arc<Svid>>,
    /// One bundle a trust domain, the workload's own and the federated ones.
    pub bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    /// The trust domain the workload belongs to; unknown for a verifier without an SVID whose source names several.
    pub trust_domain: Option<TrustDomain>,
    /// ASN.1 DER certificate revocation lists, as the source gave them.
    pub crls: Vec<Arc<[u8]>>,
}

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
