//! What a Workload API says, checked and turned into an [`IdentitySnapshot`]: all of it or nothing.
//!
//! Pure and synchronous; the current time is a parameter. One bad item refuses the whole message, because a message is
//! a complete state and a state with a hole in it would silently take something away (Workload API, 4.3 to 4.5).
//! The rules for each part are in `decode/svid.rs`, `decode/bundle.rs` and `decode/path.rs`.

mod bundle;
pub mod jwt;
mod key;
pub(super) mod pair;
mod path;
mod svid;
#[cfg(test)]
mod tests;

pub use bundle::BundleError;
pub use svid::{NOT_BEFORE_TOLERANCE, SvidError};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use prost::Message as _;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::{
    identity::{Certificate, IdentitySnapshot, SpiffeId, TrustBundle, TrustDomain},
    workload_api_proto as proto,
};

/// How much of each thing one message may hold. More is refused before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// X.509-SVIDs in a message.
    pub svids: usize,
    /// Trust domains in a message, federated ones included.
    pub bundles: usize,
    /// Certificate revocation lists in a message.
    pub crls: usize,
    /// Bytes of DER in one trust bundle.
    pub bundle_bytes: usize,
    /// Certificates in one chain, the leaf included.
    pub chain_length: usize,
    /// Bytes of one SPIFFE ID (SPIFFE ID, section 2.3).
    pub spiffe_id_bytes: usize,
    /// Bytes of one hint (Workload API, section 5.2).
    pub hint_bytes: usize,
    /// Bytes of a whole message. The transport refuses a larger one before it is decoded.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            svids: 100,
            bundles: 200,
            crls: 200,
            bundle_bytes: 4 << 20,
            chain_length: 16,
            spiffe_id_bytes: 2048,
            hint_bytes: 1024,
            message_bytes: 16 << 20,
        }
    }
}

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Entitled to nothing: the same as the status `PERMISSION_DENIED`.
    #[error("the source issued no identity to this workload; register it with the issuer")]
    NoIdentity,
    /// No bundle where the specification demands one.
    #[error("the source sent no trust bundle at all; check the issuer's bundle configuration")]
    NoBundles,
    /// Not the message that it should be.
    #[error("the message is no {expected}; is this a SPIFFE Workload API?")]
    NotAMessage {
        /// The protobuf message that was expected.
        expected: &'static str,
        /// Where decoding failed.
        source: prost::DecodeError,
    },
    /// Larger than [`Limits::message_bytes`].
    #[error(
        "the message has {bytes} bytes, more than the {limit} allowed; reduce the identities or bundles of this workload"
    )]
    TooLarge {
        /// Size of the message.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More than [`Limits::svids`].
    #[error("the message holds {count} SVIDs, more than the {limit} allowed; narrow this workload's registrations")]
    TooManySvids {
        /// SVIDs in the message.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More than [`Limits::bundles`].
    #[error(
        "the message holds {count} trust bundles, more than the {limit} allowed; federate this workload with fewer"
    )]
    TooManyBundles {
        /// Bundles in the message.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More than [`Limits::crls`].
    #[error("the message holds {count} revocation lists, more than the {limit} allowed")]
    TooManyCrls {
        /// Lists in the message.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Longer than [`Limits::spiffe_id_bytes`].
    #[error("the SPIFFE ID of SVID {index} has {bytes} bytes, more than the {limit} allowed; shorten its path")]
    SpiffeIdTooLong {
        /// Position in the message, from 0.
        index: usize,
        /// Length of the ID.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not a SPIFFE ID.
    #[error("SVID {index} is named {name:?}, which is no SPIFFE ID; correct its registration")]
    SpiffeId {
        /// Position in the message, from 0.
        index: usize,
        /// The name as it came, shortened.
        name: String,
        /// The rule it breaks.
        source: spiffe::SpiffeIdError,
    },
    /// One SVID breaks a rule.
    #[error("the SVID of {spiffe_id} cannot be used")]
    Svid {
        /// Whose SVID.
        spiffe_id: SpiffeId,
        /// The rule it breaks.
        source: SvidError,
    },
    /// Not the ID of a trust domain.
    #[error("a trust bundle is keyed {name:?}, which is no trust domain ID; it must look like spiffe://example.org")]
    TrustDomain {
        /// The key as it came, shortened.
        name: String,
    },
    /// Two keys that mean the same trust domain.
    #[error("the message holds two trust bundles for {trust_domain}; the issuer must send one")]
    DuplicateBundle {
        /// The domain that two bundles claim.
        trust_domain: TrustDomain,
    },
    /// One bundle breaks a rule.
    #[error("the trust bundle of {trust_domain} cannot be used")]
    Bundle {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The rule it breaks.
        source: BundleError,
    },
    /// Not an ASN.1 DER certificate revocation list.
    #[error("revocation list {index} is no DER-encoded CRL; correct it at the issuer")]
    Crl {
        /// Position in the message, from 0.
        index: usize,
    },
}

/// The state that an encoded `X509SVIDResponse` describes; what `FetchX509SVID` streams.
///
/// # Errors
/// The first rule that something in the message breaks; [`DecodeError::NoIdentity`] for one without SVIDs.
pub fn svids(message: &[u8], limits: &Limits, now: SystemTime) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.len(), limits)?;
    let message = proto::X509svidResponse::decode(message)
        .map_err(|source| DecodeError::NotAMessage { expected: "X509SVIDResponse", source })?;
    svid_response(&message, limits, now)
}

/// The state that an encoded `X509BundlesResponse` describes; what `FetchX509Bundles` streams.
///
/// The workload's own trust domain is `trust_domain`, else that of the only bundle, else unknown.
///
/// # Errors
/// The first rule that something in the message breaks.
pub fn bundles(
    message: &[u8],
    trust_domain: Option<&TrustDomain>,
    limits: &Limits,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.len(), limits)?;
    let message = proto::X509BundlesResponse::decode(message)
        .map_err(|source| DecodeError::NotAMessage { expected: "X509BundlesResponse", source })?;
    bundles_response(&message, trust_domain, limits)
}

pub(crate) fn svid_response(
    message: &proto::X509svidResponse,
    limits: &Limits,
    now: SystemTime,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.encoded_len(), limits)?;
    let count = message.svids.len();
    match count {
        0 => return Err(DecodeError::NoIdentity),
        _ if count > limits.svids => return Err(DecodeError::TooManySvids { count, limit: limits.svids }),
        _ => {}
    }
    let crls = crls(&message.crl, limits)?;
    let federated = bundle_map(&message.federated_bundles, limits)?;

    let mut own: BTreeMap<TrustDomain, TrustBundle> = BTreeMap::new();
    let mut hints = BTreeSet::new();
    let mut svids = Vec::with_capacity(count);
    for (index, wire) in message.svids.iter().enumerate() {
        let id = spiffe_id(index, &wire.spiffe_id, limits)?;
        let authorities = bundle::own_authorities(&wire.bundle, limits)
            .map_err(|source| DecodeError::Bundle { trust_domain: id.trust_domain().clone(), source })?;
        let bundle = TrustBundle::new(id.trust_domain().clone(), authorities);
        let mut svid = svid::decode(wire, &id, &bundle, limits, now)
            .map_err(|source| DecodeError::Svid { spiffe_id: id.clone(), source })?;
        // A hint is unique in a message; of several equal ones the first counts (Workload API, section 5.2).
        svid.hint = svid.hint.filter(|hint| hints.insert(hint.clone()));
        svids.push(Arc::new(svid));
        let all = own.get(id.trust_domain()).map_or_else(|| bundle.clone(), |known| known.union(&bundle));
        own.insert(id.trust_domain().clone(), all);
    }

    // What the SVIDs themselves say about their own trust domain wins over a federated entry of that name.
    let bundles: BTreeMap<_, _> =
        federated.into_iter().chain(own).map(|(domain, bundle)| (domain, Arc::new(bundle))).collect();
    if bundles.len() > limits.bundles {
        return Err(DecodeError::TooManyBundles { count: bundles.len(), limit: limits.bundles });
    }
    let trust_domain = svids.first().map(|svid| svid.id.trust_domain().clone());
    Ok(IdentitySnapshot { svids, bundles, trust_domain, crls, refusals: Vec::new() })
}

pub(crate) fn bundles_response(
    message: &proto::X509BundlesResponse,
    trust_domain: Option<&TrustDomain>,
    limits: &Limits,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.encoded_len(), limits)?;
    let crls = crls(&message.crl, limits)?;
    let bundles: BTreeMap<_, _> =
        bundle_map(&message.bundles, limits)?.into_iter().map(|(domain, bundle)| (domain, Arc::new(bundle))).collect();
    let only = if bundles.len() == 1 { bundles.keys().next() } else { None };
    let trust_domain = trust_domain.or(only).cloned();
    if bundles.is_empty() {
        return Err(DecodeError::NoBundles);
    }
    Ok(IdentitySnapshot { svids: Vec::new(), bundles, trust_domain, crls, refusals: Vec::new() })
}

/// The serial number of a certificate as Envoy prints it: lower-case hexadecimal without a leading zero
/// byte. Empty for what is no certificate.
#[must_use]
pub fn serial(certificate: &Certificate) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate.der()) else { return String::new() };
    let bytes = certificate.raw_serial();
    let bytes = bytes.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_size(bytes: usize, limits: &Limits) -> Result<(), DecodeError> {
    let limit = limits.message_bytes;
    if bytes > limit { Err(DecodeError::TooLarge { bytes, limit }) } else { Ok(()) }
}

fn spiffe_id(index: usize, name: &str, limits: &Limits) -> Result<SpiffeId, DecodeError> {
    if name.len() > limits.spiffe_id_bytes {
        return Err(DecodeError::SpiffeIdTooLong { index, bytes: name.len(), limit: limits.spiffe_id_bytes });
    }
    SpiffeId::new(name).map_err(|source| DecodeError::SpiffeId { index, name: shortened(name), source })
}

fn bundle_map<'a>(
    wire: impl IntoIterator<Item = (&'a String, &'a Bytes), IntoIter: ExactSizeIterator>,
    limits: &Limits,
) -> Result<BTreeMap<TrustDomain, TrustBundle>, DecodeError> {
    let wire = wire.into_iter();
    let count = wire.len();
    if count > limits.bundles {
        return Err(DecodeError::TooManyBundles { count, limit: limits.bundles });
    }
    let mut bundles = BTreeMap::new();
    for (name, der) in wire {
        let trust_domain =
            bundle::trust_domain(name).ok_or_else(|| DecodeError::TrustDomain { name: shortened(name) })?;
        let authorities = bundle::authorities(der, limits)
            .map_err(|source| DecodeError::Bundle { trust_domain: trust_domain.clone(), source })?;
        let bundle = TrustBundle::new(trust_domain.clone(), authorities);
        if bundles.insert(trust_domain.clone(), bundle).is_some() {
            return Err(DecodeError::DuplicateBundle { trust_domain });
        }
    }
    Ok(bundles)
}

fn crls(wire: &[Bytes], limits: &Limits) -> Result<Vec<Arc<[u8]>>, DecodeError> {
    if wire.len() > limits.crls {
        return Err(DecodeError::TooManyCrls { count: wire.len(), limit: limits.crls });
    }
    wire.iter()
        .enumerate()
        .map(|(index, der)| match CertificateRevocationList::from_der(der) {
            Ok(([], _)) => Ok(Arc::from(&der[..])),
            _ => Err(DecodeError::Crl { index }),
        })
        .collect()
}

/// Names come from the wire and go into logs: bounded, and `{:?}` escapes the rest.
fn shortened(name: &str) -> String {
    name.chars().take(128).collect()
}
