mod garbage;

use std::{collections::HashMap, time::Duration};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::{
    fixture::{Authority, HOUR, SmallRsa, concatenated, now, response, uri},
    *,
};
use crate::{
    identity::SpiffeId,
    workload_api_proto::{X509BundlesResponse, X509svid, X509svidResponse},
};

fn decode(message: &X509svidResponse) -> Result<IdentitySnapshot, DecodeError> {
    decode_with(message, &Limits::default())
}

fn decode_with(message: &X509svidResponse, limits: &Limits) -> Result<IdentitySnapshot, DecodeError> {
    svid_response(message, limits, &Precedence::default(), now())
}

/// The rule that this SVID breaks.
fn refused(svid: X509svid) -> SvidError {
    let limits = Limits::default();
    let mut own =
        OwnBundles { limits: &limits, read: BTreeMap::new(), vouching: BTreeMap::new(), refusals: Vec::new() };
    one_svid(&svid, &mut own, &limits, now()).unwrap_err()
}

/// `kind: item: reason` of everything that was left out.
fn left_out(snapshot: &IdentitySnapshot) -> Vec<String> {
    snapshot.refusals.iter().map(|refusal| format!("{}: {refusal}", refusal.item.kind())).collect()
}

fn ids(snapshot: &IdentitySnapshot) -> Vec<String> {
    snapshot.svids.iter().map(|svid| svid.id.to_string()).collect()
}

/// A correct SVID of this ID.
fn named(authority: &Authority, id: &str) -> X509svid {
    let mut svid = authority.svid(|params| params.subject_alt_names = vec![uri(id)]);
    svid.spiffe_id = id.to_owned();
    svid
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
    let of = |name: &str| {
        let mut svid = root.svid(|_| {});
        svid.spiffe_id = name.to_owned();
        refused(svid)
    };
    assert_eq!(of("spiffe://example.org"), SvidError::NoPath);
    for name in ["", "https://example.org/web", "spiffe://example.org/web/", "spiffe://example.org/%41"] {
        assert!(matches!(of(name), SvidError::SpiffeId(_)), "{name}");
    }
    let long = format!("spiffe://example.org/{}", "a".repeat(2048));
    assert_eq!(of(&long), SvidError::SpiffeIdTooLong { bytes: 2069, limit: 2048 });
    // What the certificate says is compared by the letter, as Envoy does.
    for found in ["spiffe://EXAMPLE.org/web", "SPIFFE://example.org/web", "spiffe://example.org/Web"] {
        let svid = root.svid(|params| params.subject_alt_names = vec![uri(found)]);
        assert_eq!(refused(svid), SvidError::OtherIdentity { found: found.to_owned() });
    }
}

#[test]
fn life_must_include_now_with_a_minute_of_grace_at_the_beginning() {
    let root = Authority::root("root");
    let second = Duration::from_secs(1);
    let lives = |from: SystemTime, to: SystemTime| {
        let svid = root.svid(|it| (it.not_before, it.not_after) = (from.into(), to.into()));
        decode(&response([svid.clone()])).map_err(|error| (refused(svid), error))
    };
    assert!(lives(now() - HOUR, now()).is_ok(), "the last second counts");
    assert!(lives(now() + NOT_BEFORE_TOLERANCE, now() + HOUR).is_ok());
    let not_before = now() + NOT_BEFORE_TOLERANCE + second;
    let (early, _) = lives(not_before, now() + HOUR).unwrap_err();
    assert_eq!(early, SvidError::NotYetValid { not_before });
    assert_eq!(early.heals_at(), Some(now() + second), "time mends it");
    let (late, error) = lives(now() - HOUR, now() - second).unwrap_err();
    assert_eq!((&late, late.heals_at()), (&SvidError::Expired { not_after: now() - second }, None));
    let text = crate::source::SourceError::from(error).chain();
    assert!(text.contains("the SVID of spiffe://example.org/web: it expired 2027-01-15T07:59:59Z"), "{text}");
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
fn one_bad_svid_costs_no_other() {
    let root = Authority::root("root");
    let (first, last) = (named(&root, "spiffe://example.org/a"), named(&root, "spiffe://example.org/z"));
    let broken = |edit: &dyn Fn(&mut X509svid)| {
        let mut bad = root.svid(|_| {});
        edit(&mut bad);
        let alone = decode(&response([bad.clone()])).unwrap_err();
        assert!(matches!(alone, DecodeError::NoneUsable { count: 1, .. }), "{alone:?}");
        let snapshot = decode(&response([first.clone(), bad, last.clone()])).unwrap();
        assert_eq!(ids(&snapshot), ["spiffe://example.org/a", "spiffe://example.org/z"]);
        let [refusal] = snapshot.refusals.as_slice() else { panic!("{:?}", snapshot.refusals) };
        assert_eq!((refusal.item.kind(), refusal.position, refusal.count), ("svid", Some(1), 1));
        refusal.to_string()
    };
    let life = |from: SystemTime, to: SystemTime| {
        let svid = root.svid(|it| (it.not_before, it.not_after) = (from.into(), to.into()));
        broken(&|it| *it = svid.clone())
    };
    assert!(life(now() - HOUR, now() - HOUR / 2).contains("it expired"));
    assert!(life(now() + HOUR, now() + 2 * HOUR).contains("it is valid only from"));
    assert!(broken(&|it| it.x509_svid = Bytes::new()).contains("no certificate"));
    assert!(broken(&|it| it.x509_svid = Bytes::from_static(b"garbage")).contains("not valid DER"));
    assert!(
        broken(&|it| it.x509_svid = concatenated(&[&it.x509_svid, b"tail"])).contains("certificate 1 of its chain")
    );
    assert!(broken(&|it| it.x509_svid = concatenated(&[&it.x509_svid[..]; 33])).contains("32 certificates"));
    assert!(broken(&|it| it.x509_svid_key = Bytes::new()).contains("PKCS#8"));
    assert!(broken(&|it| it.x509_svid_key = first.x509_svid_key.clone()).contains("does not belong"));
    assert!(broken(&|it| it.bundle = Bytes::new()).contains("empty"));
    assert!(broken(&|it| it.bundle = Bytes::from_static(b"garbage")).contains("cannot be read"));
    assert!(broken(&|it| it.bundle = it.x509_svid.clone()).contains("no certificate authority"));
    assert!(broken(&|it| it.bundle = vec![0; (4 << 20) + 1].into()).contains("4194304 allowed"));
    assert!(broken(&|it| it.bundle = Authority::root("other").der.into()).contains("does not vouch"));
    assert!(broken(&|it| it.hint = "h".repeat(1025)).contains("1024 allowed"));
    assert!(broken(&|it| it.spiffe_id = "no id".to_owned()).starts_with("the SVID of no id: its name is no SPIFFE ID"));
    assert!(broken(&|it| it.spiffe_id = String::new()).starts_with("an SVID without a SPIFFE ID:"));
    assert!(broken(&|it| it.spiffe_id = "spiffe://example.org".to_owned()).contains("no path"));
}

#[test]
fn the_bundle_of_a_refused_svid_vouches_for_nobody() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let mut mixed_up = root.svid(|_| {});
    mixed_up.bundle = other.der.clone().into();
    let snapshot = decode(&response([named(&root, "spiffe://example.org/a"), mixed_up])).unwrap();
    assert_eq!(snapshot.own_bundle().unwrap().authorities(), [Certificate::from_der(&root.der)]);
}

#[test]
fn an_odd_authority_costs_no_other() {
    let (root, partner) = (Authority::root("root"), Authority::root("partner"));
    let leaf = root.svid(|_| {});
    let odd = [vec![0x30, 3, 1, 2, 3], leaf.x509_svid.to_vec(), root.without_constraints("odd")];
    for odd in odd {
        for parts in [[&odd[..], &partner.der], [&partner.der, &odd]] {
            let mut own = leaf.clone();
            own.bundle = concatenated(&[&root.der, parts[0], parts[1]]);
            let mut message = response([own]);
            message.federated_bundles.insert("spiffe://partner.org".to_owned(), concatenated(&parts));
            let snapshot = decode(&message).unwrap();
            assert_eq!(snapshot.bundles[&td("partner.org")].authorities(), [Certificate::from_der(&partner.der)]);
            assert_eq!(snapshot.own_bundle().unwrap().authorities().len(), 2);
            let kinds: Vec<_> = snapshot.refusals.iter().map(|refusal| refusal.item.kind()).collect();
            assert_eq!(kinds, ["authority", "authority"], "{:?}", left_out(&snapshot));
        }
    }
    // What follows something whose end cannot be found cannot be read; what stands before it can.
    for tail in [&b"garbage"[..], &[0x30], &[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], b"\n"] {
        let mut message = response([leaf.clone()]);
        message.federated_bundles.insert("spiffe://partner.org".to_owned(), concatenated(&[&partner.der, tail]));
        message.federated_bundles.insert("spiffe://bad.org".to_owned(), concatenated(&[tail, &partner.der]));
        let snapshot = decode(&message).unwrap();
        assert_eq!(snapshot.bundles[&td("partner.org")].authorities(), [Certificate::from_der(&partner.der)]);
        assert!(!snapshot.bundles.contains_key(&td("bad.org")), "its last good one stays");
        let kinds: Vec<_> = snapshot.refusals.iter().map(|refusal| refusal.item.kind()).collect();
        assert_eq!(kinds, ["bundle", "authority"]);
    }
}

#[test]
fn an_empty_bundle_is_obeyed_and_told() {
    let mut message = response([Authority::root("root").svid(|_| {})]);
    message.federated_bundles.insert("spiffe://partner.org".to_owned(), Bytes::new());
    let snapshot = decode(&message).unwrap();
    assert_eq!(snapshot.bundles[&td("partner.org")].authorities(), []);
    let told = left_out(&snapshot);
    assert!(told.len() == 1 && told[0].contains("the trust bundle of partner.org: it is empty"), "{told:?}");
}

#[test]
fn of_two_keys_for_one_trust_domain_the_standards_counts() {
    let (root, good, other) = (Authority::root("root"), Authority::root("good"), Authority::root("other"));
    let mut message = response([root.svid(|_| {})]);
    for (key, der) in [("spiffe://b.org", &good.der), ("b.org", &other.der), ("spiffe://c.org/path", &other.der)] {
        message.federated_bundles.insert(key.to_owned(), der.clone().into());
    }
    let snapshot = decode(&message).unwrap();
    assert_eq!(snapshot.bundles[&td("b.org")].authorities(), [Certificate::from_der(&good.der)]);
    let told = left_out(&snapshot);
    assert!(told.len() == 2 && told[0].contains("no trust domain ID") && told[1].contains("another one"), "{told:?}");
    message.federated_bundles.insert("b.org".to_owned(), good.der.into());
    assert_eq!(left_out(&decode(&message).unwrap()).len(), 1, "the same twice is no contradiction");
}

#[test]
fn chains_may_be_as_long_as_allowed() {
    let root = Authority::root("root");
    let chain = |length: usize, edit: &dyn Fn(usize, &mut rcgen::CertificateParams)| {
        let mut signers = vec![root.intermediate("0")];
        for level in 1..length {
            let next = signers[level - 1].intermediate_with(&level.to_string(), |params| edit(level, params));
            signers.push(next);
        }
        let mut svid = signers.last().unwrap().svid(|_| {});
        let parts: Vec<&[u8]> = signers.iter().rev().map(|signer| &signer.der[..]).collect();
        svid.x509_svid = concatenated(&[&[&svid.x509_svid[..]], &parts[..]].concat());
        svid.bundle = root.der.clone().into();
        svid
    };
    for length in [1, 5, 6, 7, 8, 12, 31] {
        let snapshot = decode(&response([chain(length, &|_, _| {})])).unwrap();
        assert_eq!(snapshot.svids[0].chain.iter().count(), length + 1);
    }
    assert_eq!(refused(chain(32, &|_, _| {})), SvidError::ChainTooLong { limit: 32 });
    for length in [3, 9] {
        let not_a_signer = |level: usize, params: &mut rcgen::CertificateParams| {
            if level == 1 {
                params.key_usages = vec![KeyUsagePurpose::CrlSign];
            }
        };
        assert_eq!(refused(chain(length, &not_a_signer)), SvidError::IntermediateMayNotSign, "{length}");
        let short = |level: usize, params: &mut rcgen::CertificateParams| {
            if level == 1 {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            }
        };
        assert_eq!(refused(chain(length, &short)), SvidError::Untrusted(webpki::Error::PathLenConstraintViolated));
        let just = |level: usize, params: &mut rcgen::CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(u8::try_from(length - 1 - level).unwrap()));
        };
        assert!(decode(&response([chain(length, &just)])).is_ok(), "{length}");
        let leafs = |level: usize, params: &mut rcgen::CertificateParams| {
            if level == 1 {
                params.is_ca = IsCa::ExplicitNoCa;
            }
        };
        assert_eq!(refused(chain(length, &leafs)), SvidError::Untrusted(webpki::Error::EndEntityUsedAsCa), "{length}");
    }
    let over = |level: usize, params: &mut rcgen::CertificateParams| {
        if level == 4 {
            params.not_after = (now() - Duration::from_secs(1)).into();
        }
    };
    assert_eq!(refused(chain(9, &over)), SvidError::IntermediateNotValid { subject: "CN=4".to_owned() });
    let mut cut = chain(9, &|_, _| {});
    cut.bundle = Authority::root("root").der.into();
    assert_eq!(refused(cut), SvidError::Untrusted(webpki::Error::InvalidSignatureForPublicKey));
    let mut foreign = chain(9, &|_, _| {});
    foreign.bundle = Authority::root("other").der.into();
    assert_eq!(refused(foreign), SvidError::Untrusted(webpki::Error::UnknownIssuer));
}

#[test]
fn what_is_beyond_a_limit_is_left_out_and_not_the_default_or_what_is_known() {
    let root = Authority::root("root");
    let limits = Limits { svids: 2, bundles: 2, crls: 1, ..Limits::default() };
    let id = |name: &str| format!("spiffe://example.org/{name}");
    let mut bad = named(&root, &id("bad"));
    bad.x509_svid = Bytes::new();
    let mut message = response([named(&root, &id("a")), bad, named(&root, &id("b")), named(&root, &id("c"))]);
    for name in ["one.org", "two.org", "three.org"] {
        message.federated_bundles.insert(format!("spiffe://{name}"), root.der.clone().into());
    }
    let snapshot = decode_with(&message, &limits).unwrap();
    assert_eq!(ids(&snapshot), [id("a"), id("b")], "a bad one takes no place");
    let domains: Vec<_> = snapshot.bundles.keys().map(ToString::to_string).collect();
    assert_eq!(domains, ["example.org", "one.org"], "the own one counts, and stays");
    let told = left_out(&snapshot);
    assert!(
        told[1].starts_with("svid: SVIDs beyond the limit: 1 more came than the 2")
            && told[1].contains("limits.source.svids")
    );
    assert!(told[2].contains("limits.source.bundles") && snapshot.refusals[2].count == 2, "{told:?}");

    let mut precedence = Precedence::of(crate::secret::DefaultIdentity::Id(SpiffeId::new(id("c")).unwrap()));
    let again = svid_response(&message, &limits, &precedence, now()).unwrap();
    assert_eq!(ids(&again), [id("a"), id("c")]);
    precedence = Precedence::default();
    precedence.learn(&again);
    message.svids.insert(1, named(&root, &id("new")));
    message.federated_bundles.insert("spiffe://earlier.org".to_owned(), root.der.clone().into());
    let again = svid_response(&message, &limits, &precedence, now()).unwrap();
    assert_eq!(ids(&again), [id("a"), id("c")]);
    assert_eq!(again.bundles.keys().map(ToString::to_string).collect::<Vec<_>>(), ["example.org", "one.org"]);
}

#[test]
fn nothing_is_no_identity_and_revocation_lists_count_for_themselves() {
    let good = Authority::root("root").svid(|_| {});
    assert!(matches!(decode(&response([])), Err(DecodeError::NoIdentity)));
    assert_eq!(decode(&response(vec![good.clone(); 1000])).unwrap().svids.len(), 1000);
    let mut message = response([good]);
    message.crl = vec![Bytes::from_static(b"garbage")];
    let snapshot = decode(&message).unwrap();
    assert_eq!(left_out(&snapshot), ["crl: revocation list 1: it is no DER-encoded CRL; correct it at the issuer"]);
    assert!(snapshot.crls.is_empty() && snapshot.svids.len() == 1);
    message.crl = vec![Bytes::new(); 1001];
    assert_eq!(decode(&message).unwrap().refusals.len(), 1001);
    message.crl = vec![vec![0; 64 << 20].into()];
    let error = decode(&message).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { .. }) && error.to_string().contains("limits.source.message_bytes"));
}

#[test]
fn many_reasons_are_told_as_a_number() {
    let mut bad = Authority::root("root").svid(|_| {});
    bad.x509_svid = Bytes::new();
    let text = decode(&response(vec![bad; 9])).unwrap_err().to_string();
    assert!(
        text.starts_with("none of the 9 SVIDs in it can be used: the SVID of") && text.ends_with("; and 4 more"),
        "{text}"
    );
}

#[test]
fn bundles_alone_make_a_snapshot_without_svids() {
    let root = Authority::root("root");
    let bundles = |keys: &[&str], own: Option<&TrustDomain>| {
        let bundles = keys.iter().map(|key| ((*key).to_owned(), root.der.clone().into())).collect();
        let message = X509BundlesResponse { bundles, ..Default::default() };
        bundles_response(&message, own, &Limits::default(), &Precedence::default())
    };
    let one = bundles(&["spiffe://example.org"], None).unwrap();
    assert_eq!((one.svids.len(), one.trust_domain, one.bundles.len()), (0, Some(td("example.org")), 1));
    let two = bundles(&["spiffe://example.org", "spiffe://other.org"], None).unwrap();
    assert_eq!(two.trust_domain, None);
    let told = bundles(&["spiffe://example.org", "spiffe://other.org"], Some(&td("other.org"))).unwrap();
    assert_eq!(told.trust_domain, Some(td("other.org")));
    assert!(matches!(bundles(&[], None), Err(DecodeError::NoBundles)));
    for key in ["", "spiffe://", "spiffe://example.org/path", "https://example.org", "example.org/", "a b"] {
        assert!(matches!(bundles(&[key], None), Err(DecodeError::NoneUsable { .. })), "{key:?}");
        let beside = bundles(&[key, "spiffe://example.org"], None).unwrap();
        assert_eq!((beside.bundles.len(), beside.refusals.len()), (1, 1), "{key:?}");
    }
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
