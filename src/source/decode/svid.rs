//! One X.509-SVID: every rule of the X.509-SVID standard, before anything is served.

use std::time::{Duration, SystemTime};

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, public_key::PublicKey, time::ASN1Time, x509::X509Version,
};
use zeroize::Zeroizing;

use super::{
    Limits,
    bundle::{BundleError, Malformed, certificates},
    key::{self, Match},
    path,
};
use crate::{
    identity::{Certificate, CertificateChain, Hint, PrivateKey, SpiffeId, Svid, TrustBundle, Validity},
    workload_api_proto as proto,
};

/// How far in the future an SVID's life may begin, for clocks that disagree. The end of its life has no tolerance: an
/// issuer that hands out something that has ended here is wrong, or our clock is, and either must be seen.
pub const NOT_BEFORE_TOLERANCE: Duration = Duration::from_secs(60);

const RSA_BITS: usize = 2048;
/// The last second of the year 9999, the end of what X.509 can say.
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// Which rule an X.509-SVID breaks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// A trust domain's own ID is for authorities (X.509-SVID, section 2).
    #[error("its SPIFFE ID has no path; register a path for the workload")]
    NoPath,
    /// More than [`Limits::hint_bytes`].
    #[error("its hint has {bytes} bytes, more than the {limit} allowed; shorten it")]
    HintTooLong {
        /// Length of the hint.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// No certificate where one is mandatory.
    #[error("it has no certificate; the issuer must send the chain")]
    NoCertificate,
    /// Longer than [`Limits::spiffe_id_bytes`].
    #[error("its SPIFFE ID has {bytes} bytes, more than the {limit} allowed; shorten its path")]
    SpiffeIdTooLong {
        /// Length of the ID.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not a SPIFFE ID.
    #[error("its name is no SPIFFE ID; correct its registration")]
    SpiffeId(#[source] spiffe::SpiffeIdError),
    /// Nobody could vouch for it.
    #[error("the trust bundle of its own trust domain, which comes with it, cannot be used")]
    Bundle(#[source] BundleError),
    /// Not DER, or something after it.
    #[error("certificate {index} of its chain is not valid DER; the issuer must send plain concatenated DER")]
    Malformed {
        /// Position in the chain, the leaf being 0.
        index: usize,
    },
    /// More than [`Limits::chain_length`].
    #[error(
        "its chain has more than the {limit} certificates allowed; shorten the chain of authorities, or raise \
         limits.source.chain_length"
    )]
    ChainTooLong {
        /// What is allowed.
        limit: usize,
    },
    /// Not X.509 version 3.
    #[error("its certificate is not of X.509 version 3; the issuer must use version 3")]
    NotVersion3,
    /// None, or several: the identity would be a matter of taste (X.509-SVID, section 2).
    #[error(
        "its certificate has {count} URI names where exactly one is allowed; the issuer must write only the SPIFFE ID"
    )]
    UriNames {
        /// URI SANs in the certificate.
        count: usize,
    },
    /// The certificate is somebody else's.
    #[error("its certificate belongs to {found:?}; the issuer must send the certificate of the ID it names")]
    OtherIdentity {
        /// The certificate's URI SAN, shortened.
        found: String,
    },
    /// A leaf that could sign (X.509-SVID, 4.1 and 4.3).
    #[error("its certificate may sign others; the issuer must send a leaf, without cA, keyCertSign and cRLSign")]
    MaySign,
    /// Key usage absent, not critical or without digital signatures (X.509-SVID, 4.3).
    #[error("its key usage is not critical with digitalSignature; correct the issuer's certificate profile")]
    KeyUsage,
    /// Extended key usage for one side of TLS only (X.509-SVID, 4.4).
    #[error("its extended key usage lacks serverAuth or clientAuth; the issuer must write both or none")]
    ExtendedKeyUsage,
    /// Too small to be safe.
    #[error("its RSA key has {bits} bits; use at least 2048, or an elliptic curve")]
    WeakKey {
        /// Size of the modulus.
        bits: usize,
    },
    /// Not an unencrypted PKCS#8 key of a usable kind.
    #[error(
        "its private key is no unencrypted PKCS#8 key (ECDSA P-256, P-384, P-521, RSA of at least 2048 bits or Ed25519)"
    )]
    UnusableKey,
    /// The key of another certificate.
    #[error("its private key does not belong to its certificate; the issuer mixed two identities up")]
    KeyMismatch,
    /// Its life is over.
    #[error("it expired {}; check the issuer, and the clocks of both machines", at(*not_after))]
    Expired {
        /// The end of its life.
        not_after: SystemTime,
    },
    /// Its life begins more than [`NOT_BEFORE_TOLERANCE`] from now.
    #[error("it is valid only from {}; check the clocks of both machines", at(*not_before))]
    NotYetValid {
        /// The beginning of its life.
        not_before: SystemTime,
    },
    /// The bundle of its own trust domain does not vouch for it: a foreign or retired authority signed it.
    #[error(
        "the trust bundle of its own trust domain does not vouch for it; check which authority the issuer signs with"
    )]
    Untrusted(#[source] webpki::Error),
    /// An intermediate without keyCertSign (X.509-SVID, 4.3): Envoy refuses what it signed.
    #[error(
        "an intermediate of its chain may not sign: its key usage lacks keyCertSign; correct the issuer's certificate profile"
    )]
    IntermediateMayNotSign,
    /// An intermediate of a long chain that is over, or has not begun.
    #[error(
        "the intermediate {subject:?} of its chain is expired or not yet valid; renew the issuer's own certificate"
    )]
    IntermediateNotValid {
        /// What it calls itself.
        subject: String,
    },
}

impl SvidError {
    /// When this ceases to be wrong though nobody sends anything.
    pub(super) fn heals_at(&self) -> Option<SystemTime> {
        if let Self::NotYetValid { not_before } = self { not_before.checked_sub(NOT_BEFORE_TOLERANCE) } else { None }
    }
}

/// The SPIFFE ID that a message gives an SVID.
pub(super) fn spiffe_id(name: &str, limits: &Limits) -> Result<SpiffeId, SvidError> {
    if name.len() > limits.spiffe_id_bytes {
        return Err(SvidError::SpiffeIdTooLong { bytes: name.len(), limit: limits.spiffe_id_bytes });
    }
    SpiffeId::new(name).map_err(SvidError::SpiffeId)
}

/// Checks and takes over one SVID. `bundle` is that of its own trust domain.
///
/// The private key is copied out of the message once, into memory that is wiped.
pub(super) fn decode(
    wire: &proto::X509svid,
    id: &SpiffeId,
    bundle: &TrustBundle,
    limits: &Limits,
    now: SystemTime,
) -> Result<Svid, SvidError> {
    if id.path().is_empty() {
        return Err(SvidError::NoPath);
    }
    if wire.hint.len() > limits.hint_bytes {
        return Err(SvidError::HintTooLong { bytes: wire.hint.len(), limit: limits.hint_bytes });
    }
    let mut parts = Vec::new();
    for (index, next) in certificates(&wire.x509_svid).enumerate() {
        if index >= limits.chain_length {
            return Err(SvidError::ChainTooLong { limit: limits.chain_length });
        }
        parts.push(next.map_err(|Malformed| SvidError::Malformed { index })?);
    }
    let (leaf_der, leaf) = parts.first().ok_or(SvidError::NoCertificate)?;
    check_profile(leaf, id)?;
    check_key(&wire.x509_svid_key, leaf)?;
    let validity = Validity {
        not_before: system_time(leaf.validity().not_before),
        not_after: system_time(leaf.validity().not_after),
    };
    check_time(validity, now)?;

    // Peers hold the root themselves; a root that an issuer appends is dead weight on every handshake.
    let is_root = |certificate: &Certificate, parsed: &X509Certificate<'_>| {
        parsed.subject() == parsed.issuer() && bundle.authorities().contains(certificate)
    };
    let intermediates = parts.iter().skip(1).map(|(der, parsed)| (Certificate::from_der(der), parsed));
    let chain = CertificateChain::new(
        Certificate::from_der(leaf_der),
        intermediates.filter(|(der, parsed)| !is_root(der, parsed)).map(|(der, _)| der).collect(),
    );
    path::verify(&chain, bundle, now.max(validity.not_before))?;

    let key = PrivateKey::from_pkcs8_der(Zeroizing::new(wire.x509_svid_key.to_vec()));
    Ok(Svid { id: id.clone(), chain, key, hint: Hint::new(&wire.hint), validity })
}

/// What the certificate must say about itself.
fn check_profile(leaf: &X509Certificate<'_>, id: &SpiffeId) -> Result<(), SvidError> {
    if leaf.version() != X509Version::V3 {
        return Err(SvidError::NotVersion3);
    }
    let malformed = |_| SvidError::Malformed { index: 0 };
    let names = leaf.subject_alternative_name().map_err(malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(SvidError::UriNames { count: uris.len() });
    };
    // By the letter: Envoy compares it so, and upper case in it is none of ours.
    if *uri != id.to_string() {
        return Err(SvidError::OtherIdentity { found: super::shortened(uri) });
    }
    if leaf.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(SvidError::MaySign);
    }
    let usage = leaf.key_usage().map_err(malformed)?.ok_or(SvidError::KeyUsage)?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(SvidError::MaySign);
    }
    if !usage.critical || !usage.value.digital_signature() {
        return Err(SvidError::KeyUsage);
    }
    match leaf.extended_key_usage().map_err(malformed)? {
        Some(usage) if !usage.value.server_auth || !usage.value.client_auth => Err(SvidError::ExtendedKeyUsage),
        _ => Ok(()),
    }
}

pub(super) fn check_key(pkcs8: &[u8], leaf: &X509Certificate<'_>) -> Result<(), SvidError> {
    let public_key = leaf.public_key();
    if let Ok(PublicKey::RSA(rsa)) = public_key.parsed()
        && rsa.key_size() < RSA_BITS
    {
        return Err(SvidError::WeakKey { bits: rsa.key_size() });
    }
    match key::matches(pkcs8, &public_key.subject_public_key.data) {
        Match::Yes => Ok(()),
        Match::No => Err(SvidError::KeyMismatch),
        Match::Unusable => Err(SvidError::UnusableKey),
    }
}

pub(super) fn check_time(validity: Validity, now: SystemTime) -> Result<(), SvidError> {
    if validity.is_expired(now) {
        return Err(SvidError::Expired { not_after: validity.not_after });
    }
    // A sum beyond what the clock can say is later than every beginning.
    match now.checked_add(NOT_BEFORE_TOLERANCE) {
        Some(latest) if validity.is_future(latest) => Err(SvidError::NotYetValid { not_before: validity.not_before }),
        _ => Ok(()),
    }
}

/// Between 1970 and 9999, so that every formatter takes it.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0).min(LAST_SECOND);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn at(time: SystemTime) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(time)
}
