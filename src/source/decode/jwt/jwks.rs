//! JWK Sets (RFC 7517) as SPIFFE bundles have them: SPIFFE Trust Domain and Bundle, section 4; JWT-SVID, section 6.
//!
//! | A key with | is |
//! |---|---|
//! | `use` other than `jwt-svid`, `sig` or nothing | ignored: it is for something else |
//! | a `kty` other than `EC` and `RSA` | refused: no allowed algorithm uses it |
//! | no `kid`, or that of a key before it | refused: a token could not tell which it means |
//! | a private part | refused: whoever reads the bundle could sign |
//! | a missing, malformed or weak part, or a point off its curve | refused: it verifies nothing, or everything |
//!
//! A key is refused by itself. The set is only where it is none, or holds nothing but refused keys. An empty set is a
//! statement: no token of this trust domain is valid. `use` may be absent because SPIRE's Workload API writes plain JWK Sets.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::signature::{self, Unsound, text};
use crate::source::decode::{Limits, shortened};

/// What only the owner of a key may have (RFC 7518, sections 6.2.2 and 6.3.2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];
/// Keys in one set, those left out included.
const KEYS: usize = 1000;
/// What stands before the text in what some programs write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why nothing of a JWK Set can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// Not a byte. SPIRE before 1.9.3 sends that for a trust domain without JWT keys.
    #[error("it is empty where an empty JWK Set is {{\"keys\":[]}}; SPIRE 1.9.3 and later send one")]
    Empty,
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
    /// Keys, each of them refused.
    #[error("none of its {count} keys can be used; correct them at the issuer")]
    NoUsableKey {
        /// Keys in the set.
        count: usize,
    },
}

/// Why one key is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// Not a JWK.
    #[error("it is no JSON object with a `kty`; the issuer must send a JWK")]
    NotAKey,
    /// A kind of key that no algorithm of the JWT-SVID standard uses.
    #[error("its kty is {kty:?}, which verifies no JWT-SVID; use EC on P-256, P-384 or P-521, or RSA")]
    KeyType {
        /// As the key says, shortened.
        kty: String,
    },
    /// Without a name.
    #[error("it has no kid; the issuer must name every JWT key")]
    NoKid,
    /// Two keys under one name.
    #[error("a key before it has the same kid; the issuer must name them apart")]
    DuplicateKid,
    /// A secret in public.
    #[error("it holds its private part ({member}); replace this key at the issuer, it is compromised")]
    Private {
        /// Which member.
        member: &'static str,
    },
    /// Not a key that could verify anything, or not only the tokens that its owner signs.
    #[error(transparent)]
    Unsound(#[from] Unsound),
    /// Beyond what anybody could mean.
    #[error("a set may hold {KEYS} keys; retire keys that are not used")]
    Surplus,
}

/// What a set says.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) usable: Vec<Value>,
    /// Keys that are left out, each by its `kid`, or place.
    pub(super) refused: Vec<(String, JwkError)>,
    /// Why nothing of it counts.
    pub(super) error: Option<JwksError>,
}

impl From<JwksError> for Keys {
    fn from(error: JwksError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

/// The keys of a set that verify JWT-SVIDs.
pub(super) fn decode(document: &[u8], limits: &Limits) -> Keys {
    if document.is_empty() {
        return JwksError::Empty.into();
    }
    if document.len() > limits.bundle_bytes {
        return JwksError::TooLarge { bytes: document.len(), limit: limits.bundle_bytes }.into();
    }
    let document = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
    let set: Option<Map<String, Value>> = serde_json::from_slice(document).ok();
    let Some(Value::Array(keys)) = set.and_then(|mut set| set.remove("keys")) else { return JwksError::NotASet.into() };
    let count = keys.len();
    let mut found = Keys::default();
    let mut usable: BTreeMap<String, Value> = BTreeMap::new();
    for (index, key) in keys.into_iter().take(KEYS).enumerate() {
        let kid = text(&key, "kid").filter(|kid| !kid.is_empty()).map(str::to_owned);
        let judged = match check(&key) {
            Ok(false) => continue,
            Ok(true) if kid.is_none() => Err(JwkError::NoKid),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        match (judged, kid) {
            (Ok(()), Some(kid)) if usable.get(&kid) == Some(&key) => {}
            (Ok(()), Some(kid)) if usable.contains_key(&kid) => found.refused.push((kid, JwkError::DuplicateKid)),
            (Ok(()), Some(kid)) => {
                usable.insert(kid, key);
            }
            (judged, kid) => {
                let name = kid.unwrap_or_else(|| format!("at position {}", index + 1));
                found.refused.push((name, judged.err().unwrap_or(JwkError::NoKid)));
            }
        }
    }
    if count > KEYS {
        found.refused.push((format!("after the first {KEYS}"), JwkError::Surplus));
    }
    found.usable = usable.into_values().collect();
    if found.usable.is_empty() && !found.refused.is_empty() {
        found.error = Some(JwksError::NoUsableKey { count });
    }
    found
}

/// Whether a key is one for us; whatever its name is.
fn check(key: &Value) -> Result<bool, JwkError> {
    let kty = text(key, "kty");
    if !matches!(key.get("use").map(Value::as_str), None | Some(Some("jwt-svid" | "sig"))) {
        return Ok(false);
    }
    let kty = kty.ok_or(JwkError::NotAKey)?;
    if let Some(member) = PRIVATE.into_iter().find(|member| key.get(member).is_some()) {
        return Err(JwkError::Private { member });
    }
    match kty {
        "EC" => signature::point(key).map(|_| true).map_err(JwkError::from),
        "RSA" => signature::rsa(key).map(|_| true).map_err(JwkError::from),
        other => Err(JwkError::KeyType { kty: shortened(other) }),
    }
}
