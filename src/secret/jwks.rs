//! The public keys of one trust domain, as documents: a JWK Set (RFC 7517) for verifiers of JWTs, and a SPIFFE bundle
//! (SPIFFE Trust Domain and Bundle, section 4).
//!
//! Only members that a public key has are written, whatever the source sent: a private member of a JWK (`d`, `k`, ...)
//! can never leave. What a verifier could not use, or must not, is left out: keys without a `kid` (JWT-SVID requires
//! one), keys for other uses, symmetric keys.

use std::time::Duration;

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::{FromDer as _, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use crate::identity::{Certificate, JwtBundle, TrustBundle};

/// A public key whose private half nobody can have: the point of P-256 whose x coordinate is the SHA-256 of a sentence
/// (a test says which) and whose y coordinate is the even one of the two.
const NOBODYS_KEY: &str = r#"{"kty":"EC","kid":"nobody","use":"sig","alg":"ES256","crv":"P-256","x":"82YPp1SbLFCPNvBIH0LvHUAq6bv4TJkcl-AN92Nnbss","y":"ufF2_DYxyB_Y6xbpO7k3eHJiv131OnjFqL3Np5PlAHY"}"#;

/// The keys of a SPIFFE bundle, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleKeys {
    keys: Vec<Value>,
    unusable: usize,
}

/// The JWK Set of a trust domain's JWT keys, by `kid`. `use` is `sig`: a stock JWT library skips keys with SPIFFE's
/// `jwt-svid`, and Envoy's `jwt_authn` looks at neither. Without any usable key it is the [`closed_jwk_set`].
#[must_use]
pub fn jwk_set(bundle: &JwtBundle) -> Bytes {
    let keys: Vec<_> = bundle.keys().iter().filter_map(|key| jwt_key(key, "sig")).collect();
    if keys.is_empty() { closed_jwk_set() } else { Bytes::from(json!({ "keys": keys }).to_string()) }
}

/// The JWK Set of a trust domain that has no keys (any more): no token is valid.
///
/// It is not empty, because Envoy takes an empty set, and every answer but 200, for a failed fetch, and goes on with the
/// keys it has for ever (`async_fetch`; seen on 1.36.2 and 1.40.0). So it has one key, which signs nothing.
#[must_use]
pub fn closed_jwk_set() -> Bytes {
    Bytes::from(format!(r#"{{"keys":[{NOBODYS_KEY}]}}"#))
}

/// A SPIFFE bundle. `sequence` must grow whenever the keys change; the hint is in whole seconds.
#[must_use]
pub fn spiffe_bundle(keys: &BundleKeys, sequence: u64, refresh_hint: Duration) -> Bytes {
    let bundle = json!({
        "keys": keys.keys,
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": refresh_hint.as_secs(),
    });
    Bytes::from(bundle.to_string())
}

impl BundleKeys {
    /// The keys of one trust domain: its X.509 authorities in the order of their DER bytes, then its JWT keys by `kid`.
    #[must_use]
    pub fn new(x509: Option<&TrustBundle>, jwt: Option<&JwtBundle>) -> Self {
        let authorities = x509.map(TrustBundle::authorities).unwrap_or_default();
        let mut keys: Vec<_> = authorities.iter().filter_map(x509_key).collect();
        let unusable = authorities.len() - keys.len();
        let jwt = jwt.map(JwtBundle::keys).unwrap_or_default();
        keys.extend(jwt.iter().filter_map(|key| jwt_key(key, "jwt-svid")));
        Self { keys, unusable }
    }

    /// How many X.509 authorities are left out because their public key has no form as a JWK. One such key would make
    /// a consumer refuse the whole bundle.
    #[must_use]
    pub fn unusable(&self) -> usize {
        self.unusable
    }
}

/// A JWT key with only its public members and this `use`; `None` if a verifier of JWT-SVIDs must not have it.
fn jwt_key(key: &Value, usage: &str) -> Option<Value> {
    let text = |member: &str| key.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
    if !matches!(text("use"), None | Some("jwt-svid" | "sig")) {
        return None;
    }
    let kty = text("kty")?;
    let members: &[&str] = match kty {
        "EC" => &["crv", "x", "y"],
        "RSA" => &["n", "e"],
        _ => return None,
    };
    let mut public = Map::new();
    for (member, value) in [("kty", kty), ("kid", text("kid")?), ("use", usage)] {
        public.insert(member.to_owned(), value.into());
    }
    if let Some(algorithm) = text("alg") {
        public.insert("alg".to_owned(), algorithm.into());
    }
    for member in members {
        public.insert((*member).to_owned(), text(member)?.into());
    }
    Some(Value::Object(public))
}

/// An authority as a JWK: exactly one certificate in `x5c`, and the same public key spelt out, because consumers parse
/// the key before they look at the certificate.
fn x509_key(authority: &Certificate) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(authority.der()).ok()?;
    let mut key = public_key(certificate.public_key())?;
    let members = key.as_object_mut()?;
    members.insert("use".to_owned(), "x509-svid".into());
    // Plain base64 here, base64url everywhere else (RFC 7517, section 4.7).
    members.insert("x5c".to_owned(), json!([Base64::encode_string(authority.der())]));
    Some(key)
}

fn public_key(info: &SubjectPublicKeyInfo<'_>) -> Option<Value> {
    let url = Base64UrlUnpadded::encode_string;
    if info.algorithm.algorithm == OID_SIG_ED25519 {
        return Some(json!({ "kty": "OKP", "crv": "Ed25519", "x": url(&info.subject_public_key.data) }));
    }
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let digits = |number: &[u8]| {
                let zeros = number.iter().take_while(|byte| **byte == 0).count();
                url(number.get(zeros..).unwrap_or_default())
            };
            Some(json!({ "kty": "RSA", "n": digits(key.modulus), "e": digits(key.exponent) }))
        }
        PublicKey::EC(point) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let curves = [(OID_EC_P256, "P-256", 32), (OID_NIST_EC_P384, "P-384", 48), (OID_NIST_EC_P521, "P-521", 66)];
            let (_, name, size) = curves.into_iter().find(|(oid, ..)| *oid == curve)?;
            // 4: both coordinates follow, uncompressed (SEC 1, section 2.3.3).
            let (4, coordinates) = point.data().split_first()? else { return None };
            let (x, y) = coordinates.split_at_checked(size).filter(|(_, y)| y.len() == size)?;
            Some(json!({ "kty": "EC", "crv": name, "x": url(x), "y": url(y) }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
