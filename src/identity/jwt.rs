//! JWT-SVIDs, the keys that verify them, and everything known about both at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::SystemTime,
};

use serde_json::Value;
use spiffe::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use super::{Hint, Validity};

/// A token in compact serialisation. Whoever has it is its subject: wiped when dropped, and `Debug` never shows it.
#[derive(Clone)]
pub struct Token(Arc<Zeroizing<String>>);

impl Token {
    /// Takes ownership of a compact JWS; `source::decode` is what checks it.
    #[must_use]
    pub fn new(compact: Zeroizing<String>) -> Self {
        Self(Arc::new(compact))
    }

    /// The compact JWS. Whatever copies it must wipe its copy.
    #[must_use]
    pub fn compact(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// Tokens are equal when they are the same token.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.compact() == other.compact()
    }
}

impl Eq for Token {}

/// Which of the workload's identities a token is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwtSubject {
    /// The source's default.
    #[default]
    Default,
    /// The identity with this SPIFFE ID.
    Id(SpiffeId),
    /// The identity with this hint.
    Hint(Hint),
}

/// For messages: the SPIFFE ID, the hint in quotes, or "the default identity".
impl fmt::Display for JwtSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default identity"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Hint(hint) => write!(f, "hint {:?}", hint.as_str()),
        }
    }
}

/// What a token is asked for: whose, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JwtRequest {
    /// Whose.
    pub subject: JwtSubject,
    /// For whom; never empty.
    pub audience: BTreeSet<String>,
}

/// A JWT-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvid {
    /// The subject.
    pub id: SpiffeId,
    /// The `aud` claim, which includes every audience that was asked for.
    pub audience: BTreeSet<String>,
    /// `iat` (or when it was received) and `exp`.
    pub validity: Validity,
    /// The operator's label, if the source gave one.
    pub hint: Option<Hint>,
    /// The token itself.
    pub token: Token,
}

/// The keys that verify one trust domain's JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtBundle {
    trust_domain: TrustDomain,
    keys: Vec<Value>,
}

impl JwtBundle {
    /// A bundle of JWKs (RFC 7517), in the order of their `kid` so that equal trust has equal bytes everywhere.
    /// `source::decode` is what checks them.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, mut keys: Vec<Value>) -> Self {
        let order = |key: &Value| (key.get("kid").and_then(Value::as_str).map(str::to_owned), key.to_string());
        keys.sort_by_cached_key(order);
        keys.dedup();
        Self { trust_domain, keys }
    }

    /// The trust domain whose tokens these keys verify.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The JWKs, by `kid`. May be empty: then every token of the domain is untrusted.
    #[must_use]
    pub fn keys(&self) -> &[Value] {
        &self.keys
    }
}

/// How a wanted token stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwtState {
    /// Not received yet: clients wait.
    Pending,
    /// Here it is.
    Valid(Arc<JwtSvid>),
    /// It could not be renewed before its `exp` (at this moment), or is not granted any more: clients get an empty one.
    Gone(SystemTime),
}

/// Everything known about a workload's tokens and the keys of its trust domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtSnapshot {
    /// Every token that the configuration asks for.
    pub svids: BTreeMap<JwtRequest, JwtState>,
    /// The keys of each trust domain.
    pub bundles: BTreeMap<TrustDomain, Arc<JwtBundle>>,
    /// Trust domains for which the source has keys that cannot be used, and of which none is known from before.
    pub unreadable: BTreeSet<TrustDomain>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn debug_never_shows_a_token() {
        let token = Token::new(Zeroizing::new("eyJhbGciOi.secret.sig".to_owned()));
        assert_eq!(format!("{token:?}"), "Token([redacted])");
    }

    #[test]
    fn keys_have_one_order() {
        let td = TrustDomain::new("example.org").unwrap();
        let (a, b) = (json!({"kid": "a"}), json!({"kid": "b"}));
        let bundle = JwtBundle::new(td.clone(), vec![b.clone(), a.clone(), b.clone()]);
        assert_eq!(bundle, JwtBundle::new(td, vec![a, b]));
    }
}
