//! The SPIFFE Workload API.

use crate::identity::TrustDomain;

use super::Endpoint;

/// Which Workload API to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The workload's own trust domain, for verifiers without an SVID; otherwise the default SVID tells it.
    pub trust_domain: Option<TrustDomain>,
}
