use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
};
use zeroize::Zeroizing;

use super::*;
use crate::identity::{CertificateChain, PrivateKey, TrustBundle};

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn params(name: &str, (from, to): (u64, u64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (at(from).into(), at(to).into());
    params
}

fn ca(name: &str, life: (u64, u64), above: Option<&Ca>) -> Ca {
    let mut params = params(name, life);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let certificate = Certificate::from_der(certificate.der());
    Ca { issuer: Issuer::new(params, key), certificate }
}

/// A leaf that lives from 0 to 1000, under `signers`, the nearest first; the last of them is in the bundle.
fn svid(path: &str, signers: &[&Ca]) -> Arc<Svid> {
    let key = KeyPair::generate().unwrap();
    let leaf = params(path, (0, 1000)).signed_by(&key, &signers[0].issuer).unwrap();
    let (_, between) = signers.split_last().unwrap();
    let between = between.iter().map(|ca| ca.certificate.clone()).collect();
    Arc::new(Svid {
        id: SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap(),
        chain: CertificateChain::new(Certificate::from_der(leaf.der()), between),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
        hint: None,
        validity: Validity { not_before: at(0), not_after: at(1000) },
    })
}

fn snapshot(svids: &[&Arc<Svid>], authorities: &[&Ca]) -> IdentitySnapshot {
    let td = TrustDomain::new("example.org").unwrap();
    let authorities = authorities.iter().map(|ca| ca.certificate.clone()).collect();
    IdentitySnapshot {
        svids: svids.iter().map(|svid| Arc::clone(svid)).collect(),
        bundles: [(td.clone(), Arc::new(TrustBundle::new(td.clone(), authorities)))].into(),
        trust_domain: Some(td),
        ..IdentitySnapshot::default()
    }
}

fn told(snapshot: &IdentitySnapshot, now: u64) -> (Vec<String>, bool) {
    let found = vouching(snapshot, CrlPolicy::Complete, at(now));
    (found.faults.iter().map(ToString::to_string).collect(), found.broken)
}

#[test]
fn sound_trust_is_no_news_until_its_first_end() {
    let root = ca("root", (0, 5000), None);
    let state = snapshot(&[&svid("web", &[&root])], &[&root]);
    let found = vouching(&state, CrlPolicy::Complete, at(10));
    assert_eq!(found, Vouching { next: Some(after(at(5000))), ..Vouching::default() });
    assert_eq!(vouching(&state, CrlPolicy::Complete, at(6000)).next, None);
}

#[test]
fn authorities_that_are_all_over_or_all_to_come_verify_nothing() {
    let (old, older) = (ca("old", (0, 500), None), ca("older", (0, 400), None));
    let state = snapshot(&[&svid("web", &[&old])], &[&old, &older]);
    assert!(!told(&state, 500).1);
    let (faults, broken) = told(&state, 501);
    assert!(broken && faults.len() == 1 && faults[0].contains("has expired"), "{faults:?}");
    let ahead = ca("ahead", (600, 5000), None);
    let (faults, broken) = told(&snapshot(&[&svid("web", &[&ahead])], &[&ahead]), 10);
    assert!(broken && faults[0].contains("no authority of example.org is valid before"), "{faults:?}");
    assert!(told(&snapshot(&[], &[&old]), 501).1, "verifiers too");
}

#[test]
fn an_old_authority_beside_the_one_that_vouches_is_no_fault() {
    let (old, new) = (ca("old", (0, 500), None), ca("new", (0, 5000), None));
    assert_eq!(told(&snapshot(&[&svid("web", &[&new])], &[&old, &new]), 600), (vec![], false));
    // The other way about the leaf is refused, though an authority is valid.
    let (faults, broken) = told(&snapshot(&[&svid("web", &[&old])], &[&old, &new]), 600);
    assert!(broken && faults[0].contains("vouches for spiffe://example.org/web is not valid"), "{faults:?}");
    let both = snapshot(&[&svid("web", &[&old]), &svid("db", &[&new])], &[&old, &new]);
    let (faults, broken) = told(&both, 600);
    assert!(!broken && faults.len() == 1, "the other identity is accepted: {faults:?}");
}

#[test]
fn what_ends_before_its_leaf_is_said_while_all_is_well() {
    let (root, short) = (ca("root", (0, 5000), None), ca("short", (0, 900), None));
    let (faults, broken) = told(&snapshot(&[&svid("web", &[&short])], &[&short]), 10);
    assert!(!broken && faults.len() == 1 && faults[0].contains("before its certificate does"), "{faults:?}");
    let middle = ca("middle", (0, 800), Some(&root));
    let state = snapshot(&[&svid("web", &[&middle, &root])], &[&root]);
    let (faults, broken) = told(&state, 10);
    assert!(!broken && faults[0].contains("before its certificate does"), "{faults:?}");
    assert_eq!(vouching(&state, CrlPolicy::Complete, at(10)).next, Some(after(at(800))));
    let (faults, broken) = told(&state, 801);
    assert!(broken && faults[0].contains("is not valid"), "{faults:?}");
}

#[test]
fn an_overdue_revocation_list_is_said_unless_lists_are_not_served() {
    let root = ca("root", (0, 5000), None);
    let list = CertificateRevocationListParams {
        this_update: at(0).into(),
        next_update: at(300).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = Arc::from(list.signed_by(&root.issuer).unwrap().der().as_ref());
    let state = IdentitySnapshot { crls: vec![list], ..snapshot(&[&svid("web", &[&root])], &[&root]) };
    assert_eq!(vouching(&state, CrlPolicy::Complete, at(10)).next, Some(after(at(300))));
    assert_eq!(told(&state, 300), (vec![], false));
    let (faults, broken) = told(&state, 301);
    assert!(!broken && faults[0].contains("CN=root is overdue since"), "{faults:?}");
    assert_eq!(vouching(&state, CrlPolicy::Never, at(301)).faults, []);
}

#[test]
fn what_cannot_be_read_is_passed_over() {
    let state = crate::secret::fixture::snapshot(&[("spiffe://example.org/w", "leaf")], &[("example.org", &["root"])]);
    assert_eq!(vouching(&state, CrlPolicy::Complete, at(0)), Vouching::default());
}
