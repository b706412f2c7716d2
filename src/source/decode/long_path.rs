//! Chains with more intermediates than the library follows: the same rules, link by link.
//!
//! The search goes from the leaf up. At each step the authorities that carry the issuer's name are tried, then the
//! intermediates that do. Signatures are verified with the library's own algorithms.

use std::time::SystemTime;

use webpki::Error;
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer as _};

use super::{
    der,
    path::signs,
    svid::{SvidError, system_time},
};
use crate::identity::{CertificateChain, TrustBundle, Validity};

/// Signatures that are verified for one chain. Authorities that carry one name must not cost more than that.
const SIGNATURES: usize = 200;

/// Whether `bundle` vouches for a chain of any length.
pub(super) fn verify(chain: &CertificateChain, bundle: &TrustBundle, now: SystemTime) -> Result<(), SvidError> {
    let parsed = |der| Link::parse(der);
    let untrusted = SvidError::Untrusted;
    let leaf = parsed(chain.leaf().der()).ok_or(untrusted(Error::BadDer))?;
    let mut search = Search {
        anchors: bundle.authorities().iter().filter_map(|authority| parsed(authority.der())).collect(),
        intermediates: chain.iter().skip(1).filter_map(|certificate| parsed(certificate.der())).map(Some).collect(),
        now,
        signatures: SIGNATURES,
        // What is said if nothing better is found.
        error: untrusted(Error::UnknownIssuer),
    };
    if !known_extensions(&leaf.certificate) {
        return Err(untrusted(Error::UnsupportedCriticalExtension));
    }
    if search.reaches_anchor(&leaf, 0) { Ok(()) } else { Err(search.error) }
}

/// A certificate with its bytes, which signatures are over.
#[derive(Clone)]
struct Link<'a> {
    der: &'a [u8],
    certificate: X509Certificate<'a>,
}

struct Search<'a> {
    anchors: Vec<Link<'a>>,
    /// Those that are not a part of the path yet.
    intermediates: Vec<Option<Link<'a>>>,
    now: SystemTime,
    signatures: usize,
    error: SvidError,
}

impl<'a> Search<'a> {
    /// `below` is the number of intermediates from the leaf to `link`, it included.
    fn reaches_anchor(&mut self, link: &Link<'a>, below: usize) -> bool {
        let anchors = self.anchors.clone();
        if anchors.iter().any(|anchor| self.signed(link, anchor)) {
            return true;
        }
        for place in 0..self.intermediates.len() {
            let Some(next) = self.intermediates.get_mut(place).and_then(Option::take) else { continue };
            let found = next.certificate.subject().as_raw() == link.certificate.issuer().as_raw()
                && self.is_good(&next, below)
                && self.signed(link, &next)
                && self.reaches_anchor(&next, below + 1);
            if found {
                return true;
            }
            if let Some(taken) = self.intermediates.get_mut(place) {
                *taken = Some(next);
            }
        }
        false
    }

    /// Whether an intermediate may sign what has `below` intermediates under it; if not, that is what is said.
    fn is_good(&mut self, link: &Link<'_>, below: usize) -> bool {
        match check(&link.certificate, below, self.now) {
            Ok(()) => true,
            Err(error) => {
                self.error = error;
                false
            }
        }
    }

    fn signed(&mut self, link: &Link<'_>, issuer: &Link<'_>) -> bool {
        if issuer.certificate.subject().as_raw() != link.certificate.issuer().as_raw() {
            return false;
        }
        let Some(left) = self.signatures.checked_sub(1) else {
            self.error = SvidError::Untrusted(Error::MaximumSignatureChecksExceeded);
            return false;
        };
        self.signatures = left;
        let good = link.is_signed_by(issuer).unwrap_or(false);
        if !good {
            self.error = SvidError::Untrusted(Error::InvalidSignatureForPublicKey);
        }
        good
    }
}

impl<'a> Link<'a> {
    fn parse(der: &'a [u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self { der, certificate })
    }

    /// `None` for what cannot be taken apart.
    fn is_signed_by(&self, issuer: &Self) -> Option<bool> {
        let (content, _) = der::element(self.der)?;
        let (signed, rest) = der::whole(content)?;
        let (algorithm, _) = der::element(rest)?;
        let key = issuer.certificate.public_key();
        let (key_algorithm, _) = der::element(der::element(key.raw)?.0)?;
        let signature = &self.certificate.signature_value.data;
        let same = self.certificate.tbs_certificate.signature == self.certificate.signature_algorithm;
        let mut fitting = webpki::ALL_VERIFICATION_ALGS.iter().filter(|it| {
            it.signature_alg_id().as_ref() == algorithm && it.public_key_alg_id().as_ref() == key_algorithm
        });
        Some(same && fitting.any(|it| it.verify_signature(&key.subject_public_key.data, signed, signature).is_ok()))
    }
}

fn check(certificate: &X509Certificate<'_>, below: usize, now: SystemTime) -> Result<(), SvidError> {
    let (not_before, not_after) = (certificate.validity().not_before, certificate.validity().not_after);
    let life = Validity { not_before: system_time(not_before), not_after: system_time(not_after) };
    if life.is_expired(now) || life.is_future(now) {
        return Err(SvidError::IntermediateNotValid { subject: super::shortened(&certificate.subject().to_string()) });
    }
    if !known_extensions(certificate) {
        return Err(SvidError::Untrusted(Error::UnsupportedCriticalExtension));
    }
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    let Some(constraints) = constraints.filter(|constraints| constraints.ca) else {
        return Err(SvidError::Untrusted(Error::EndEntityUsedAsCa));
    };
    if constraints.path_len_constraint.is_some_and(|most| usize::try_from(most).is_ok_and(|most| below > most)) {
        return Err(SvidError::Untrusted(Error::PathLenConstraintViolated));
    }
    if !signs(certificate) {
        return Err(SvidError::IntermediateMayNotSign);
    }
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.client_auth || usage.value.any => Ok(()),
        _ => Err(SvidError::Untrusted(Error::ExtensionValueInvalid)),
    }
}

/// Whether everything that must be understood is.
fn known_extensions(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().filter(|extension| extension.critical).all(|extension| {
        matches!(
            extension.parsed_extension(),
            ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_)
                // Left to the peers, as everywhere.
                | ParsedExtension::NameConstraints(_)
        )
    })
}
