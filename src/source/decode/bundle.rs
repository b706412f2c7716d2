//! Trust bundles: concatenated DER certificates that may sign others.

use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::Limits;
use crate::identity::{Certificate, TrustDomain};

/// Which rule a trust bundle breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The SVID's own bundle is mandatory (Workload API, section 5.2).
    #[error("it is empty; the issuer must send the authorities of the workload's own trust domain")]
    Empty,
    /// More than [`Limits::bundle_bytes`].
    #[error("it has {bytes} bytes of certificates, more than the {limit} allowed; prune old authorities at the issuer")]
    TooLarge {
        /// Size of the bundle.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not DER, or something after it.
    #[error("certificate {index} in it is not valid DER; correct the bundle at its issuer")]
    Malformed {
        /// Position in the bundle, from 0.
        index: usize,
    },
    /// A certificate that may not sign (X.509-SVID, section 5).
    #[error("certificate {index} in it is no certificate authority; put only the trust domain's authorities into it")]
    NotAnAuthority {
        /// Position in the bundle, from 0.
        index: usize,
    },
}

/// The trust domain that a bundle map's key denotes: `spiffe://td`, or `td` alone, which some issuers send.
pub(super) fn trust_domain(name: &str) -> Option<TrustDomain> {
    // `TrustDomain::new` would take any SPIFFE ID and drop its path.
    let bare = name.strip_prefix("spiffe://").unwrap_or(name);
    if bare.contains('/') { None } else { TrustDomain::new(bare).ok() }
}

/// The authorities of the SVID's own trust domain: at least one.
pub(super) fn own_authorities(der: &[u8], limits: &Limits) -> Result<Vec<Certificate>, BundleError> {
    if der.is_empty() { Err(BundleError::Empty) } else { authorities(der, limits) }
}

/// The authorities of any trust domain. None is a statement too: trust nobody there with X.509 (X.509-SVID, section 6).
///
/// Expired ones stay: issuers keep them for a while, and they can vouch for nothing that is still valid.
pub(super) fn authorities(der: &[u8], limits: &Limits) -> Result<Vec<Certificate>, BundleError> {
    if der.len() > limits.bundle_bytes {
        return Err(BundleError::TooLarge { bytes: der.len(), limit: limits.bundle_bytes });
    }
    let mut authorities = Vec::new();
    for (index, next) in certificates(der).enumerate() {
        let (der, certificate) = next.map_err(|Malformed| BundleError::Malformed { index })?;
        let may_sign = match certificate.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => return Err(BundleError::Malformed { index }),
        };
        if !certificate.is_ca() || !may_sign {
            return Err(BundleError::NotAnAuthority { index });
        }
        authorities.push(Certificate::from_der(der));
    }
    Ok(authorities)
}

/// What stands where the next certificate should.
pub(super) struct Malformed;

/// Splits concatenated DER certificates; ends after the first that is malformed.
pub(super) fn certificates(mut der: &[u8]) -> impl Iterator<Item = Result<(&[u8], X509Certificate<'_>), Malformed>> {
    std::iter::from_fn(move || {
        if der.is_empty() {
            return None;
        }
        let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
            der = &[];
            return Some(Err(Malformed));
        };
        let one = der.get(..der.len().saturating_sub(rest.len())).unwrap_or_default();
        der = rest;
        Some(Ok((one, certificate)))
    })
}
