//! What a Workload API says, checked and turned into an [`IdentitySnapshot`]: item by item.
//!
//! Pure and synchronous; the current time is a parameter. What breaks a rule is left out and becomes a [`Refusal`], which
//! is told, and everything beside it is taken (docs/adr/0018). A message is refused as a whole only if it is none, or if no
//! SVID of it is any good; the supervisor keeps what was good before. The rules for each part are in `decode/svid.rs`,
//! `decode/bundle.rs` and `decode/path.rs`, what is left out of too much in `decode/surplus.rs`.

mod bundle;
pub(super) mod der;
mod federated;
#[cfg(test)]
pub(super) mod fixture;
pub mod jwt;
mod key;
mod long_path;
pub(super) mod pair;
mod path;
mod surplus;
mod svid;
#[cfg(test)]
mod tests;

pub use bundle::BundleError;
pub(crate) use surplus::Precedence;
pub use svid::{NOT_BEFORE_TOLERANCE, SvidError};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use prost::Message as _;
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::{
    identity::{Certificate, IdentitySnapshot, Refusal, RefusedItem, Svid, TrustBundle, TrustDomain},
    telemetry::logs::chain,
    workload_api_proto as proto,
};

/// How much of each thing one message may hold. What is more is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// X.509-SVIDs in a message.
    pub svids: usize,
    /// Trust domains in a message, federated ones included.
    pub bundles: usize,
    /// Certificate revocation lists in a message.
    pub crls: usize,
    /// Bytes of DER in one trust bundle; a larger one is left out.
    pub bundle_bytes: usize,
    /// Certificates in one chain, the leaf included; an SVID with a longer one is left out.
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
            svids: 1000,
            bundles: 1000,
            crls: 1000,
            bundle_bytes: 4 << 20,
            chain_length: 32,
            spiffe_id_bytes: 2048,
            hint_bytes: 1024,
            message_bytes: 64 << 20,
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
        "the message has {bytes} bytes, more than the {limit} allowed; raise limits.source.message_bytes, or reduce the \
         identities or bundles of this workload"
    )]
    TooLarge {
        /// Size of the message.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Nothing of what it is about is any good.
    #[error("none of the {count} {what} in it can be used: {reasons}")]
    NoneUsable {
        /// How many there are.
        count: usize,
        /// SVIDs or trust bundles.
        what: &'static str,
        /// Why, of the first few.
        reasons: String,
    },
}

impl DecodeError {
    fn none_usable(what: &'static str, count: usize, refusals: &[Refusal]) -> Self {
        let mut reasons: Vec<_> = refusals.iter().take(REASONS).map(ToString::to_string).collect();
        if refusals.len() > REASONS {
            reasons.push(format!("and {} more", refusals.len() - REASONS));
        }
        Self::NoneUsable { count, what, reasons: reasons.join("; ") }
    }
}

/// How many reasons an error lists.
const REASONS: usize = 5;

/// The state that an encoded `X509SVIDResponse` describes; what `FetchX509SVID` streams.
///
/// # Errors
/// It is no such message, too large, or no SVID in it can be used; [`DecodeError::NoIdentity`] for one without SVIDs.
pub fn svids(message: &[u8], limits: &Limits, now: SystemTime) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.len(), limits)?;
    let message = proto::X509svidResponse::decode(message)
        .map_err(|source| DecodeError::NotAMessage { expected: "X509SVIDResponse", source })?;
    svid_response(&message, limits, &Precedence::default(), now)
}

/// The state that an encoded `X509BundlesResponse` describes; what `FetchX509Bundles` streams.
///
/// The workload's own trust domain is `trust_domain`, else that of the only bundle, else unknown.
///
/// # Errors
/// It is no such message, too large, or no bundle in it can be used.
pub fn bundles(
    message: &[u8],
    trust_domain: Option<&TrustDomain>,
    limits: &Limits,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.len(), limits)?;
    let message = proto::X509BundlesResponse::decode(message)
        .map_err(|source| DecodeError::NotAMessage { expected: "X509BundlesResponse", source })?;
    bundles_response(&message, trust_domain, limits, &Precedence::default())
}

pub(crate) fn svid_response(
    message: &proto::X509svidResponse,
    limits: &Limits,
    precedence: &Precedence,
    now: SystemTime,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.encoded_len(), limits)?;
    if message.svids.is_empty() {
        return Err(DecodeError::NoIdentity);
    }
    let mut own = OwnBundles { limits, read: BTreeMap::new(), vouching: BTreeMap::new(), refusals: Vec::new() };
    let (mut good, mut refusals) = (BTreeMap::new(), Vec::new());
    let mut beyond = 0;
    for place in precedence.svids(message.svids.iter().map(|wire| (wire.spiffe_id.as_str(), wire.hint.as_str()))) {
        let Some(wire) = message.svids.get(place) else { continue };
        if good.len() >= limits.svids {
            beyond += 1;
            continue;
        }
        match one_svid(wire, &mut own, limits, now) {
            Ok(svid) => _ = good.insert(place, svid),
            Err(error) => {
                let refusal = Refusal::new(RefusedItem::svid(&wire.spiffe_id), chain(&error)).at(place);
                refusals.push(Refusal { heals_at: error.heals_at(), ..refusal });
            }
        }
    }
    refusals.sort_by_key(|refusal| refusal.position);
    if good.is_empty() {
        return Err(DecodeError::none_usable("SVIDs", message.svids.len(), &refusals));
    }
    refusals.extend(surplus(
        beyond,
        "svid",
        limits.svids,
        "limits.source.svids, or narrow this workload's registrations",
    ));
    refusals.append(&mut own.refusals);
    // A hint is unique in a message; of several equal ones the first counts (Workload API, section 5.2).
    let mut hints = BTreeSet::new();
    let unique = |mut svid: Svid| {
        svid.hint = svid.hint.filter(|hint| hints.insert(hint.clone()));
        Arc::new(svid)
    };
    let svids: Vec<_> = good.into_values().map(unique).collect();

    // What the SVIDs themselves say about their own trust domain wins over a federated entry of that name.
    let mut bundles = own.vouching;
    let room = limits.bundles.saturating_sub(bundles.len());
    federated::add(&message.federated_bundles, &mut bundles, (room, precedence), limits, &mut refusals);
    let crls = crls(&message.crl, limits, &mut refusals);
    let trust_domain = svids.first().map(|svid| svid.id.trust_domain().clone());
    let bundles = bundles.into_iter().map(|(domain, bundle)| (domain, Arc::new(bundle))).collect();
    Ok(IdentitySnapshot { svids, bundles, trust_domain, crls, refusals })
}

/// The bundles that come with SVIDs. Usually they are all the same, so each is read, and complained about, once.
struct OwnBundles<'a> {
    limits: &'a Limits,
    read: BTreeMap<(TrustDomain, &'a Bytes), Result<TrustBundle, BundleError>>,
    /// Those that vouch for an SVID that is taken. What comes with one that is not may be anybody's.
    vouching: BTreeMap<TrustDomain, TrustBundle>,
    refusals: Vec<Refusal>,
}

impl<'a> OwnBundles<'a> {
    fn read(&mut self, domain: &TrustDomain, der: &'a Bytes) -> Result<TrustBundle, SvidError> {
        let key = (domain.clone(), der);
        if let Some(known) = self.read.get(&key) {
            return known.clone().map_err(SvidError::Bundle);
        }
        let read = bundle::own_authorities(der, self.limits).map(|all| {
            self.refusals.extend(federated::refused_authorities(domain, &all));
            TrustBundle::new(domain.clone(), all.good)
        });
        self.read.insert(key, read.clone());
        read.map_err(SvidError::Bundle)
    }
}

fn one_svid<'a>(
    wire: &'a proto::X509svid,
    own: &mut OwnBundles<'a>,
    limits: &Limits,
    now: SystemTime,
) -> Result<Svid, SvidError> {
    let id = svid::spiffe_id(&wire.spiffe_id, limits)?;
    let bundle = own.read(id.trust_domain(), &wire.bundle)?;
    let svid = svid::decode(wire, &id, &bundle, limits, now)?;
    let all = own.vouching.get(id.trust_domain()).map_or_else(|| bundle.clone(), |known| known.union(&bundle));
    own.vouching.insert(id.trust_domain().clone(), all);
    Ok(svid)
}

pub(crate) fn bundles_response(
    message: &proto::X509BundlesResponse,
    trust_domain: Option<&TrustDomain>,
    limits: &Limits,
    precedence: &Precedence,
) -> Result<IdentitySnapshot, DecodeError> {
    check_size(message.encoded_len(), limits)?;
    let mut refusals = Vec::new();
    let mut bundles = BTreeMap::new();
    let named = federated::add(&message.bundles, &mut bundles, (limits.bundles, precedence), limits, &mut refusals);
    let trust_domain = trust_domain.cloned().or(named);
    match message.bundles.len() {
        0 => return Err(DecodeError::NoBundles),
        count if bundles.is_empty() => return Err(DecodeError::none_usable("trust bundles", count, &refusals)),
        _ => {}
    }
    let crls = crls(&message.crl, limits, &mut refusals);
    let bundles = bundles.into_iter().map(|(domain, bundle)| (domain, Arc::new(bundle))).collect();
    Ok(IdentitySnapshot { svids: Vec::new(), bundles, trust_domain, crls, refusals })
}

/// Whether `bundle` vouches for an SVID now, or did at its end.
pub(super) fn vouches(svid: &Svid, bundle: &TrustBundle, now: SystemTime) -> bool {
    let moment = now.min(svid.validity.not_after).max(svid.validity.not_before);
    path::verify(&svid.chain, bundle, moment).is_ok()
}

/// The serial number of a certificate as Envoy prints it: lower-case hexadecimal without a leading zero
/// byte. Empty for what is no certificate.
#[must_use]
pub fn serial(certificate: &Certificate) -> String {
    certificate.facts().map(|facts| facts.serial.clone()).unwrap_or_default()
}

fn hexadecimal(serial: &[u8]) -> String {
    let bytes = serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_size(bytes: usize, limits: &Limits) -> Result<(), DecodeError> {
    let limit = limits.message_bytes;
    if bytes > limit { Err(DecodeError::TooLarge { bytes, limit }) } else { Ok(()) }
}

/// A list that is none is left out; the peers that it is about are checked against the others.
fn crls(wire: &[Bytes], limits: &Limits, refusals: &mut Vec<Refusal>) -> Vec<Arc<[u8]>> {
    let beyond = wire.len().saturating_sub(limits.crls);
    refusals.extend(surplus(beyond, "crl", limits.crls, "limits.source.crls"));
    let mut good = Vec::new();
    for (index, der) in wire.iter().take(limits.crls).enumerate() {
        match CertificateRevocationList::from_der(der) {
            Ok(([], _)) => good.push(Arc::from(&der[..])),
            _ => {
                let reason = "it is no DER-encoded CRL; correct it at the issuer";
                refusals.push(Refusal::new(RefusedItem::Crl { number: index + 1 }, reason));
            }
        }
    }
    good
}

fn surplus(count: usize, of: &'static str, limit: usize, raise: &str) -> Option<Refusal> {
    let reason = || format!("{count} more came than the {limit} that are allowed; raise {raise}");
    (count > 0).then(|| Refusal::surplus(of, count, reason()))
}

/// Names come from the wire and go into logs: bounded, and `{:?}` escapes the rest.
fn shortened(name: &str) -> String {
    name.chars().take(128).collect()
}
