//! Trust bundles: concatenated DER certificates that may sign others.

use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{Limits, der};
use crate::identity::{Certificate, TrustDomain};

/// Which rule a trust bundle breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The SVID's own bundle is mandatory (Workload API, section 5.2).
    #[error("it is empty; the issuer must send the authorities of the workload's own trust domain")]
    Empty,
    /// More than [`Limits::bundle_bytes`].
    #[error(
        "it has {bytes} bytes of certificates, more than the {limit} allowed; prune old authorities at the issuer, or raise \
         limits.source.bundle_bytes"
    )]
    TooLarge {
        /// Size of the bundle.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not a certificate, or something after it.
    #[error("certificate {number} in it is not valid DER; correct the bundle at its issuer")]
    Malformed {
        /// Position in the bundle, from 1.
        number: usize,
    },
    /// Not even something whose end could be found.
    #[error(
        "its last {bytes} bytes, from certificate {number} on, are not DER and cannot be read; correct the bundle at its issuer"
    )]
    Rest {
        /// Position in the bundle, from 1.
        number: usize,
        /// How much cannot be read.
        bytes: usize,
    },
    /// A certificate that may not sign (X.509-SVID, section 5).
    #[error("certificate {number} in it is no certificate authority; put only the trust domain's authorities into it")]
    NotAnAuthority {
        /// Position in the bundle, from 1.
        number: usize,
    },
}

/// What a bundle holds.
#[derive(Debug, Default)]
pub(super) struct Authorities {
    pub(super) good: Vec<Certificate>,
    /// What is left out: what it calls itself, or its place, and the rule that it breaks.
    pub(super) bad: Vec<(String, BundleError)>,
}

/// The trust domain that a bundle map's key denotes: `spiffe://td`, or `td` alone, which some issuers send.
pub(super) fn trust_domain(name: &str) -> Option<TrustDomain> {
    // `TrustDomain::new` would take any SPIFFE ID and drop its path.
    let bare = name.strip_prefix("spiffe://").unwrap_or(name);
    if bare.contains('/') { None } else { TrustDomain::new(bare).ok() }
}

/// The authorities of the SVID's own trust domain: at least one that is good.
pub(super) fn own_authorities(der: &[u8], limits: &Limits) -> Result<Authorities, BundleError> {
    if der.is_empty() { Err(BundleError::Empty) } else { authorities(der, limits) }
}

/// The authorities of any trust domain. None is a statement too: trust nobody there with X.509 (X.509-SVID, section 6).
/// What is no authority is left out, and the others count; where nothing else is there, the bundle is refused.
///
/// Expired ones stay: issuers keep them for a while, and they can vouch for nothing that is still valid.
pub(super) fn authorities(bundle: &[u8], limits: &Limits) -> Result<Authorities, BundleError> {
    if bundle.len() > limits.bundle_bytes {
        return Err(BundleError::TooLarge { bytes: bundle.len(), limit: limits.bundle_bytes });
    }
    let mut all = Authorities::default();
    let mut rest = bundle;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        if let Ok((after, certificate)) = X509Certificate::from_der(rest) {
            let one = rest.get(..rest.len().saturating_sub(after.len())).unwrap_or_default();
            match check(&certificate, number) {
                Ok(()) => all.good.push(Certificate::from_der(one)),
                Err(error) => all.bad.push((described(&certificate), error)),
            }
            rest = after;
        } else if let Some((_, after)) = der::element(rest) {
            all.bad.push((format!("number {number}"), BundleError::Malformed { number }));
            rest = after;
        } else {
            all.bad.push((format!("number {number}"), BundleError::Rest { number, bytes: rest.len() }));
            break;
        }
    }
    match all.bad.first() {
        Some((_, error)) if all.good.is_empty() => Err(error.clone()),
        _ => Ok(all),
    }
}

fn check(certificate: &X509Certificate<'_>, number: usize) -> Result<(), BundleError> {
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => return Err(BundleError::Malformed { number }),
    };
    if certificate.is_ca() && may_sign { Ok(()) } else { Err(BundleError::NotAnAuthority { number }) }
}

/// What a certificate calls itself.
fn described(certificate: &X509Certificate<'_>) -> String {
    format!("{} (serial {})", certificate.subject(), super::hexadecimal(certificate.raw_serial()))
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
