//! An X.509-SVID: a SPIFFE ID, the chain that proves it and the key that uses it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::SpiffeId;
use zeroize::Zeroizing;

/// One X.509 certificate, ASN.1 DER. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Certificate(Arc<[u8]>);

impl Certificate {
    /// Takes DER bytes as they are; `source::decode` is what checks them.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Self {
        Self(Arc::from(der))
    }

    /// The ASN.1 DER bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.0.len())
    }
}

/// Leaf first, then intermediates; never empty and never holding the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateChain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

impl CertificateChain {
    /// A chain of one leaf and the intermediates in signing order.
    #[must_use]
    pub fn new(leaf: Certificate, intermediates: Vec<Certificate>) -> Self {
        Self { leaf, intermediates }
    }

    /// The certificate that carries the SPIFFE ID.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// Leaf first, then intermediates.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }
}

/// A private key, PKCS#8 ASN.1 DER. Wiped when dropped; `Debug` never shows it.
#[derive(Clone)]
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKey {
    /// Takes ownership of PKCS#8 DER bytes; `source::decode` is what checks them.
    #[must_use]
    pub fn from_pkcs8_der(der: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(der))
    }

    /// The PKCS#8 DER bytes. Whatever copies them must wipe its copy.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

/// When a certificate may be used: both ends included (RFC 5280, 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment of validity.
    pub not_before: SystemTime,
    /// The last moment of validity.
    pub not_after: SystemTime,
}

impl Validity {
    /// Whether `now` is past the end.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }

    /// Whether `now` is before the beginning.
    #[must_use]
    pub fn is_future(&self, now: SystemTime) -> bool {
        now < self.not_before
    }

    /// What is left at `now`; zero when expired.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

/// An operator's label for one of several identities (Workload API, section 5.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hint(Arc<str>);

impl Hint {
    /// `None` for the empty string, which means "no hint" on the wire.
    #[must_use]
    pub fn new(hint: &str) -> Option<Self> {
        (!hint.is_empty()).then(|| Self(Arc::from(hint)))
    }

    /// The label itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An X.509-SVID with its private key.
#[derive(Clone, Debug)]
pub struct Svid {
    /// The identity that the leaf's URI SAN carries.
    pub id: SpiffeId,
    /// Leaf first.
    pub chain: CertificateChain,
    /// The leaf's key.
    pub key: PrivateKey,
    /// The operator's label, if the source gave one.
    pub hint: Option<Hint>,
    /// The leaf's life.
    pub validity: Validity,
}

/// Compares the public part only: a key belongs to exactly one leaf, so equal chains mean equal keys.
impl PartialEq for Svid {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.chain == other.chain && self.hint == other.hint
    }
}

impl Eq for Svid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_key() {
        let key = PrivateKey::from_pkcs8_der(Zeroizing::new(vec![0xAB; 16]));
        let shown = format!("{key:?} {key:#?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab"), "{shown}");
    }

    #[test]
    fn validity_includes_both_ends() {
        let start = SystemTime::UNIX_EPOCH;
        let end = start + Duration::from_secs(10);
        let validity = Validity { not_before: start, not_after: end };
        assert!(!validity.is_future(start) && !validity.is_expired(end));
        assert!(validity.is_expired(end + Duration::from_nanos(1)));
        assert_eq!(validity.remaining(end), Duration::ZERO);
        assert_eq!(validity.remaining(start), Duration::from_secs(10));
    }
}
