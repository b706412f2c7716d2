//! Each rule broken once.

use std::time::Duration;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        KeyPair as _,
    },
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};

use super::*;
use crate::identity::Hint;

const ID: &str = "spiffe://example.org/web";
const NOW: u64 = 1_800_000_000;

struct Signer {
    pair: EcdsaKeyPair,
    alg: &'static str,
    crv: &'static str,
}

impl Signer {
    fn new(alg: &'static str, crv: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self { pair: EcdsaKeyPair::generate(algorithm).unwrap(), alg, crv }
    }

    fn p256() -> Self {
        Self::new("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let text = Base64UrlUnpadded::encode_string;
        json!({ "kty": "EC", "use": "jwt-svid", "kid": kid, "crv": self.crv, "x": text(x), "y": text(y) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()))
    }

    fn honest(&self) -> String {
        self.sign(&self.header(), &claims())
    }

    fn header(&self) -> Value {
        json!({ "alg": self.alg, "kid": "k1", "typ": "JWT" })
    }
}

fn part(value: &Value) -> String {
    Base64UrlUnpadded::encode_string(value.to_string().as_bytes())
}

fn claims() -> Value {
    json!({ "sub": ID, "aud": ["a", "b"], "exp": NOW + 300, "iat": NOW - 10 })
}

fn with(mut value: Value, key: &str, to: Value) -> Value {
    value[key] = to;
    value
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn message(tokens: &[(&str, &str, &str)]) -> proto::JwtsvidResponse {
    let svid = |(id, token, hint): &(&str, &str, &str)| proto::Jwtsvid {
        spiffe_id: (*id).to_owned(),
        svid: (*token).to_owned(),
        hint: (*hint).to_owned(),
    };
    proto::JwtsvidResponse { svids: tokens.iter().map(svid).collect() }
}

fn request(subject: JwtSubject) -> JwtRequest {
    JwtRequest { subject, audience: ["a".to_owned()].into() }
}

fn keys(jwks: &[Value]) -> JwtBundles {
    let document = json!({ "keys": jwks }).to_string();
    let message = proto::JwtBundlesResponse { bundles: [("spiffe://example.org".to_owned(), document.into())].into() };
    bundles(&message, &Limits::default()).unwrap()
}

fn decoded(token: &str, keys: &JwtBundles) -> Result<JwtSvid, TokenError> {
    let mut message = message(&[(ID, token, "")]);
    let decoded =
        svid(&mut message, &request(JwtSubject::Default), &DefaultIdentity::First, keys, &Limits::default(), at(NOW));
    decoded.map_err(|error| match error {
        JwtError::Token { source, .. } => source,
        other => panic!("{other}"),
    })
}

#[test]
fn an_honest_token_is_taken_over() {
    for signer in [Signer::p256(), Signer::new("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING)] {
        let token = signer.honest();
        let svid = decoded(&token, &keys(&[signer.jwk("k1")])).unwrap();
        assert_eq!((svid.id.to_string().as_str(), svid.audience.len()), (ID, 2));
        assert_eq!((svid.validity.not_before, svid.validity.not_after), (at(NOW - 10), at(NOW + 300)));
        assert_eq!(svid.token.compact(), token);
    }
}

#[test]
fn one_audience_may_be_a_text_and_times_may_have_fractions() {
    let claims = json!({ "sub": ID, "aud": "a", "exp": NOW as f64 + 0.5 });
    let svid = decoded(&Signer::p256().sign(&json!({ "alg": "ES256" }), &claims), &JwtBundles::new()).unwrap();
    assert_eq!(svid.validity.not_after, at(NOW) + Duration::from_millis(500));
    assert_eq!(svid.validity.not_before, at(NOW), "without iat it is as old as its arrival");
}

#[test]
fn every_broken_rule_has_its_name() {
    let signer = Signer::p256();
    let header = |key: &str, value: Value| signer.sign(&with(signer.header(), key, value), &claims());
    let claim = |key: &str, value: Value| signer.sign(&signer.header(), &with(claims(), key, value));
    let honest = signer.honest();
    let unsigned = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims()));
    let long = claim("padding", "x".repeat(20_000).into());
    type Expected = fn(&TokenError) -> bool;
    let cases: Vec<(&str, String, Expected)> = vec![
        ("20 KB", long, |e| matches!(e, TokenError::TooLong { .. })),
        ("CR LF", format!("{honest}\r\n"), |e| matches!(e, TokenError::NotHeaderSafe { .. })),
        ("space", honest.replacen('.', ". ", 1), |e| matches!(e, TokenError::NotHeaderSafe { .. })),
        ("UTF-8", format!("{honest}é"), |e| matches!(e, TokenError::NotHeaderSafe { .. })),
        ("empty", String::new(), |e| matches!(e, TokenError::NotCompact { parts: 1 })),
        ("two parts", "e30.e30".into(), |e| matches!(e, TokenError::NotCompact { parts: 2 })),
        ("JWE", "e30.e30.e30.e30.e30".into(), |e| matches!(e, TokenError::NotCompact { parts: 5 })),
        ("no header", "e30.e30.e30".into(), |e| matches!(e, TokenError::Header)),
        ("none", unsigned, |e| matches!(e, TokenError::Algorithm { found } if found == "none")),
        ("HS256", header("alg", "HS256".into()), |e| matches!(e, TokenError::Algorithm { .. })),
        ("EdDSA", header("alg", "EdDSA".into()), |e| matches!(e, TokenError::Algorithm { .. })),
        ("typ", header("typ", "at+jwt".into()), |e| matches!(e, TokenError::Type { .. })),
        ("crit", header("crit", json!(["b64"])), |e| matches!(e, TokenError::Critical)),
        ("claims", format!("{}.bm8.e30", part(&signer.header())), |e| matches!(e, TokenError::Claims)),
        ("no sub", claim("sub", Value::Null), |e| matches!(e, TokenError::Subject { .. })),
        ("other sub", claim("sub", "spiffe://example.org/api".into()), |e| matches!(e, TokenError::Subject { .. })),
        ("no aud", claim("aud", Value::Null), |e| matches!(e, TokenError::Audience { missing } if missing == "a")),
        ("other aud", claim("aud", json!(["b"])), |e| matches!(e, TokenError::Audience { .. })),
        ("aud of numbers", claim("aud", json!([1])), |e| matches!(e, TokenError::Claims)),
        ("no exp", claim("exp", Value::Null), |e| matches!(e, TokenError::NoExpiry)),
        ("negative exp", claim("exp", json!(-5)), |e| matches!(e, TokenError::NoExpiry)),
        ("exp as text", claim("exp", "2030".into()), |e| matches!(e, TokenError::Claims)),
        ("exp now", claim("exp", json!(NOW)), |e| matches!(e, TokenError::Expired { .. })),
        ("nbf", claim("nbf", json!(NOW + 61)), |e| matches!(e, TokenError::NotYetValid { .. })),
        ("kid", header("kid", "k2".into()), |e| matches!(e, TokenError::UnknownKey { kid } if kid == "k2")),
        ("forged", Signer::p256().honest(), |e| matches!(e, TokenError::Signature)),
        ("other alg", header("alg", "RS256".into()), |e| matches!(e, TokenError::Signature)),
    ];
    let known = keys(&[signer.jwk("k1")]);
    for (name, token, expected) in cases {
        let error = decoded(&token, &known).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(
            token.split('.').all(|part| part.len() < 8 || !shown.contains(part)),
            "{name} shows the token: {shown}"
        );
    }
    assert!(decoded(&header("kid", Value::Null), &known).is_ok(), "without kid any key may do");
    assert!(decoded(&claim("nbf", json!(NOW + 59)), &known).is_ok(), "clocks may disagree a little");
    assert!(decoded(&Signer::p256().honest(), &JwtBundles::new()).is_ok(), "unknown keys prove nothing");
}

#[test]
fn a_token_loses_its_voucher_with_its_key() {
    let signer = Signer::p256();
    let svid = decoded(&signer.honest(), &keys(&[signer.jwk("k1")])).unwrap();
    assert_eq!(vouched(&svid, &JwtBundles::new()), Ok(()));
    let after = vouched(&svid, &keys(&[Signer::p256().jwk("k2")]));
    assert_eq!(after, Err(TokenError::UnknownKey { kid: "k1".to_owned() }));
}

#[test]
fn the_default_is_the_one_that_was_chosen() {
    let (signer, other) = (Signer::p256(), "spiffe://example.org/ns/x/api");
    let api = signer.sign(&signer.header(), &with(claims(), "sub", other.into()));
    let web = signer.honest();
    let answer = [(ID, web.as_str(), ""), (other, api.as_str(), "external")];
    let taken = |default: DefaultIdentity| {
        let (mut message, request) = (message(&answer), request(JwtSubject::Default));
        svid(&mut message, &request, &default, &JwtBundles::new(), &Limits::default(), at(NOW))
            .map(|svid| svid.id.to_string())
    };
    assert_eq!(taken(DefaultIdentity::First).unwrap(), ID);
    assert_eq!(taken(DefaultIdentity::Id(SpiffeId::new(other).unwrap())).unwrap(), other);
    assert_eq!(taken(DefaultIdentity::Pattern("spiffe://example.org/ns/*/api".parse().unwrap())).unwrap(), other);
    assert_eq!(taken(DefaultIdentity::Hint("external".to_owned())).unwrap(), other);
    let error = taken(DefaultIdentity::Hint("internal".to_owned())).unwrap_err();
    assert!(matches!(&error, JwtError::NoDefault { wanted } if wanted.contains("internal")), "{error}");
    assert_eq!(crate::source::SourceError::from(error).kind(), crate::source::ErrorKind::NotEntitled);
}

#[test]
fn the_subject_decides_which_token_is_taken() {
    let (signer, other) = (Signer::p256(), "spiffe://example.org/api");
    let api = signer.sign(&signer.header(), &with(claims(), "sub", other.into()));
    let web = signer.honest();
    let answer = [(ID, web.as_str(), "internal"), (other, api.as_str(), "external")];
    let taken = |subject, answer: &[(&str, &str, &str)]| {
        let limits = Limits::default();
        svid(&mut message(answer), &request(subject), &DefaultIdentity::First, &JwtBundles::new(), &limits, at(NOW))
            .map(|svid| svid.id.to_string())
    };
    let hint = |hint| JwtSubject::Hint(Hint::new(hint).unwrap());
    assert_eq!(taken(JwtSubject::Default, &answer).unwrap(), ID);
    assert_eq!(taken(hint("external"), &answer).unwrap(), other);
    assert!(matches!(taken(hint("none"), &answer), Err(JwtError::NoSuchHint { .. })));
    let id = JwtSubject::Id(SpiffeId::new(other).unwrap());
    assert!(matches!(taken(id.clone(), &answer), Err(JwtError::OtherIdentity { .. })));
    assert_eq!(taken(id, &answer[1..]).unwrap(), other);
    assert!(matches!(taken(JwtSubject::Default, &[]), Err(JwtError::NoToken)));
    assert!(matches!(taken(JwtSubject::Default, &[("web", &web, "")]), Err(JwtError::SpiffeId { .. })));
    let many = vec![answer[0]; 1001];
    assert!(matches!(taken(JwtSubject::Default, &many), Err(JwtError::TooManyTokens { count: 1001, .. })));
}

#[test]
fn a_set_is_read_by_its_rules() {
    let jwk = |kid: &str| Signer::p256().jwk(kid);
    let read = |keys: Value| jwks::decode(json!({ "keys": keys }).to_string().as_bytes(), &Limits::default());
    let same = jwk("a");
    assert_eq!(read(json!([same, same])).unwrap(), std::slice::from_ref(&same));
    let without_use = json!({ "kty": "EC", "kid": "a", "crv": "P-256", "x": same["x"], "y": same["y"] });
    assert_eq!(read(json!([without_use])).unwrap().len(), 1);
    let left_out = json!([
        with(jwk("a"), "use", "x509-svid".into()),
        with(jwk("b"), "use", "enc".into()),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA" }),
        json!({ "kty": "EC", "use": "x509-svid", "x5c": ["AA"] }),
    ]);
    assert_eq!(read(left_out).unwrap(), Vec::<Value>::new());
    type Expected = fn(&JwksError) -> bool;
    let cases: Vec<(Value, Expected)> = vec![
        (json!([jwk("a"), jwk("a")]), |e| matches!(e, JwksError::DuplicateKid { kid } if kid == "a")),
        (json!([with(jwk("a"), "kid", Value::Null)]), |e| matches!(e, JwksError::NoKid { index: 0 })),
        (json!([with(jwk("a"), "kid", "".into())]), |e| matches!(e, JwksError::NoKid { index: 0 })),
        (json!([with(jwk("a"), "d", "AA".into())]), |e| matches!(e, JwksError::Private { member: "d", .. })),
        (json!([{ "kty": "oct", "kid": "a", "k": "AA" }]), |e| matches!(e, JwksError::Private { member: "k", .. })),
        (json!([with(jwk("a"), "crv", "secp256k1".into())]), |e| matches!(e, JwksError::Unusable { .. })),
        (json!([with(jwk("a"), "x", "AA".into())]), |e| matches!(e, JwksError::Unusable { .. })),
        (json!([{ "kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB" }]), |e| matches!(e, JwksError::Unusable { .. })),
        (json!(["key"]), |e| matches!(e, JwksError::NotAKey { index: 0 })),
        (json!({}), |e| matches!(e, JwksError::NotASet)),
        (Value::Array(vec![json!({ "kty": "x" }); 1001]), |e| matches!(e, JwksError::TooManyKeys { .. })),
    ];
    for (keys, expected) in cases {
        let error = read(keys.clone()).unwrap_err();
        assert!(expected(&error), "{keys}: {error:?}");
    }
    assert_eq!(jwks::decode(b"keys", &Limits::default()), Err(JwksError::NotASet));
}

#[test]
fn bundles_are_keyed_by_trust_domain() {
    let read = |names: &[&str]| {
        let set = |name: &&str| ((*name).to_owned(), bytes::Bytes::from_static(b"{\"keys\":[]}"));
        bundles(&proto::JwtBundlesResponse { bundles: names.iter().map(set).collect() }, &Limits::default())
    };
    assert_eq!(read(&["spiffe://a.org", "spiffe://b.org"]).unwrap().len(), 2);
    assert!(matches!(read(&[]), Err(JwtError::NoBundles)));
    assert!(matches!(read(&["a.org", "spiffe://a.org"]), Err(JwtError::DuplicateBundle { .. })));
    assert!(matches!(read(&["spiffe://a.org/path"]), Err(JwtError::TrustDomain { .. })));
}
