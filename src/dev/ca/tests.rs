use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::*;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_800_000_000_500)
}

fn ca(intermediate: bool) -> Ca {
    Ca::new(TrustDomain::new("example.org").unwrap(), intermediate, now()).unwrap()
}

fn web() -> SpiffeId {
    SpiffeId::new("spiffe://example.org/web").unwrap()
}

fn parsed(certificate: &Certificate) -> X509Certificate<'_> {
    let (rest, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    assert!(rest.is_empty());
    parsed
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let san = certificate.subject_alternative_name().unwrap().expect("a SAN");
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("a SAN that is not a URI: {other:?}"),
    };
    san.value.general_names.iter().map(uri).collect()
}

fn is_signed_by(certificate: &X509Certificate<'_>, signer: &X509Certificate<'_>) -> bool {
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, signer.public_key().subject_public_key.data.as_ref());
    certificate.issuer() == signer.subject()
        && key.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).is_ok()
}

#[test]
fn a_leaf_is_what_x509_svid_asks_for() {
    let issued = ca(false).sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
    let leaf = parsed(issued.svid.chain.leaf());

    assert_eq!(uris(&leaf), ["spiffe://example.org/web"]);
    let constraints = leaf.basic_constraints().unwrap().expect("basic constraints");
    assert!(!constraints.value.ca, "section 4.1");
    let usage = leaf.key_usage().unwrap().expect("key usage");
    assert!(usage.critical && usage.value.digital_signature(), "section 4.3");
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign(), "section 4.3");
    let extended = leaf.extended_key_usage().unwrap().expect("extended key usage");
    assert!(extended.value.server_auth && extended.value.client_auth, "section 4.4");
    assert_eq!(issued.serial.len(), 32);
    assert_eq!(format!("{:x}", leaf.tbs_certificate.serial), issued.serial, "the form that Envoy prints");
}

#[test]
fn a_leaf_is_backdated_and_never_shorter_than_its_ttl() {
    let issued = ca(false).sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
    let leaf = parsed(issued.svid.chain.leaf());
    assert_eq!(leaf.validity().not_before.timestamp(), 1_799_999_990);
    assert_eq!(leaf.validity().not_after.timestamp(), 1_800_000_003);
    assert_eq!(issued.svid.validity.not_before, UNIX_EPOCH + Duration::from_secs(1_799_999_990));
    assert_eq!(issued.svid.validity.not_after, UNIX_EPOCH + Duration::from_secs(1_800_000_003));
}

#[test]
fn the_key_is_the_leafs_and_new_each_time() {
    let ca = ca(false);
    let [one, two] = [(); 2].map(|()| ca.sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, one.svid.key.pkcs8_der()).unwrap();
    assert_eq!(pair.public_key().as_ref(), parsed(one.svid.chain.leaf()).public_key().subject_public_key.data.as_ref());
    assert_ne!(one.svid.key.pkcs8_der(), two.svid.key.pkcs8_der());
    assert_ne!(one.serial, two.serial);
}

#[test]
fn signing_certificates_are_authorities_without_a_path() {
    let ca = ca(true);
    let issued = ca.sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
    let intermediate = issued.svid.chain.iter().nth(1).expect("an intermediate");
    let root = ca.roots().next().unwrap();
    for certificate in [parsed(intermediate), parsed(root)] {
        assert_eq!(uris(&certificate), ["spiffe://example.org"]);
        assert!(certificate.basic_constraints().unwrap().expect("basic constraints").value.ca);
        let usage = certificate.key_usage().unwrap().expect("key usage");
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(certificate.subject().to_string().contains("NOT FOR PRODUCTION"));
    }
}

#[test]
fn chains_lead_from_the_leaf_to_the_root() {
    for intermediate in [false, true] {
        let ca = ca(intermediate);
        let issued = ca.sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
        let path: Vec<_> = issued.svid.chain.iter().chain(ca.roots()).map(parsed).collect();
        assert_eq!(path.len(), if intermediate { 3 } else { 2 });
        assert!(path.windows(2).all(|pair| is_signed_by(&pair[0], &pair[1])));
        let root = path.last().unwrap();
        assert!(is_signed_by(root, root));
    }
}

#[test]
fn a_roll_over_trusts_first_signs_then_and_forgets_last() {
    let mut ca = ca(false);
    let old = ca.roots().next().unwrap().clone();
    let signer = |ca: &Ca| {
        let issued = ca.sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
        let leaf = parsed(issued.svid.chain.leaf());
        ca.roots().find(|root| is_signed_by(&leaf, &parsed(root))).cloned()
    };
    let prepared = ca.step(CaStep::Prepare, now()).unwrap();
    let new = ca.roots().nth(1).unwrap().clone();
    assert_eq!((ca.roots().count(), signer(&ca).as_ref()), (2, Some(&old)));
    assert_ne!(parsed(&old).subject(), parsed(&new).subject());

    assert_eq!(ca.step(CaStep::Activate, now()).unwrap(), prepared);
    assert_eq!((ca.roots().count(), signer(&ca).as_ref()), (2, Some(&new)));

    assert_ne!(ca.step(CaStep::Retire, now()).unwrap(), prepared);
    assert_eq!(ca.roots().collect::<Vec<_>>(), [&new]);
    assert_eq!(signer(&ca).as_ref(), Some(&new));
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut ca = ca(false);
    for step in [CaStep::Activate, CaStep::Retire] {
        assert!(matches!(ca.step(step, now()), Err(DevError::OutOfOrder { .. })), "{step}");
    }
    ca.step(CaStep::Prepare, now()).unwrap();
    assert!(matches!(ca.step(CaStep::Prepare, now()), Err(DevError::OutOfOrder { .. })));
    assert_eq!(ca.roots().count(), 2);
}

#[test]
fn templates_lie_as_asked() {
    let ca = ca(false);
    let expired = ca.sign(&Template::expired(web(), now())).unwrap();
    assert!(expired.svid.validity.is_expired(now()));
    let future = ca.sign(&Template::not_yet_valid(web(), now())).unwrap();
    assert!(future.svid.validity.is_future(now() + Duration::from_secs(3599)));
    assert!(!future.svid.validity.is_future(now() + Duration::from_secs(3601)));

    let foreign = SpiffeId::new("spiffe://other.org/web").unwrap();
    let mut template = Template::leaf(foreign, now(), Duration::from_secs(2));
    template.uris.push("https://example.org".to_owned());
    template.authority = true;
    let forged = ca.sign(&template).unwrap();
    let leaf = parsed(forged.svid.chain.leaf());
    assert_eq!(uris(&leaf), ["spiffe://other.org/web", "https://example.org"]);
    assert!(leaf.basic_constraints().unwrap().expect("basic constraints").value.ca);
    assert!(leaf.key_usage().unwrap().expect("key usage").value.key_cert_sign());

    template.uris = vec!["spiffe://example.org/ü".to_owned()];
    assert!(matches!(ca.sign(&template), Err(DevError::Sign { .. })));
}

#[test]
fn pem_has_one_block_a_certificate() {
    let issued = ca(true).sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
    let chain = issued.chain_pem();
    assert_eq!(chain.matches("-----BEGIN CERTIFICATE-----\n").count(), 2);
    let (label, leaf) =
        pem_rfc7468::decode_vec(chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().as_bytes())
            .unwrap();
    assert_eq!((label, leaf.as_slice()), ("CERTIFICATE", issued.svid.chain.leaf().der()));
    let key = issued.key_pem();
    let (label, key) = pem_rfc7468::decode_vec(key.as_bytes()).unwrap();
    assert_eq!((label, key.as_slice()), ("PRIVATE KEY", issued.svid.key.pkcs8_der()));
}

#[test]
fn debug_shows_no_key() {
    let ca = ca(true);
    let issued = ca.sign(&Template::leaf(web(), now(), Duration::from_secs(2))).unwrap();
    let shown = format!("{ca:?} {issued:?}");
    assert!(shown.contains("[redacted]") && shown.contains(&issued.serial));
    let [a, b, c, ..] = issued.svid.key.pkcs8_der() else { panic!("a short key") };
    assert!(!shown.contains(&format!("{a}, {b}, {c}")), "{shown}");
}
