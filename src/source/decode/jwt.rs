//! JWT-SVIDs and the keys that verify them: every rule of the JWT-SVID standard, before anything is served.
//!
//! The signature is verified by us too, where the keys of the subject's trust domain are known: a token that its
//! verifiers will refuse is better refused here, where the last good one is kept. This is done on `aws-lc-rs` itself:
//! it has every algorithm that the standard allows (`ES512` among them), and neither clock nor copies of the token.
//! No error ever holds a part of a token but its algorithm, key name, subject and times.

mod jwks;
mod signature;
#[cfg(test)]
mod tests;
mod token;

pub use jwks::{JwkError, JwksError};
pub use signature::Unsound;
pub use token::TokenError;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::SystemTime,
};

use zeroize::Zeroizing;

use super::{Limits, bundle, shortened};
use crate::{
    identity::{JwtBundle, JwtRequest, JwtSubject, JwtSvid, Refusal, RefusedItem, SpiffeId, TrustDomain},
    secret::DefaultIdentity,
    workload_api_proto as proto,
};

/// The keys of each trust domain.
pub type JwtBundles = BTreeMap<TrustDomain, Arc<JwtBundle>>;

/// What one message says about keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtKeys {
    /// Those that can be used. A trust domain that is neither here nor in `unusable` has none any more.
    pub bundles: JwtBundles,
    /// The trust domains of whose keys none can be used: what was known of them before stays.
    pub unusable: BTreeMap<TrustDomain, JwksError>,
    /// Everything that is left out, single keys too.
    pub refusals: Vec<Refusal>,
}

impl From<JwtBundles> for JwtKeys {
    fn from(bundles: JwtBundles) -> Self {
        Self { bundles, ..Self::default() }
    }
}

/// Longer tokens are refused: they must fit into an HTTP header, of which servers accept 8 to 60 KiB in all.
pub const TOKEN_BYTES: usize = 16 << 10;

/// Why an answer about JWT-SVIDs was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Entitled to nothing: the same as the status `PERMISSION_DENIED`.
    #[error("the source issued no JWT-SVID to this workload; register it with the issuer")]
    NoToken,
    /// None of the workload's identities is the one asked for.
    #[error("the source issued no JWT-SVID with the hint {hint:?}; register it with the issuer, or correct the hint")]
    NoSuchHint {
        /// The hint asked for.
        hint: String,
    },
    /// None of the workload's identities is the default one.
    #[error(
        "the source issued no JWT-SVID to the default identity, {wanted}; register it, or correct secrets.default_identity"
    )]
    NoDefault {
        /// What is configured.
        wanted: String,
    },
    /// Not a SPIFFE ID.
    #[error("a JWT-SVID is named {name:?}, which is no SPIFFE ID; correct its registration")]
    SpiffeId {
        /// The name as it came, shortened.
        name: String,
        /// The rule it breaks.
        source: spiffe::SpiffeIdError,
    },
    /// The token of somebody else.
    #[error("asked for a JWT-SVID of {asked}, the source answered with one of {found}; it must answer what is asked")]
    OtherIdentity {
        /// Whose token was asked for.
        asked: SpiffeId,
        /// Whose came.
        found: SpiffeId,
    },
    /// One token breaks a rule.
    #[error("the JWT-SVID of {spiffe_id} cannot be used")]
    Token {
        /// Whose.
        spiffe_id: SpiffeId,
        /// The rule it breaks.
        source: TokenError,
    },
    /// No bundle where the specification demands one.
    #[error("the source sent no JWT bundle at all; check the issuer's bundle configuration")]
    NoBundles,
}

/// The token that answers `request`, out of a `FetchJWTSVID` answer; `default` is whose it is if the request names nobody. The tokens are moved out of `message`, and those
/// that are not wanted wiped.
///
/// # Errors
/// The first rule that the wanted token breaks, or that there is none.
pub(crate) fn svid(
    message: &mut proto::JwtsvidResponse,
    request: &JwtRequest,
    default: &DefaultIdentity,
    keys: &JwtBundles,
    now: SystemTime,
) -> Result<JwtSvid, JwtError> {
    let count = message.svids.len();
    let mut wire: Vec<(String, Zeroizing<String>, String)> =
        message.svids.drain(..).map(|it| (it.spiffe_id, Zeroizing::new(it.svid), it.hint)).collect();
    // The first is the source's default, and of equal hints the first counts (Workload API, sections 6.2 and 8).
    let wanted = match (&request.subject, default) {
        // A source may answer with the tokens of all identities, whoever is asked for.
        (JwtSubject::Id(asked), _) => {
            let theirs = wire.iter().position(|(id, ..)| SpiffeId::new(id).is_ok_and(|id| id == *asked));
            theirs.or((count > 0).then_some(0))
        }
        (JwtSubject::Default, DefaultIdentity::First) => (count > 0).then_some(0),
        (JwtSubject::Hint(hint), _) => wire.iter().position(|(.., it)| it == hint.as_str()),
        (JwtSubject::Default, chosen) => wire.iter().position(|(id, _, hint)| chosen.wants(id, Some(hint))),
    };
    let Some(wanted) = wanted else {
        return Err(match &request.subject {
            JwtSubject::Hint(hint) if count > 0 => JwtError::NoSuchHint { hint: hint.as_str().to_owned() },
            JwtSubject::Default if count > 0 => JwtError::NoDefault { wanted: default.to_string() },
            _ => JwtError::NoToken,
        });
    };
    let (name, token, hint) = wire.swap_remove(wanted);
    let id = SpiffeId::new(&name).map_err(|source| JwtError::SpiffeId { name: shortened(&name), source })?;
    if let JwtSubject::Id(asked) = &request.subject
        && *asked != id
    {
        return Err(JwtError::OtherIdentity { asked: asked.clone(), found: id });
    }
    token::decode(token, &id, &hint, &request.audience, keys, now)
        .map_err(|source| JwtError::Token { spiffe_id: id, source })
}

/// Whether the keys vouch for a token that was accepted earlier. Without keys of its trust domain nothing is known
/// against it.
///
/// # Errors
/// The rule it breaks now.
pub(crate) fn vouched(svid: &JwtSvid, keys: &JwtBundles) -> Result<(), TokenError> {
    if !keys.contains_key(svid.id.trust_domain()) {
        return Ok(());
    }
    token::verify(&svid.token, &svid.id, keys)
}

/// The keys of each trust domain, out of a `FetchJWTBundles` message. Of more than [`Limits::bundles`] those of `first` are
/// taken, and of the others those whose names come first.
///
/// # Errors
/// There is no bundle at all.
pub(crate) fn bundles(
    message: &proto::JwtBundlesResponse,
    limits: &Limits,
    first: &BTreeSet<TrustDomain>,
) -> Result<JwtKeys, JwtError> {
    if message.bundles.is_empty() {
        return Err(JwtError::NoBundles);
    }
    let mut keys = JwtKeys::default();
    let mut named = BTreeMap::new();
    // A map of protobuf has no order. `spiffe://td` counts more than `td`, which some issuers send.
    let mut wire: Vec<_> = message.bundles.iter().collect();
    wire.sort_by_key(|(name, _)| (!name.starts_with("spiffe://"), *name));
    for (name, document) in wire {
        let Some(trust_domain) = bundle::trust_domain(name) else {
            let why = "it is no trust domain ID; it must look like spiffe://example.org";
            keys.refusals.push(Refusal::new(RefusedItem::jwt_bundle(name), why));
            continue;
        };
        match named.entry(trust_domain) {
            Entry::Vacant(free) => _ = free.insert(document),
            Entry::Occupied(taken) => {
                let why = format!("the message holds another set for {}; the issuer must send one", taken.key());
                keys.refusals.push(Refusal::new(RefusedItem::jwt_bundle(name), why));
            }
        }
    }
    let mut named: Vec<_> = named.into_iter().collect();
    named.sort_by_key(|(trust_domain, _)| !first.contains(trust_domain));
    let surplus = named.len().saturating_sub(limits.bundles);
    named.truncate(limits.bundles);
    if surplus > 0 {
        let why = format!("a message may hold {} JWT bundles; federate this workload with fewer", limits.bundles);
        keys.refusals.push(Refusal::surplus("jwt_bundle", surplus, why));
    }
    named.into_iter().for_each(|(trust_domain, document)| keys.add(trust_domain, document, limits));
    Ok(keys)
}

impl JwtKeys {
    fn add(&mut self, trust_domain: TrustDomain, document: &[u8], limits: &Limits) {
        let found = jwks::decode(document, limits);
        for (key, why) in found.refused {
            let item = RefusedItem::jwt_key(trust_domain.clone(), &key);
            self.refusals.push(Refusal::new(item, why.to_string()));
        }
        match found.error {
            None => {
                let bundle = Arc::new(JwtBundle::new(trust_domain.clone(), found.usable));
                self.bundles.insert(trust_domain, bundle);
            }
            Some(why) => {
                let item = RefusedItem::jwt_bundle(trust_domain.as_ref());
                self.refusals.push(Refusal::new(item, why.to_string()));
                self.unusable.insert(trust_domain, why);
            }
        }
    }
}
