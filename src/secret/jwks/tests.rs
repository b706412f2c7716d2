//! Golden documents, and everything that must not be in them.

use aws_lc_rs::{
    digest::SHA256,
    signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;
use crate::identity::TrustDomain;

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn jwt(keys: Value) -> JwtBundle {
    JwtBundle::new(td(), keys.as_array().unwrap().clone())
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn authority(key: &KeyPair) -> Certificate {
    Certificate::from_der(CertificateParams::default().self_signed(key).unwrap().der())
}

fn bundle(authorities: Vec<Certificate>) -> TrustBundle {
    TrustBundle::new(td(), authorities)
}

#[test]
fn a_jwk_set_has_one_spelling() {
    let a = json!({"y": "Yy", "x": "Xx", "use": "jwt-svid", "crv": "P-256", "kid": "a", "kty": "EC"});
    let b = json!({"alg": "RS256", "kid": "b", "kty": "RSA", "e": "AQAB", "n": "Nn"});
    let golden = r#"{"keys":[{"kty":"EC","kid":"a","use":"sig","crv":"P-256","x":"Xx","y":"Yy"},{"kty":"RSA","kid":"b","use":"sig","alg":"RS256","n":"Nn","e":"AQAB"}]}"#;
    assert_eq!(text(&jwk_set(&jwt(json!([a, b])))), golden);
    assert_eq!(text(&jwk_set(&jwt(json!([b, a])))), golden);
}

/// Envoy would keep the old keys of a domain whose set is empty.
#[test]
fn a_set_without_keys_has_one_that_nobody_can_use() {
    let unusable = json!([{"kty": "oct", "kid": "a", "k": "SECRET"}]);
    for keys in [json!([]), unusable] {
        let set = jwk_set(&jwt(keys));
        assert_eq!(set, closed_jwk_set());
        let key = serde_json::from_slice::<Value>(&set).unwrap()["keys"][0].take();
        let coordinate = |name: &str| Base64UrlUnpadded::decode_vec(key[name].as_str().unwrap()).unwrap();
        let (x, y) = (coordinate("x"), coordinate("y"));
        // Nobody can choose a private key so that its public key is a digest; and `y` follows from `x`.
        let digest = aws_lc_rs::digest::digest(&SHA256, b"spiffe-sds: a key that nobody has, 0");
        assert_eq!((x.as_slice(), y[31] % 2), (digest.as_ref(), 0));
        let point = [vec![4], x, y].concat();
        assert!(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_ok(), "a verifier would refuse it");
        let mut elsewhere = point;
        elsewhere[64] ^= 2;
        assert!(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &elsewhere).is_err(), "this test would not notice");
    }
}

#[test]
fn private_members_and_foreign_keys_stay_here() {
    let bundle = jwt(json!([
        {"kty": "EC", "kid": "private", "crv": "P-256", "x": "Xx", "y": "Yy", "d": "SECRET"},
        {"kty": "RSA", "kid": "primes", "n": "Nn", "e": "AQAB", "d": "SECRET", "p": "SECRET", "q": "SECRET"},
        {"kty": "oct", "kid": "symmetric", "k": "SECRET"},
        {"kty": "EC", "kid": "x509", "use": "x509-svid", "crv": "P-256", "x": "Xx", "y": "Yy"},
        {"kty": "EC", "kid": "encryption", "use": "enc", "crv": "P-256", "x": "Xx", "y": "Yy"},
        {"kty": "EC", "crv": "P-256", "x": "nameless", "y": "Yy"},
        {"kty": "EC", "kid": "", "crv": "P-256", "x": "nameless", "y": "Yy"},
        {"kty": "EC", "kid": "half", "crv": "P-256", "x": "Xx"},
        {"kty": "EC", "kid": 7, "crv": "P-256", "x": "Xx", "y": "Yy"},
        "not an object",
    ]));
    let documents =
        [jwk_set(&bundle), spiffe_bundle(&BundleKeys::new(None, Some(&bundle)), 1, Duration::from_secs(60))];
    for document in documents {
        let parsed: Value = serde_json::from_slice(&document).unwrap();
        let kids: Vec<_> = parsed["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
        assert_eq!(kids, ["primes", "private"], "sorted by kid");
        assert!(!text(&document).contains("SECRET"), "{}", text(&document));
    }
}

#[test]
fn a_spiffe_bundle_has_both_kinds_of_keys() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let authority = authority(&key);
    // Uncompressed point: 4, x, y.
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let jwt = jwt(json!([{"kty": "EC", "kid": "a", "crv": "P-256", "x": "Xx", "y": "Yy"}]));
    let keys = BundleKeys::new(Some(&bundle(vec![authority.clone()])), Some(&jwt));
    let golden = format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{}","y":"{}","use":"x509-svid","x5c":["{}"]}},{{"kty":"EC","kid":"a","use":"jwt-svid","crv":"P-256","x":"Xx","y":"Yy"}}],"spiffe_sequence":7,"spiffe_refresh_hint":60}}"#,
        Base64UrlUnpadded::encode_string(x),
        Base64UrlUnpadded::encode_string(y),
        Base64::encode_string(authority.der()),
    );
    assert_eq!(text(&spiffe_bundle(&keys, 7, Duration::from_millis(60_900))), golden);
    assert_eq!(keys.unusable(), 0);
}

#[test]
fn every_kind_of_authority_has_a_jwk_and_one_without_is_left_out() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let key = x509_key(&authority(&p384)).unwrap();
    assert_eq!((key["kty"].as_str(), key["crv"].as_str()), (Some("EC"), Some("P-384")));
    assert_eq!(Base64UrlUnpadded::decode_vec(key["y"].as_str().unwrap()).unwrap().len(), 48);

    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let key = x509_key(&authority(&ed25519)).unwrap();
    assert_eq!(key["x"], Base64UrlUnpadded::encode_string(ed25519.public_key_raw()));

    let keys = BundleKeys::new(Some(&bundle(vec![authority(&p384), Certificate::from_der(b"no certificate")])), None);
    assert_eq!((keys.keys.len(), keys.unusable()), (1, 1));
}

#[test]
fn an_rsa_authority_has_no_leading_zero() {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key = x509_key(&authority(&key)).unwrap();
    assert_eq!((key["kty"].as_str(), key["e"].as_str()), (Some("RSA"), Some("AQAB")));
    assert_eq!(Base64UrlUnpadded::decode_vec(key["n"].as_str().unwrap()).unwrap().len(), 256);
}
