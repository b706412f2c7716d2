//! Whether a trust domain's bundle vouches for a chain.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{long_path, svid::SvidError};
use crate::identity::{CertificateChain, TrustBundle};

/// Intermediates from which on the library may give up for the length alone.
const LONG: usize = 6;

/// Follows signatures from the leaf to an authority of `bundle` as RFC 5280 demands: names, signatures, validity,
/// basic constraints and path lengths, and key usage, which Envoy looks at and the library does not.
///
/// The library follows six intermediates, Envoy a hundred: longer chains are followed by `decode/long_path.rs`.
///
/// Constraints on names in URIs are left to the peers: the library refuses every URI under such a constraint without
/// comparing it, and refusing our own identity for that would take a working one out of service.
pub(super) fn verify(chain: &CertificateChain, bundle: &TrustBundle, now: SystemTime) -> Result<(), SvidError> {
    let not_a_signer = Cell::new(false);
    match short(chain, bundle, now, &not_a_signer) {
        Ok(()) => Ok(()),
        Err(Error::NameConstraintViolation) if chain.iter().skip(1).all(|it| may_sign(it.der())) => Ok(()),
        Err(_) if chain.iter().count() > LONG => long_path::verify(chain, bundle, now),
        Err(_) if not_a_signer.get() => Err(SvidError::IntermediateMayNotSign),
        Err(error) => Err(SvidError::Untrusted(error)),
    }
}

fn short(
    chain: &CertificateChain,
    bundle: &TrustBundle,
    now: SystemTime,
    not_a_signer: &Cell<bool>,
) -> Result<(), Error> {
    let authorities: Vec<_> = bundle.authorities().iter().map(|authority| borrowed(authority.der())).collect();
    // An authority that this library cannot read cannot help; another one may.
    let anchors: Vec<_> = authorities.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
    let intermediates: Vec<_> = chain.iter().skip(1).map(|certificate| borrowed(certificate.der())).collect();
    let leaf = borrowed(chain.leaf().der());
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let leaf = EndEntityCert::try_from(&leaf)?;
    // Another path may do without the one that may not sign, so the search goes on.
    let signers = |path: &VerifiedPath<'_>| {
        if path.intermediate_certificates().all(|certificate| may_sign(&certificate.der())) {
            return Ok(());
        }
        not_a_signer.set(true);
        Err(Error::EndEntityUsedAsCa)
    };
    let time = UnixTime::since_unix_epoch(since_epoch);
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    let purpose = KeyUsage::client_auth();
    leaf.verify_for_usage(algorithms, &anchors, &intermediates, time, purpose, None, Some(&signers)).map(|_| ())
}

/// Without a word about its use it may be used for everything (RFC 5280, section 4.2.1.3).
fn may_sign(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| signs(&certificate))
}

pub(super) fn signs(certificate: &X509Certificate<'_>) -> bool {
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
}

fn borrowed(der: &[u8]) -> CertificateDer<'_> {
    CertificateDer::from(der)
}
