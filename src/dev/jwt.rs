//! What the issuer knows about JWT-SVIDs: signing keys of each trust domain, and the tokens it gave out.
//!
//! Like SPIRE it hands the same token out again until a part of its life is over, so that a client that asks too early
//! learns nothing new.

mod key;
mod ring;

pub(super) use key::StrayKey;
pub(super) use ring::KeyRing;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{CaStep, DevError};
use crate::identity::{SpiffeId, TrustDomain};

/// How JWT-SVIDs are issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// How long a token lives; 2 s or more. Tokens count whole seconds, so one may live up to two longer.
    pub ttl: Duration,
    /// The same token is given out again until this many hundredths of its life are over; 0 mints one for each call.
    pub cached_percent: u8,
}

impl Default for JwtConfig {
    /// SPIRE's defaults: five minutes, and half of them cached.
    fn default() -> Self {
        Self { ttl: Duration::from_secs(300), cached_percent: 50 }
    }
}

/// What no honest issuer does, for the tests of those who ask.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwtFault {
    /// The same token again and again, to its end and beyond.
    SameForever,
    /// A token for somebody else.
    WrongAudience,
    /// The token of another identity.
    WrongSubject,
    /// A token without `exp`.
    NoExpiry,
    /// A token that ended a minute ago.
    Expired,
    /// `alg: none`, without a signature.
    AlgNone,
    /// Signed by a key that nobody published, under the `kid` of one that is.
    Forged,
    /// CR and LF at the end, which would split an HTTP header.
    LineBreak,
    /// At least so many bytes.
    Oversized(usize),
    /// An honest answer, but late.
    Slow(Duration),
    /// `PERMISSION_DENIED`.
    Deny,
    /// `UNAVAILABLE`.
    Unavailable,
    /// No answer.
    Hang,
}

type Cached = BTreeMap<(SpiffeId, BTreeSet<String>), Minted>;

/// The keys and the tokens given out. A call that fails changes nothing.
#[derive(Debug)]
pub(super) struct Jwt {
    config: JwtConfig,
    rings: BTreeMap<TrustDomain, KeyRing>,
    cached: Cached,
}

/// One token. `Debug` never shows it.
#[derive(Clone)]
pub(super) struct Minted {
    pub(super) token: Zeroizing<String>,
    issued: SystemTime,
    expires: SystemTime,
}

impl Jwt {
    pub(super) fn new(config: JwtConfig) -> Self {
        Self { config, rings: BTreeMap::new(), cached: BTreeMap::new() }
    }

    /// Makes the first key of a trust domain; one that has keys gets new ones.
    pub(super) fn add(&mut self, trust_domain: TrustDomain) -> Result<(), DevError> {
        self.rings.insert(trust_domain, KeyRing::new()?);
        Ok(())
    }

    pub(super) fn remove(&mut self, trust_domain: &TrustDomain) {
        self.rings.remove(trust_domain);
    }

    /// One step of a roll-over; the `kid` that it concerns. Activating drops the cache: new tokens have the new key.
    pub(super) fn step(&mut self, trust_domain: &TrustDomain, step: CaStep) -> Result<String, DevError> {
        let ring = self.rings.get_mut(trust_domain).ok_or_else(|| unknown(trust_domain))?;
        let kid = ring.step(trust_domain, step)?;
        if step == CaStep::Activate {
            self.cached.retain(|(id, _), _| id.trust_domain() != trust_domain);
        }
        Ok(kid)
    }

    pub(super) fn set_config(&mut self, config: JwtConfig) {
        self.config = config;
        self.cached.clear();
    }

    /// The `FetchJWTBundles` message: a JWK Set for each trust domain.
    pub(super) fn bundles(&self) -> HashMap<String, Bytes> {
        let set = |ring: &KeyRing| Bytes::from(json!({ "keys": ring.jwks() }).to_string());
        self.rings.iter().map(|(trust_domain, ring)| (trust_domain.id_string(), set(ring))).collect()
    }

    /// A token of `id` for `audience`, a cached one if it is young enough.
    pub(super) fn token(
        &mut self,
        id: &SpiffeId,
        audience: &BTreeSet<String>,
        fault: Option<&JwtFault>,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, DevError> {
        let key = (id.clone(), audience.clone());
        if let Some(known) = self.cached.get(&key)
            && (fault == Some(&JwtFault::SameForever) || known.is_young(self.config.cached_percent, now))
            && matches!(fault, None | Some(JwtFault::SameForever | JwtFault::Slow(_)))
        {
            return Ok(known.token.clone());
        }
        let minted = self.mint(id, audience, fault, now)?;
        let token = minted.token.clone();
        if matches!(fault, None | Some(JwtFault::SameForever | JwtFault::Slow(_))) {
            self.cached.insert(key, minted);
        }
        Ok(token)
    }

    fn mint(
        &self,
        id: &SpiffeId,
        audience: &BTreeSet<String>,
        fault: Option<&JwtFault>,
        now: SystemTime,
    ) -> Result<Minted, DevError> {
        let ring = self.rings.get(id.trust_domain()).ok_or_else(|| unknown(id.trust_domain()))?;
        let (issued, mut expires) = (now, now + self.config.ttl + Duration::from_millis(999));
        if fault == Some(&JwtFault::Expired) {
            expires = now - Duration::from_secs(60);
        }
        let mut claims = Map::new();
        let subject = if fault == Some(&JwtFault::WrongSubject) { format!("{id}/impostor") } else { id.to_string() };
        claims.insert("sub".to_owned(), subject.into());
        let wrong = BTreeSet::from(["somebody-else".to_owned()]);
        let audience = if fault == Some(&JwtFault::WrongAudience) { &wrong } else { audience };
        claims.insert("aud".to_owned(), audience.iter().cloned().collect());
        claims.insert("iat".to_owned(), seconds(issued).into());
        if fault != Some(&JwtFault::NoExpiry) {
            claims.insert("exp".to_owned(), seconds(expires).into());
        }
        if let Some(JwtFault::Oversized(bytes)) = fault {
            claims.insert("padding".to_owned(), "x".repeat(*bytes).into());
        }
        let token = match fault {
            Some(JwtFault::AlgNone) => format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims.into())),
            Some(JwtFault::Forged) => StrayKey::under(ring.active_kid())?.sign(&claims.into())?,
            Some(JwtFault::LineBreak) => ring.sign(&claims.into())? + "\r\n",
            _ => ring.sign(&claims.into())?,
        };
        Ok(Minted { token: Zeroizing::new(token), issued, expires: UNIX_EPOCH + Duration::from_secs(seconds(expires)) })
    }

    /// The claims of a token that one of the keys here signed; `None` for any other.
    pub(super) fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let (header, claims) = (decoded(header)?, decoded(claims)?);
        let kid = header.get("kid")?.as_str()?;
        let id = SpiffeId::new(claims.get("sub")?.as_str()?).ok()?;
        let signature = Base64UrlUnpadded::decode_vec(signature).ok()?;
        let genuine = header.get("alg")? == "ES256"
            && self.rings.get(id.trust_domain())?.verifies(kid, signed.as_bytes(), &signature);
        genuine.then_some(claims)
    }
}

impl Minted {
    fn is_young(&self, percent: u8, now: SystemTime) -> bool {
        let life = self.expires.duration_since(self.issued).unwrap_or_default();
        now < self.issued + life * u32::from(percent) / 100
    }
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// One part of a compact JWS.
pub(super) fn part(value: &Value) -> String {
    Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
}

fn decoded(part: &str) -> Option<Value> {
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(part).ok()?).ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn unknown(trust_domain: &TrustDomain) -> DevError {
    DevError::UnknownTrustDomain(trust_domain.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn setup() -> (Jwt, SpiffeId, BTreeSet<String>) {
        let id = SpiffeId::new("spiffe://example.org/web").unwrap();
        let mut jwt = Jwt::new(JwtConfig { ttl: TTL, cached_percent: 50 });
        jwt.add(id.trust_domain().clone()).unwrap();
        (jwt, id, BTreeSet::from(["a".to_owned()]))
    }

    #[test]
    fn a_token_is_given_out_again_for_half_of_its_life() {
        let (mut jwt, id, audience) = setup();
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let first = jwt.token(&id, &audience, None, start).unwrap();
        assert_eq!(jwt.token(&id, &audience, None, start + TTL * 2 / 5).unwrap(), first);
        let later = start + TTL * 3 / 5;
        assert_eq!(jwt.token(&id, &audience, Some(&JwtFault::SameForever), later).unwrap(), first);
        assert_ne!(jwt.token(&id, &audience, None, later).unwrap(), first);
        assert_ne!(jwt.token(&id, &BTreeSet::from(["b".to_owned()]), None, start).unwrap(), first);
    }

    #[test]
    fn only_its_own_tokens_verify() {
        let (mut jwt, id, audience) = setup();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let honest = jwt.token(&id, &audience, None, now).unwrap();
        assert_eq!(jwt.verify(&honest).unwrap()["sub"], "spiffe://example.org/web");
        for fault in [JwtFault::Forged, JwtFault::AlgNone, JwtFault::LineBreak] {
            let token = jwt.token(&id, &audience, Some(&fault), now).unwrap();
            assert!(jwt.verify(&token).is_none(), "{fault:?}");
        }
        jwt.step(id.trust_domain(), CaStep::Prepare).unwrap();
        jwt.step(id.trust_domain(), CaStep::Activate).unwrap();
        assert!(jwt.verify(&honest).is_some(), "the old key is still published");
        assert_ne!(jwt.token(&id, &audience, None, now).unwrap(), honest);
        jwt.step(id.trust_domain(), CaStep::Retire).unwrap();
        assert!(jwt.verify(&honest).is_none());
    }
}
