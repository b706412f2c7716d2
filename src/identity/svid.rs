//! An X.509-SVID: a SPIFFE ID, the chain that proves it and the key that uses it.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use spiffe::SpiffeId;
use x509_parser::{
    certificate::X509Certificate, oid_registry::OID_SIG_ED25519, prelude::FromDer as _, public_key::PublicKey,
    revocation_list::CertificateRevocationList, time::ASN1Time,
};
use zeroize::Zeroizing;

/// One X.509 certificate, ASN.1 DER. Cheap to clone, and looked into once.
#[derive(Clone)]
pub struct Certificate(Arc<Looked>);

struct Looked {
    der: Box<[u8]>,
    facts: OnceLock<Option<CertificateFacts>>,
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its life.
    pub validity: Validity,
    /// Its distinguished name.
    pub subject: String,
    /// As Envoy prints it: lower-case hexadecimal without a leading zero byte.
    pub serial: String,
    /// Whether it names itself as its issuer, as roots do.
    pub self_issued: bool,
    /// Which key it is about.
    pub key: KeyKind,
}

/// Kinds of keys, as far as Envoy treats them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Elliptic curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// All others.
    Other,
}

impl Certificate {
    /// Takes DER bytes as they are; `source::decode` is what checks them.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Self {
        Self(Arc::new(Looked { der: Box::from(der), facts: OnceLock::new() }))
    }

    /// What it says about itself; `None` for what is no certificate. Parsed at most once.
    #[must_use]
    pub fn facts(&self) -> Option<&CertificateFacts> {
        self.0.facts.get_or_init(|| CertificateFacts::of(&self.0.der)).as_ref()
    }

    /// Its life; `None` for what is no certificate.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        self.facts().map(|facts| facts.validity)
    }

    /// The ASN.1 DER bytes.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.der().len())
    }
}

/// Certificates are their bytes.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.der() == other.der()
    }
}

impl Eq for Certificate {}

impl PartialOrd for Certificate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Certificate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.der().cmp(other.der())
    }
}

impl Hash for Certificate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.der().hash(state);
    }
}

impl CertificateFacts {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let serial = parsed.raw_serial();
        let serial = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
        Some(Self {
            validity: Validity {
                not_before: moment(parsed.validity().not_before),
                not_after: moment(parsed.validity().not_after),
            },
            subject: parsed.subject().to_string(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
            key: KeyKind::of(&parsed),
        })
    }
}

impl KeyKind {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        match certificate.public_key().parsed() {
            Ok(PublicKey::EC(point)) if point.key_size() > 384 => Self::P521,
            _ if certificate.public_key().algorithm.algorithm == OID_SIG_ED25519 => Self::Ed25519,
            _ => Self::Other,
        }
    }
}

/// When a revocation list is to be replaced at the latest (`nextUpdate`), if it says so. Until then its issuer vouches for it.
#[must_use]
pub fn crl_next_update(der: &[u8]) -> Option<SystemTime> {
    let (_, crl) = CertificateRevocationList::from_der(der).ok()?;
    crl.next_update().map(moment)
}

/// Between 1970 and 9999, so that every formatter takes it.
fn moment(time: ASN1Time) -> SystemTime {
    const LAST_SECOND: u64 = 253_402_300_799;
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0).min(LAST_SECOND);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
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
