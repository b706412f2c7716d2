//! An identity that the source lists no longer.

use std::{sync::Arc, time::SystemTime};

use spiffe::SpiffeId;

use super::{CertificateChain, Hint, Validity};

/// An identity that went while others stayed, without its key: what clients may still hold of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Whose it was.
    pub id: SpiffeId,
    /// The operator's label, if the source gave one.
    pub hint: Option<Hint>,
    /// Leaf first.
    pub chain: CertificateChain,
    /// Of the leaf, hexadecimal.
    pub serial: Arc<str>,
    /// The life of the last certificate.
    pub validity: Validity,
    /// When the source stopped listing it.
    pub since: SystemTime,
    /// Whether it is in service still, for the grace time.
    pub in_service: bool,
}
