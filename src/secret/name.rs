//! What a resource name denotes.

/// The three names that are not SPIFFE IDs, with SPIRE's defaults (`sds` block of its agent configuration).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The default identity's certificate and key.
    pub default_svid: String,
    /// The validation context of the workload's own trust domain.
    pub default_bundle: String,
    /// The validation context of every known trust domain (SPIFFE validator only).
    pub all_bundles: String,
}

impl Default for Naming {
    fn default() -> Self {
        Self { default_svid: "default".into(), default_bundle: "ROOTCA".into(), all_bundles: "ALL".into() }
    }
}
