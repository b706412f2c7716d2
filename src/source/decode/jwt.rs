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

pub use jwks::JwksError;
pub use token::TokenError;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use zeroize::Zeroizing;

use super::{Limits, bundle, shortened};
use crate::{
    identity::{JwtBundle, JwtRequest, JwtSubject, JwtSvid, SpiffeId, TrustDomain},
    secret::DefaultIdentity,
    workload_api_proto as proto,
};

/// The keys of each trust domain.
pub type JwtBundles = BTreeMap<TrustDomain, Arc<JwtBundle>>;

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
    /// More than [`Limits::svids`].
    #[error("the answer holds {count} JWT-SVIDs, more than the {limit} allowed; ask for one SPIFFE ID")]
    TooManyTokens {
        /// Tokens in the answer.
        count: usize,
        /// What is allowed.
        limit: usize,
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
    /// More than [`Limits::bundles`].
    #[error("the message holds {count} JWT bundles, more than the {limit} allowed; federate this workload with fewer")]
    TooManyBundles {
        /// Bundles in the message.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not the ID of a trust domain.
    #[error("a JWT bundle is keyed {name:?}, which is no trust domain ID; it must look like spiffe://example.org")]
    TrustDomain {
        /// The key as it came, shortened.
        name: String,
    },
    /// Two keys that mean the same trust domain.
    #[error("the message holds two JWT bundles for {trust_domain}; the issuer must send one")]
    DuplicateBundle {
        /// The domain that two bundles claim.
        trust_domain: TrustDomain,
    },
    /// One bundle breaks a rule.
    #[error("the JWT bundle of {trust_domain} cannot be used")]
    Bundle {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// The rule it breaks.
        source: JwksError,
    },
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
    limits: &Limits,
    now: SystemTime,
) -> Result<JwtSvid, JwtError> {
    let count = message.svids.len();
    let wire: Vec<(String, Zeroizing<String>, String)> =
        message.svids.drain(..).map(|it| (it.spiffe_id, Zeroizing::new(it.svid), it.hint)).collect();
    if count > limits.svids {
        return Err(JwtError::TooManyTokens { count, limit: limits.svids });
    }
    let mut wire = wire.into_iter();
    // The first is the source's default, and of equal hints the first counts (Workload API, sections 6.2 and 8).
    let wanted = match (&request.subject, default) {
        (JwtSubject::Id(_), _) | (JwtSubject::Default, DefaultIdentity::First) => wire.next(),
        (JwtSubject::Hint(hint), _) => wire.find(|(_, _, it)| it == hint.as_str()),
        (JwtSubject::Default, chosen) => wire.find(|(id, _, hint)| chosen.wants(id, Some(hint))),
    };
    let Some((name, token, hint)) = wanted else {
        return Err(match &request.subject {
            JwtSubject::Hint(hint) if count > 0 => JwtError::NoSuchHint { hint: hint.as_str().to_owned() },
            JwtSubject::Default if count > 0 => JwtError::NoDefault { wanted: default.to_string() },
            _ => JwtError::NoToken,
        });
    };
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
    token::verify(&svid.token, &svid.id, keys)
}

/// The keys of each trust domain, out of a `FetchJWTBundles` message.
///
/// # Errors
/// The first rule that something in the message breaks.
pub(crate) fn bundles(message: &proto::JwtBundlesResponse, limits: &Limits) -> Result<JwtBundles, JwtError> {
    let count = message.bundles.len();
    match count {
        0 => return Err(JwtError::NoBundles),
        _ if count > limits.bundles => return Err(JwtError::TooManyBundles { count, limit: limits.bundles }),
        _ => {}
    }
    let mut bundles = JwtBundles::new();
    for (name, document) in &message.bundles {
        let trust_domain = bundle::trust_domain(name).ok_or_else(|| JwtError::TrustDomain { name: shortened(name) })?;
        let keys = jwks::decode(document, limits)
            .map_err(|source| JwtError::Bundle { trust_domain: trust_domain.clone(), source })?;
        let bundle = Arc::new(JwtBundle::new(trust_domain.clone(), keys));
        if bundles.insert(trust_domain.clone(), bundle).is_some() {
            return Err(JwtError::DuplicateBundle { trust_domain });
        }
    }
    Ok(bundles)
}
