mod fixture;
mod garbage;

use std::{collections::HashMap, time::Duration};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;
use crate::workload_api_proto::{X509BundlesResponse, X509svid, X509svidResponse};
use fixture::{Authority, HOUR, SmallRsa, concatenated, now, response, uri};

fn decode(message: &X509svidResponse) -> Result<IdentitySnapshot, DecodeError> {
    svid_response(message, &Limits::default(), now())
}

/// The rule that a message of this one SVID breaks.
fn refused(svid: X509svid) -> SvidError {
    match decode(&response([svid])) {
        Err(DecodeError::Svid { spiffe_id, source }) => {
            assert_eq!(spiffe_id.to_string(), "spiffe://example.org/web");
            source
        }
        other => panic!("{other:?}"),
    }
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

#[test]
fn a_whole_message_keeps_order_hints_and_bundles() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let intermediate = root.intermediate("intermediate");
    let mut first = intermediate.svid(|_| {});
    first.x509_svid = concatenated(&[&first.x509_svid, &intermediate.der, &root.der]);
    first.bundle = root.der.clone().into();
    first.hint = "public".to_owned();
    let mut second = root.svid(|params| params.subject_alt_names = vec![uri("spiffe://example.org/db")]);
    second.spiffe_id = "spiffe://example.org/db".to_owned();
    second.hint = "public".to_owned();
    let mut message = response([first.clone(), second]);
    message.federated_bundles = HashMap::from([
        ("spiffe://other.org".to_owned(), other.der.clone().into()),
        ("spiffe://jwt-only.org".to_owned(), Bytes::new()),
        ("spiffe://example.org".to_owned(), other.der.clone().into()),
    ]);

    let snapshot = decode(&message).unwrap();
    let ids: Vec<_> = snapshot.svids.iter().map(|svid| svid.id.to_string()).collect();
    assert_eq!(ids, ["spiffe://example.org/web", "spiffe://example.org/db"]);
    assert_eq!(snapshot.trust_domain, Some(td("example.org")));
    let [web, db] = snapshot.svids.as_slice() else { panic!() };
    assert_eq!(web.key.pkcs8_der(), &first.x509_svid_key[..]);
    assert_eq!(web.validity.not_after, now() + HOUR / 2);
    assert_eq!(web.chain.iter().count(), 2, "the root is left to the peers");
    assert_eq!(web.hint.as_ref().map(crate::identity::Hint::as_str), Some("public"));
    assert_eq!(db.hint, None, "the first of two equal hints counts");
    assert_eq!(snapshot.bundles.len(), 3);
    assert_eq!(snapshot.own_bundle().unwrap().authorities(), [Certificate::from_der(&root.der)], "the own one wins");
    assert_eq!(snapshot.bundles[&td("other.org")].authorities(), [Certificate::from_der(&other.der)]);
    assert_eq!(snapshot.bundles[&td("jwt-only.org")].authorities(), []);
}

#[test]
fn every_usual_kind_of_key_is_accepted_and_no_other_than_the_leafs() {
    let root = Authority::root("root");
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let [key, other] = [(); 2].map(|()| KeyPair::generate_for(algorithm).unwrap());
        let mut svid = root.svid_with_key(&key, |_| {});
        assert!(decode(&response([svid.clone()])).is_ok(), "{algorithm:?}");
        svid.x509_svid_key = [key.serialize_der(), vec![0]].concat().into();
        assert_eq!(refused(svid.clone()), SvidError::UnusableKey, "{algorithm:?}: something follows the key");
        svid.x509_svid_key = other.serialize_der().into();
        assert_eq!(refused(svid.clone()), SvidError::KeyMismatch, "{algorithm:?}");
        svid.x509_svid_key = svid.x509_svid_key.slice(..svid.x509_svid_key.len() / 2);
        assert_eq!(refused(svid), SvidError::UnusableKey, "{algorithm:?}");
    }
    assert_eq!(refused(root.svid_for(&SmallRsa::new())), SvidError::WeakKey { bits: 1024 });
}

#[test]
fn a_leaf_that_breaks_the_profile_is_refused() {
    let root = Authority::root("root");
    let cases: Vec<(X509svid, SvidError)> = vec![
        (root.svid(|it| it.subject_alt_names = vec![]), SvidError::UriNames { count: 0 }),
        (
            root.svid(|it| it.subject_alt_names.push(uri("spiffe://example.org/other"))),
            SvidError::UriNames { count: 2 },
        ),
        (
            root.svid(|it| it.subject_alt_names = vec![uri("spiffe://example.org/other")]),
            SvidError::OtherIdentity { found: "spiffe://example.org/other".to_owned() },
        ),
        (
            root.svid(|it| it.subject_alt_names = vec![uri("https://example.org/web")]),
            SvidError::OtherIdentity { found: "https://example.org/web".to_owned() },
        ),
        (root.svid(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), SvidError::MaySign),
        (root.svid(|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)), SvidError::MaySign),
        (root.svid(|it| it.key_usages.push(KeyUsagePurpose::CrlSign)), SvidError::MaySign),
        (root.svid(|it| it.key_usages = vec![]), SvidError::KeyUsage),
        (root.svid(|it| it.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), SvidError::KeyUsage),
        (
            root.svid(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            SvidError::ExtendedKeyUsage,
        ),
        (
            root.svid(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            SvidError::ExtendedKeyUsage,
        ),
    ];
    for (svid, expected) in cases {
        assert_eq!(refused(svid), expected);
    }
    for fine in [
        root.svid(|it| it.extended_key_usages = vec![]),
        root.svid(|it| it.is_ca = IsCa::NoCa),
        root.svid(|it| it.subject_alt_names.push(SanType::DnsName("web.example.org".try_into().unwrap()))),
    ] {
        assert!(decode(&response([fine])).is_ok());
    }
}

#[test]
fn an_id_without_a_path_or_that_is_none_is_refused() {
    let root = Authority::root("root");
    let mut svid = root.svid(|_| {});
    svid.spiffe_id = "spiffe://example.org".to_owned();
    let error = decode(&response([svid.clone()])).unwrap_err();
    assert!(matches!(error, DecodeError::Svid { source: SvidError::NoPath, .. }), "{error:?}");
    for name in ["", "https://example.org/web", "spiffe://example.org/web/", "spiffe://example.org/%41"] {
        svid.spiffe_id = name.to_owned();
        let error = decode(&response([root.svid(|_| {}), svid.clone()])).unwrap_err();
        assert!(matches!(error, DecodeError::SpiffeId { index: 1, .. }), "{error:?}");
    }
    svid.spiffe_id = format!("spiffe://example.org/{}", "a".repeat(2048));
    assert!(matches!(decode(&response([svid])), Err(DecodeError::SpiffeIdTooLong { bytes: 2069, .. })));
}

#[test]
fn life_must_include_now_with_a_minute_of_grace_at_the_beginning() {
    let root = Authority::root("root");
    let second = Duration::from_secs(1);
    let lives = |from: SystemTime, to: SystemTime| {
        let svid = root.svid(|it| (it.not_before, it.not_after) = (from.into(), to.into()));
        decode(&response([svid]))
    };
    assert!(lives(now() - HOUR, now()).is_ok(), "the last second counts");
    assert!(lives(now() + NOT_BEFORE_TOLERANCE, now() + HOUR).is_ok());
    let not_before = now() + NOT_BEFORE_TOLERANCE + second;
    let early = lives(not_before, now() + HOUR).unwrap_err();
    assert!(
        matches!(early, DecodeError::Svid { source: SvidError::NotYetValid { not_before: at }, .. } if at == not_before)
    );
    let late = lives(now() - HOUR, now() - second).unwrap_err();
    assert!(matches!(&late, DecodeError::Svid { source: SvidError::Expired { .. }, .. }), "{late:?}");
    let text = crate::source::SourceError::from(late).chain();
    assert!(text.contains("spiffe://example.org/web cannot be used: it expired 2027-01-15T07:59:59Z"), "{text}");
}

#[test]
fn only_the_own_trust_domain_can_vouch() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let mut foreign = other.svid(|_| {});
    foreign.bundle = root.der.clone().into();
    assert_eq!(refused(foreign.clone()), SvidError::Untrusted(webpki::Error::UnknownIssuer));
    // The federated bundle of the signer changes nothing.
    let mut message = response([foreign.clone()]);
    message.federated_bundles.insert("spiffe://other.org".to_owned(), other.der.clone().into());
    assert!(decode(&message).is_err());
    // Same name, other key.
    let mut forged = Authority::root("root").svid(|_| {});
    forged.bundle = root.der.clone().into();
    assert!(matches!(refused(forged), SvidError::Untrusted(webpki::Error::InvalidSignatureForPublicKey)));
    // One of several authorities is enough, as while a CA is rolled over.
    foreign.bundle = concatenated(&[&root.der, &other.der]);
    assert!(decode(&response([foreign])).is_ok());
    // A chain with its link missing.
    let mut cut = root.intermediate("intermediate").svid(|_| {});
    cut.bundle = root.der.clone().into();
    assert_eq!(refused(cut), SvidError::Untrusted(webpki::Error::UnknownIssuer));
}

#[test]
fn bundles_of_one_trust_domain_are_joined() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let snapshot = decode(&response([old.svid(|_| {}), new.svid(|_| {})])).unwrap();
    assert_eq!(snapshot.own_bundle().unwrap().authorities().len(), 2);
}

#[test]
fn uri_name_constraints_are_left_to_the_peers() {
    let root = Authority::root("root");
    let bundle = root.der.clone();
    let constrained = root.constrained("constrained", "example.org");
    let mut svid = constrained.svid(|_| {});
    svid.x509_svid = concatenated(&[&svid.x509_svid, &constrained.der]);
    svid.bundle = bundle.into();
    assert!(decode(&response([svid])).is_ok());
}

#[test]
fn one_bad_item_refuses_the_message() {
    let root = Authority::root("root");
    let good = root.svid(|_| {});
    let broken = |edit: fn(&mut X509svid)| {
        let mut bad = root.svid(|_| {});
        edit(&mut bad);
        match decode(&response([good.clone(), bad])).unwrap_err() {
            DecodeError::Svid { source, .. } => source.to_string(),
            DecodeError::Bundle { source, .. } => source.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(broken(|it| it.x509_svid = Bytes::new()).contains("no certificate"));
    assert!(broken(|it| it.x509_svid = Bytes::from_static(b"garbage")).contains("not valid DER"));
    assert!(broken(|it| it.x509_svid = concatenated(&[&it.x509_svid, b"tail"])).contains("certificate 1 of its chain"));
    assert!(broken(|it| it.x509_svid = concatenated(&[&it.x509_svid[..]; 17])).contains("16 certificates"));
    assert!(broken(|it| it.x509_svid_key = Bytes::new()).contains("PKCS#8"));
    assert!(broken(|it| it.bundle = Bytes::new()).contains("empty"));
    assert!(broken(|it| it.bundle = Bytes::from_static(b"garbage")).contains("not valid DER"));
    assert!(broken(|it| it.bundle = concatenated(&[&it.bundle, &[0x30]])).contains("certificate 1 in it"));
    assert!(broken(|it| it.bundle = it.x509_svid.clone()).contains("no certificate authority"));
    assert!(broken(|it| it.bundle = vec![0; (4 << 20) + 1].into()).contains("4194304 allowed"));
    assert!(broken(|it| it.hint = "h".repeat(1025)).contains("1024 allowed"));
}

#[test]
fn counts_are_limited_and_nothing_is_no_identity() {
    let good = Authority::root("root").svid(|_| {});
    assert!(matches!(decode(&response([])), Err(DecodeError::NoIdentity)));
    assert!(matches!(
        decode(&response(vec![good.clone(); 101])),
        Err(DecodeError::TooManySvids { count: 101, limit: 100 })
    ));
    let mut message = response([good.clone()]);
    message.federated_bundles = (0..201).map(|i| (format!("spiffe://td{i}"), Bytes::new())).collect();
    assert!(matches!(decode(&message), Err(DecodeError::TooManyBundles { count: 201, .. })));
    message.federated_bundles.remove("spiffe://td0");
    assert!(matches!(decode(&message), Err(DecodeError::TooManyBundles { count: 201, .. })), "the own one counts");
    let mut message = response([good]);
    message.crl = vec![Bytes::from_static(b"garbage")];
    assert!(matches!(decode(&message), Err(DecodeError::Crl { index: 0 })));
    message.crl = vec![Bytes::new(); 201];
    assert!(matches!(decode(&message), Err(DecodeError::TooManyCrls { .. })));
    message.crl = vec![vec![0; 16 << 20].into()];
    assert!(matches!(decode(&message), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn bundles_alone_make_a_snapshot_without_svids() {
    let root = Authority::root("root");
    let bundles = |keys: &[&str], own: Option<&TrustDomain>| {
        let bundles = keys.iter().map(|key| ((*key).to_owned(), root.der.clone().into())).collect();
        bundles_response(&X509BundlesResponse { bundles, ..Default::default() }, own, &Limits::default())
    };
    let one = bundles(&["spiffe://example.org"], None).unwrap();
    assert_eq!((one.svids.len(), one.trust_domain, one.bundles.len()), (0, Some(td("example.org")), 1));
    let two = bundles(&["spiffe://example.org", "spiffe://other.org"], None).unwrap();
    assert_eq!(two.trust_domain, None);
    let told = bundles(&["spiffe://example.org", "spiffe://other.org"], Some(&td("other.org"))).unwrap();
    assert_eq!(told.trust_domain, Some(td("other.org")));
    assert!(matches!(bundles(&[], None), Err(DecodeError::NoBundles)));
    for key in ["", "spiffe://", "spiffe://example.org/path", "https://example.org", "example.org/", "a b"] {
        assert!(matches!(bundles(&[key], None), Err(DecodeError::TrustDomain { .. })), "{key:?}");
    }
    let twice = bundles(&["spiffe://example.org", "example.org"], None);
    assert!(matches!(twice, Err(DecodeError::DuplicateBundle { .. })));
}

#[test]
fn errors_and_snapshots_never_show_keys() {
    let root = Authority::root("root");
    let mut svid = root.svid(|_| {});
    let key: String = svid.x509_svid_key.iter().map(|byte| format!("{byte}, ")).collect();
    let shown = format!("{:?}", decode(&response([svid.clone()])).unwrap());
    assert!(!shown.contains(&key[..60]));
    svid.x509_svid_key = root.svid(|_| {}).x509_svid_key;
    let error = decode(&response([svid])).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("48, 129"));
}
