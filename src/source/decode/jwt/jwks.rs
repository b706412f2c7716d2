//! JWK Sets (RFC 7517) as SPIFFE bundles have them: SPIFFE Trust Domain and Bundle, section 4; JWT-SVID, section 6.
//!
//! | A key with | is |
//! |---|---|
//! | `use` other than `jwt-svid`, `sig` or nothing | left out: it verifies no tokens |
//! | a `kty` other than `EC` and `RSA` | left out: no allowed algorithm uses it |
//! | no `kid`, or the `kid` of another key | a reason to refuse the set: a token could not tell which it means |
//! | a private part | a reason to refuse the set: whoever reads the bundle could sign |
//! | a missing, malformed or weak part | a reason to refuse the set |
//!
//! `use` may be absent because SPIRE's Workload API writes plain JWK Sets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::signature::{self, text};
use crate::source::decode::{Limits, shortened};

/// What only the owner of a key may have (RFC 7518, sections 6.2.2, 6.3.2 and 6.4.1).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Keys in one set, those left out included.
const KEYS: usize = 1000;

/// Which rule a JWK Set breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// More than [`Limits::bundle_bytes`].
    #[error("it has {bytes} bytes, more than the {limit} allowed; retire keys that are not used")]
    TooLarge {
        /// Length of the document.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not JSON, or without a list of keys.
    #[error("it is no JSON object with a list `keys`; the issuer must send a JWK Set")]
    NotASet,
    /// A set that nobody could mean.
    #[error("it has {count} keys, more than the {limit} allowed; retire keys that are not used")]
    TooManyKeys {
        /// Keys in the set.
        count: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not a JWK.
    #[error("key {index} is no JSON object with a `kty`; the issuer must send a JWK Set")]
    NotAKey {
        /// Position in the set, from 0.
        index: usize,
    },
    /// Without a name.
    #[error("key {index} has no kid; the issuer must name every JWT key")]
    NoKid {
        /// Position in the set, from 0.
        index: usize,
    },
    /// Two keys under one name.
    #[error("two different keys have the kid {kid:?}; the issuer must name them apart")]
    DuplicateKid {
        /// The name, shortened.
        kid: String,
    },
    /// A secret in public.
    #[error("key {index} holds its private part ({member}); replace this key at the issuer, it is compromised")]
    Private {
        /// Position in the set, from 0.
        index: usize,
        /// Which member.
        member: &'static str,
    },
    /// Not a key that could verify anything.
    #[error("the key {kid:?} is malformed or weak; use EC on P-256, P-384 or P-521, or RSA of at least 2048 bits")]
    Unusable {
        /// The name, shortened.
        kid: String,
    },
}

/// The keys of a set that verify JWT-SVIDs.
pub(super) fn decode(document: &[u8], limits: &Limits) -> Result<Vec<Value>, JwksError> {
    if document.len() > limits.bundle_bytes {
        return Err(JwksError::TooLarge { bytes: document.len(), limit: limits.bundle_bytes });
    }
    let Ok(Value::Object(mut set)) = serde_json::from_slice(document) else { return Err(JwksError::NotASet) };
    let Some(Value::Array(keys)) = set.remove("keys") else { return Err(JwksError::NotASet) };
    if keys.len() > KEYS {
        return Err(JwksError::TooManyKeys { count: keys.len(), limit: KEYS });
    }
    let mut usable: BTreeMap<String, Value> = BTreeMap::new();
    for (index, key) in keys.into_iter().enumerate() {
        let kind = text(&key, "kty").ok_or(JwksError::NotAKey { index })?;
        if let Some(member) = PRIVATE.into_iter().find(|member| key.get(member).is_some()) {
            return Err(JwksError::Private { index, member });
        }
        let known = matches!(key.get("use").map(Value::as_str), None | Some(Some("jwt-svid" | "sig")));
        if !known || !matches!(kind, "EC" | "RSA") {
            continue;
        }
        let kid = text(&key, "kid").filter(|kid| !kid.is_empty()).ok_or(JwksError::NoKid { index })?.to_owned();
        let good = if kind == "EC" { signature::point(&key).is_some() } else { signature::rsa(&key).is_some() };
        if !good {
            return Err(JwksError::Unusable { kid: shortened(&kid) });
        }
        if usable.get(&kid).is_some_and(|known| *known != key) {
            return Err(JwksError::DuplicateKid { kid: shortened(&kid) });
        }
        usable.insert(kid, key);
    }
    Ok(usable.into_values().collect())
}
