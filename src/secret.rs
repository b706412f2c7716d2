//! How identities become xDS resources.

mod name;

pub use name::Naming;

use std::time::Duration;

/// What the catalog serves and how a change of it is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The names that stand for "the default identity", "our bundle" and "all bundles".
    pub naming: Naming,
    /// Serve plain `trusted_ca` contexts instead of the SPIFFE certificate validator (SPIRE's option of this name).
    pub disable_spiffe_cert_validation: bool,
    /// Answer an empty first name list with everything the peer may have, as SPIRE does. Off: it gets nothing,
    /// because Envoy also sends an empty list when its last listener goes.
    pub wildcard: bool,
    /// How long new trust is in place before certificates that need it, and old trust after the last that needed it.
    pub rollout_hold: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            disable_spiffe_cert_validation: false,
            wildcard: false,
            rollout_hold: Duration::from_millis(250),
        }
    }
}
