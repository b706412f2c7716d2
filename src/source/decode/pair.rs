//! A certificate and its key that are no SVID: any names, any authority. Only what would make them useless is checked.

use std::time::SystemTime;

use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{
    Limits, SvidError,
    svid::{check_key, check_time, system_time},
};
use crate::identity::{Certificate, CertificateChain, Validity};

/// Checks that every certificate is one, that the PKCS#8 key is that of the first, and that its life goes on at `now`.
///
/// # Errors
/// The first rule that is broken.
pub(in crate::source) fn check(
    chain: &[Vec<u8>],
    key: &[u8],
    limits: &Limits,
    now: SystemTime,
) -> Result<(CertificateChain, Validity), SvidError> {
    if chain.len() > limits.chain_length {
        return Err(SvidError::ChainTooLong { limit: limits.chain_length });
    }
    let (first, rest) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    let leaf = parse(first).ok_or(SvidError::Malformed { index: 0 })?;
    if let Some(at) = rest.iter().position(|der| parse(der).is_none()) {
        return Err(SvidError::Malformed { index: at + 1 });
    }
    check_key(key, &leaf)?;
    let validity = Validity {
        not_before: system_time(leaf.validity().not_before),
        not_after: system_time(leaf.validity().not_after),
    };
    check_time(validity, now)?;
    let rest = rest.iter().map(|der| Certificate::from_der(der)).collect();
    Ok((CertificateChain::new(Certificate::from_der(first), rest), validity))
}

/// The certificate that is all of `der`.
pub(in crate::source) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}
