//! JWT-SVIDs in generic secrets: whose and until when. The signature is not looked at, and the token is never shown.

use std::time::{Duration, SystemTime};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

/// What a token claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub`.
    pub subject: String,
    /// `aud`.
    pub audience: Vec<String>,
    /// `exp`.
    pub expires: Option<SystemTime>,
}

/// The claims of a compact JWT, if it is one.
pub(super) fn claims(token: &str) -> Option<Claims> {
    let [_, payload, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let payload: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(payload).ok()?).ok()?;
    let text = |value: &Value| value.as_str().map(super::secret::printable);
    let audience = match payload.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().filter_map(text).collect(),
        Some(audience) => text(audience).into_iter().collect(),
        None => Vec::new(),
    };
    let expires = payload.get("exp").and_then(Value::as_u64);
    Some(Claims {
        subject: payload.get("sub").and_then(text).unwrap_or_default(),
        audience,
        expires: expires.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.as_bytes()))
    }

    #[test]
    fn claims_are_read_without_the_key() {
        let one = claims(&token(r#"{"sub":"spiffe://td/w","aud":"db","exp":60}"#)).unwrap();
        assert_eq!((one.subject.as_str(), one.audience), ("spiffe://td/w", vec!["db".to_owned()]));
        assert_eq!(one.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
        let two = claims(&token(r#"{"aud":["a","b"]}"#)).unwrap();
        assert_eq!((two.audience.len(), two.expires), (2, None));
    }

    #[test]
    fn other_secrets_claim_nothing() {
        for other in ["", "password", "a.b", "a.b.c", "a.b.c.d", &token("no json")] {
            assert_eq!(claims(other), None, "{other}");
        }
    }
}
