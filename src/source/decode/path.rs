//! Whether a trust domain's bundle vouches for a chain.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::identity::{CertificateChain, TrustBundle};

/// Follows signatures from the leaf to an authority of `bundle` as RFC 5280 demands: names, signatures, validity,
/// basic constraints and path lengths.
///
/// Constraints on names in URIs are left to the peers: the library refuses every URI under such a constraint without
/// comparing it, and refusing our own identity for that would take a working one out of service.
pub(super) fn verify(chain: &CertificateChain, bundle: &TrustBundle, now: SystemTime) -> Result<(), webpki::Error> {
    let authorities: Vec<_> = bundle.authorities().iter().map(|authority| borrowed(authority.der())).collect();
    // An authority that this library cannot read cannot help; another one may.
    let anchors: Vec<_> = authorities.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
    let intermediates: Vec<_> = chain.iter().skip(1).map(|certificate| borrowed(certificate.der())).collect();
    let leaf = borrowed(chain.leaf().der());
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let leaf = EndEntityCert::try_from(&leaf)?;
    let verified = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &intermediates,
        UnixTime::since_unix_epoch(since_epoch),
        KeyUsage::client_auth(),
        None,
        None,
    );
    match verified {
        Ok(_) | Err(webpki::Error::NameConstraintViolation) => Ok(()),
        Err(error) => Err(error),
    }
}

fn borrowed(der: &[u8]) -> CertificateDer<'_> {
    CertificateDer::from(der)
}
