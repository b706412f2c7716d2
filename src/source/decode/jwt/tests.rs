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
    bundles(&message, &Limits::default(), &BTreeSet::new()).unwrap().bundles
}

fn decoded(token: &str, keys: &JwtBundles) -> Result<JwtSvid, TokenError> {
    let mut message = message(&[(ID, token, "")]);
    let decoded = svid(&mut message, &request(JwtSubject::Default), &DefaultIdentity::First, keys, at(NOW));
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
        svid(&mut message, &request, &default, &JwtBundles::new(), at(NOW)).map(|svid| svid.id.to_string())
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
        svid(&mut message(answer), &request(subject), &DefaultIdentity::First, &JwtBundles::new(), at(NOW))
            .map(|svid| svid.id.to_string())
    };
    let hint = |hint| JwtSubject::Hint(Hint::new(hint).unwrap());
    assert_eq!(taken(JwtSubject::Default, &answer).unwrap(), ID);
    assert_eq!(taken(hint("external"), &answer).unwrap(), other);
    assert!(matches!(taken(hint("none"), &answer), Err(JwtError::NoSuchHint { .. })));
    let id = JwtSubject::Id(SpiffeId::new(other).unwrap());
    assert_eq!(taken(id.clone(), &answer).unwrap(), other, "wherever it stands");
    assert_eq!(taken(id.clone(), &answer[1..]).unwrap(), other);
    assert!(matches!(taken(id.clone(), &answer[..1]), Err(JwtError::OtherIdentity { .. })));
    assert!(matches!(taken(id.clone(), &[]), Err(JwtError::NoToken)));
    let beside_garbage = [("?", web.as_str(), ""), answer[1]];
    assert_eq!(taken(id.clone(), &beside_garbage).unwrap(), other, "what is wrong with others does not matter");
    assert!(matches!(taken(JwtSubject::Default, &[]), Err(JwtError::NoToken)));
    assert!(matches!(taken(JwtSubject::Default, &[("web", &web, "")]), Err(JwtError::SpiffeId { .. })));
    let many = [vec![answer[0]; 1000], vec![answer[1]]].concat();
    assert_eq!(taken(id, &many).unwrap(), other, "however many there are");
}

/// The kids of a set that are used, and those that are not, with why.
fn read(document: &[u8]) -> (Vec<String>, Vec<(String, JwkError)>, Option<JwksError>) {
    let found = jwks::decode(document, &Limits::default());
    let kid = |key: &Value| key["kid"].as_str().unwrap().to_owned();
    (found.usable.iter().map(kid).collect(), found.refused, found.error)
}

fn rsa_key(bits: usize, exponent: &[u8]) -> Value {
    let text = Base64UrlUnpadded::encode_string;
    let mut modulus = vec![0xa5; bits / 8];
    modulus[0] |= 0x80;
    json!({ "kty": "RSA", "kid": "odd", "n": text(&modulus), "e": text(exponent) })
}

/// Each beside a good key before it and one behind it, which have to be used whatever is between them.
#[test]
fn one_bad_key_leaves_the_others_alone() {
    let (before, behind, odd) = (Signer::p256().jwk("before"), Signer::p256().jwk("behind"), Signer::p256().jwk("odd"));
    let padded = |member: &str| with(odd.clone(), member, format!("{}=", odd[member].as_str().unwrap()).into());
    let p521 = Signer::new("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING).jwk("odd");
    let number = |member| JwkError::Unsound(Unsound::Number { member });
    let modulus = |bits| JwkError::Unsound(Unsound::Modulus { bits });
    let swapped = with(with(odd.clone(), "x", odd["y"].clone()), "y", odd["x"].clone());
    let exponent = JwkError::Unsound(Unsound::Exponent);
    let cases: Vec<(Value, JwkError)> = vec![
        (with(odd.clone(), "kid", Value::Null), JwkError::NoKid),
        (with(odd.clone(), "kid", "".into()), JwkError::NoKid),
        (with(odd.clone(), "kid", 7.into()), JwkError::NoKid),
        (with(odd.clone(), "kid", "before".into()), JwkError::DuplicateKid),
        (with(odd.clone(), "d", "AA".into()), JwkError::Private { member: "d" }),
        (with(rsa_key(2048, &[1, 0, 1]), "dp", Value::Null), JwkError::Private { member: "dp" }),
        (json!({ "kty": "oct", "kid": "odd", "k": "AA" }), JwkError::KeyType { kty: "oct".into() }),
        (json!({ "kty": "OKP", "kid": "odd", "crv": "Ed25519", "x": "AA" }), JwkError::KeyType { kty: "OKP".into() }),
        (with(odd.clone(), "kty", "ec".into()), JwkError::KeyType { kty: "ec".into() }),
        (with(odd.clone(), "kty", Value::Null), JwkError::NotAKey),
        (json!("key"), JwkError::NotAKey),
        (json!(null), JwkError::NotAKey),
        (json!([]), JwkError::NotAKey),
        (with(odd.clone(), "crv", "secp256k1".into()), Unsound::Curve { crv: "secp256k1".into() }.into()),
        (with(odd.clone(), "crv", Value::Null), Unsound::Curve { crv: String::new() }.into()),
        (with(odd.clone(), "crv", "P-384".into()), number("x")),
        (with(odd.clone(), "x", "AA".into()), number("x")),
        (with(odd.clone(), "y", Value::Null), number("y")),
        (padded("x"), number("x")),
        (padded("y"), number("y")),
        (swapped, Unsound::OffCurve.into()),
        (with(p521, "y", odd["y"].clone()), number("y")),
        (rsa_key(1024, &[1, 0, 1]), modulus(1024)),
        (rsa_key(2040, &[1, 0, 1]), modulus(2040)),
        (rsa_key(8200, &[1, 0, 1]), modulus(8200)),
        (rsa_key(2048, &[1]), exponent.clone()),
        (rsa_key(2048, &[0, 0, 1]), exponent.clone()),
        (rsa_key(2048, &[1, 0, 0]), exponent.clone()),
        (rsa_key(2048, &[]), exponent.clone()),
        (rsa_key(2048, &[3, 0, 0, 0, 1]), exponent),
        (with(rsa_key(2048, &[1, 0, 1]), "n", "?".into()), number("n")),
    ];
    for (odd, expected) in cases {
        let set = json!({ "keys": [before, odd, behind], "custom": null });
        let (usable, refused, error) = read(set.to_string().as_bytes());
        assert_eq!((usable, error), (vec!["before".to_owned(), "behind".to_owned()], None), "{odd}");
        let names: Vec<_> = refused.iter().map(|(name, why)| (name.as_str(), why.clone())).collect();
        let name = odd["kid"].as_str().filter(|kid| !kid.is_empty()).unwrap_or("at position 2");
        assert_eq!(names, [(name, expected)], "{odd}");
    }
    for good in [
        rsa_key(2048, &[1, 0, 1]),
        rsa_key(2048, &[0, 0, 0, 3]),
        rsa_key(8192, &[1, 0, 1]),
        Signer::new("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING).jwk("odd"),
    ] {
        let (usable, refused, error) = read(json!({ "keys": [good] }).to_string().as_bytes());
        assert_eq!((usable, refused, error), (vec!["odd".to_owned()], vec![], None), "{good}");
    }
}

#[test]
fn what_is_for_others_is_ignored_and_the_same_key_twice_is_one() {
    let same = Signer::p256().jwk("a");
    let without_use = json!({ "kty": "EC", "kid": "b", "crv": "P-256", "x": same["x"], "y": same["y"], "key_ops": 7 });
    let ignored = |usage: Value| with(Signer::p256().jwk("c"), "use", usage);
    let x509 = json!({ "kty": "EC", "use": "x509-svid", "x5c": ["AA"] });
    let odd = ["x509-svid".into(), "enc".into(), "".into(), Value::Null, 7.into(), json!(["sig"])].map(ignored);
    let keys: Vec<Value> = [same.clone(), x509, same, without_use].into_iter().chain(odd).collect();
    let (usable, refused, error) = read(json!({ "keys": keys }).to_string().as_bytes());
    assert_eq!((usable, refused, error), (vec!["a".to_owned(), "b".to_owned()], vec![], None));
    let twice = format!("\u{feff}{{\"keys\": 7, \"keys\": [{}]}}\n", Signer::p256().jwk("a"));
    assert_eq!(read(twice.as_bytes()).0, ["a"], "the last of two members counts, and a byte order mark does not");
}

#[test]
fn a_set_is_refused_only_where_it_is_none() {
    for text in
        ["keys", "{}", "[]", "null", r#"{"keys": null}"#, r#"{"keys": {}}"#, r#"{"keys": []} x"#, "\0", "{\"keys\""]
    {
        assert_eq!(read(text.as_bytes()).2, Some(JwksError::NotASet), "{text}");
    }
    assert_eq!(read(&"[".repeat(1 << 20).into_bytes()).2, Some(JwksError::NotASet));
    assert_eq!(read(b"").2, Some(JwksError::Empty));
    assert_eq!(read(br#"{"keys": []}"#), (vec![], vec![], None), "nobody is trusted, and that is a statement");
    let bad = json!({ "keys": [{ "kty": "oct", "kid": "a" }, 7] });
    let (usable, refused, error) = read(bad.to_string().as_bytes());
    assert_eq!((usable.len(), refused.len(), error), (0, 2, Some(JwksError::NoUsableKey { count: 2 })));
    let large = vec![b' '; Limits::default().bundle_bytes + 1];
    assert!(matches!(read(&large).2, Some(JwksError::TooLarge { .. })));
    let mut many = vec![Signer::p256().jwk("a")];
    many.resize(1001, json!({ "kty": "EC", "use": "enc" }));
    let (usable, refused, _) = read(json!({ "keys": many }).to_string().as_bytes());
    assert_eq!((usable, refused.len(), refused[0].1.clone()), (vec!["a".to_owned()], 1, JwkError::Surplus));
}

#[test]
fn one_bad_set_leaves_the_others_alone() {
    let good = json!({ "keys": [Signer::p256().jwk("a")] }).to_string();
    let read = |names: &[(&str, &str)], first: &[&str]| {
        let set = |(name, text): &(&str, &str)| ((*name).to_owned(), bytes::Bytes::from((*text).to_owned()));
        let limits = Limits { bundles: 3, ..Limits::default() };
        let first = first.iter().map(|name| TrustDomain::new(name).unwrap()).collect();
        bundles(&proto::JwtBundlesResponse { bundles: names.iter().map(set).collect() }, &limits, &first)
    };
    let names = |keys: &JwtKeys| keys.bundles.keys().map(ToString::to_string).collect::<Vec<_>>();
    let refused = |keys: &JwtKeys| keys.refusals.iter().map(|it| it.item.to_string()).collect::<Vec<_>>();
    assert!(matches!(read(&[], &[]), Err(JwtError::NoBundles)));
    for (name, text, item) in [
        ("spiffe://b.org", "", "the JWT keys of b.org"),
        ("spiffe://b.org", "garbage", "the JWT keys of b.org"),
        ("spiffe://b.org", r#"{"keys": [7]}"#, "the JWT keys of b.org"),
        ("spiffe://b.org/path", good.as_str(), "the JWT keys of spiffe://b.org/path"),
        ("b org", good.as_str(), "the JWT keys of b org"),
        ("", good.as_str(), "JWT keys without a trust domain"),
        ("a.org", good.as_str(), "the JWT keys of a.org"),
    ] {
        let keys = read(&[("spiffe://a.org", &good), (name, text), ("spiffe://c.org", &good)], &[]).unwrap();
        assert_eq!(names(&keys), ["a.org", "c.org"], "{name} {text}");
        assert!(refused(&keys).contains(&item.to_owned()), "{name} {text}: {:?}", refused(&keys));
        assert_eq!(keys.unusable.len(), usize::from(name == "spiffe://b.org"), "{name} {text}");
    }
    let all = ["a", "b", "c", "d", "e"].map(|name| format!("spiffe://{name}.org"));
    let all: Vec<_> = all.iter().map(|name| (name.as_str(), good.as_str())).collect();
    let keys = read(&all, &["e.org"]).unwrap();
    assert_eq!(
        (names(&keys), refused(&keys)),
        (vec!["a.org".into(), "b.org".into(), "e.org".into()], vec!["JWT bundles beyond the limit".to_owned()])
    );
    assert_eq!(keys.refusals[0].count, 2);
}
