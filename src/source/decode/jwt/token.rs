//! One token: <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md>, sections 2 to 4.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Number;
use zeroize::Zeroizing;

use super::{JwtBundles, TOKEN_BYTES, signature};
use crate::{
    identity::{Hint, JwtSvid, SpiffeId, Token, Validity},
    source::decode::{NOT_BEFORE_TOLERANCE, shortened, svid::LAST_SECOND, svid::at},
};

/// Which rule a JWT-SVID breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// More than [`TOKEN_BYTES`].
    #[error("it has {bytes} bytes, more than the {limit} allowed; make the issuer put less into it")]
    TooLong {
        /// Length of the token.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A byte that does not belong into a token; a line break would split the header that carries it.
    #[error("it holds a byte at position {at} that is neither base64url nor a dot; the issuer must send a bare token")]
    NotHeaderSafe {
        /// From 0.
        at: usize,
    },
    /// Not header, claims and signature (JWT-SVID, section 2: compact serialisation only).
    #[error("it has {parts} parts where a compact JWS has three; the issuer must send header.claims.signature")]
    NotCompact {
        /// How many there are.
        parts: usize,
    },
    /// No header that can be read.
    #[error("its header is no base64url JSON object with an algorithm; the issuer must send a JWS")]
    Header,
    /// `none`, symmetric, or unknown (JWT-SVID, section 2.1).
    #[error("its algorithm is {found:?}; the issuer must use one of RS, ES or PS with 256, 384 or 512")]
    Algorithm {
        /// As the header says, shortened.
        found: String,
    },
    /// Something else than a JWT (JWT-SVID, section 2.3).
    #[error("its type is {found:?}; the issuer must write JWT, JOSE or nothing")]
    Type {
        /// As the header says, shortened.
        found: String,
    },
    /// An extension that must be understood, and is not (RFC 7515, section 4.1.11).
    #[error("its header demands an extension (crit); the issuer must do without")]
    Critical,
    /// No claims that can be read.
    #[error("its claims are no base64url JSON object of the kinds that RFC 7519 gives them; correct the issuer")]
    Claims,
    /// `sub` is absent, no SPIFFE ID, or not the one it is delivered for (JWT-SVID, section 3.1).
    #[error("its subject is {found:?}; the issuer must write the SPIFFE ID it names in the answer")]
    Subject {
        /// As the claim says, shortened.
        found: String,
    },
    /// `aud` lacks somebody (JWT-SVID, section 3.2).
    #[error("it is not for the audience {missing:?}; the issuer must write every audience that is asked for")]
    Audience {
        /// Who is missing.
        missing: String,
    },
    /// No `exp` (JWT-SVID, section 3.3).
    #[error("it never expires; the issuer must write exp")]
    NoExpiry,
    /// Its life is over.
    #[error("it expired {}; check the issuer, and the clocks of both machines", at(*not_after))]
    Expired {
        /// The end of its life.
        not_after: SystemTime,
    },
    /// Its life begins more than [`NOT_BEFORE_TOLERANCE`] from now.
    #[error("it is valid only from {}; check the clocks of both machines", at(*not_before))]
    NotYetValid {
        /// The beginning of its life.
        not_before: SystemTime,
    },
    /// The keys of its trust domain are known, and the one that signed is not among them.
    #[error("it is signed by the key {kid:?}, which the JWT bundle of its trust domain does not have; is it retired?")]
    UnknownKey {
        /// As the header says, shortened.
        kid: String,
    },
    /// Its signature is not that of the key it names.
    #[error("its signature is wrong; check which key the issuer signs with")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<Number>,
    nbf: Option<Number>,
    iat: Option<Number>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A token taken apart; nothing in it is copied but what is decoded.
struct Parts<'t> {
    signed: &'t str,
    claims: &'t str,
    signature: &'t str,
    header: Header,
}

/// Checks and takes over one token that was delivered for `id`.
pub(super) fn decode(
    token: Zeroizing<String>,
    id: &SpiffeId,
    hint: &str,
    asked: &BTreeSet<String>,
    keys: &JwtBundles,
    now: SystemTime,
) -> Result<JwtSvid, TokenError> {
    let parts = Parts::of(&token)?;
    let claims: Claims = json(parts.claims).ok_or(TokenError::Claims)?;
    let subject = claims.sub.unwrap_or_default();
    if SpiffeId::new(&subject).ok().as_ref() != Some(id) {
        return Err(TokenError::Subject { found: shortened(&subject) });
    }
    let audience: BTreeSet<String> = match claims.aud {
        Some(Audience::One(one)) => BTreeSet::from([one]),
        Some(Audience::Many(many)) => many.into_iter().collect(),
        None => BTreeSet::new(),
    };
    if let Some(missing) = asked.iter().find(|asked| !audience.contains(*asked)) {
        return Err(TokenError::Audience { missing: missing.clone() });
    }
    let not_after = claims.exp.as_ref().and_then(moment).ok_or(TokenError::NoExpiry)?;
    // "On or after" (RFC 7519, section 4.1.4): the last moment is over already.
    if now >= not_after {
        return Err(TokenError::Expired { not_after });
    }
    if let Some(not_before) = claims.nbf.as_ref().and_then(moment)
        && not_before > now + NOT_BEFORE_TOLERANCE
    {
        return Err(TokenError::NotYetValid { not_before });
    }
    parts.verify(id, keys)?;
    // Its age decides when it is renewed; a token that does not tell it, or tells nonsense, is as old as its arrival.
    let issued = claims.iat.as_ref().and_then(moment).filter(|issued| *issued <= now);
    let validity = Validity { not_before: issued.unwrap_or(now), not_after };
    let (id, hint) = (id.clone(), Hint::new(hint));
    Ok(JwtSvid { id, audience, validity, hint, token: Token::new(token) })
}

/// Whether the keys of the subject's trust domain, if known, vouch for a token.
pub(super) fn verify(token: &Token, id: &SpiffeId, keys: &JwtBundles) -> Result<(), TokenError> {
    Parts::of(token.compact())?.verify(id, keys)
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES {
            return Err(TokenError::TooLong { bytes: token.len(), limit: TOKEN_BYTES });
        }
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if let Some(at) = token.bytes().position(|byte| !safe(byte)) {
            return Err(TokenError::NotHeaderSafe { at });
        }
        let not_compact = || TokenError::NotCompact { parts: token.split('.').count() };
        let (signed, signature) = token.rsplit_once('.').ok_or_else(not_compact)?;
        let (header, claims) = signed.split_once('.').ok_or_else(not_compact)?;
        if claims.contains('.') {
            return Err(not_compact());
        }
        let header: Header = json(header).ok_or(TokenError::Header)?;
        if signature::algorithm(&header.alg).is_none() {
            return Err(TokenError::Algorithm { found: shortened(&header.alg) });
        }
        if let Some(found) = header.typ.as_ref().filter(|typ| !matches!(typ.as_str(), "JWT" | "JOSE")) {
            return Err(TokenError::Type { found: shortened(found) });
        }
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        Ok(Self { signed, claims, signature, header })
    }

    fn verify(&self, id: &SpiffeId, keys: &JwtBundles) -> Result<(), TokenError> {
        let Some(bundle) = keys.get(id.trust_domain()) else { return Ok(()) };
        let algorithm = signature::algorithm(&self.header.alg).ok_or(TokenError::Header)?;
        let signature = Base64UrlUnpadded::decode_vec(self.signature).map_err(|_| TokenError::Signature)?;
        let kid = self.header.kid.as_deref();
        // A header without `kid` may mean any key (JWT-SVID, section 2.2).
        let named = |key: &&serde_json::Value| kid.is_none() || key.get("kid").and_then(|it| it.as_str()) == kid;
        let mut candidates = bundle.keys().iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey { kid: shortened(kid.unwrap_or_default()) });
        }
        let genuine = |key| signature::verifies(algorithm, key, self.signed.as_bytes(), &signature);
        if candidates.any(genuine) { Ok(()) } else { Err(TokenError::Signature) }
    }
}

/// A part of the token as JSON. What is wrong with it is not told: the reasons of the parser quote what they read.
fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = Zeroizing::new(Base64UrlUnpadded::decode_vec(part).ok()?);
    serde_json::from_slice(&bytes).ok()
}

/// A `NumericDate` (RFC 7519, section 2): seconds, perhaps with a fraction.
fn moment(date: &Number) -> Option<SystemTime> {
    let seconds = date.as_f64().filter(|seconds| *seconds >= 0.0)?;
    let since = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).min(Duration::from_secs(LAST_SECOND));
    SystemTime::UNIX_EPOCH.checked_add(since)
}
