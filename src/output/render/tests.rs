use std::time::Duration;

use super::*;
use crate::{
    identity::{
        CertificateChain, Hint, JwtBundle, JwtRequest, JwtSubject, JwtSvid, PrivateKey, Token, TrustBundle, Validity,
    },
    output::JwtFile,
};

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn svid(path: &str, hint: &str) -> Arc<Svid> {
    let der = |part: &str| Certificate::from_der(format!("{path} {part}").as_bytes());
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    Arc::new(Svid {
        id: SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap(),
        chain: CertificateChain::new(der("leaf"), vec![der("intermediate")]),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(format!("{path} key").into_bytes())),
        hint: Hint::new(hint),
        validity: Validity { not_before: SystemTime::UNIX_EPOCH, not_after: end },
    })
}

fn snapshot() -> IdentitySnapshot {
    let bundle = |name: &str| {
        let root = Certificate::from_der(format!("{name} root").as_bytes());
        (td(name), Arc::new(TrustBundle::new(td(name), vec![root])))
    };
    IdentitySnapshot {
        svids: vec![svid("web", ""), svid("db", "internal")],
        bundles: [bundle("example.org"), bundle("partner.test")].into(),
        trust_domain: Some(td("example.org")),
        crls: Vec::new(),
        refusals: Vec::new(),
    }
}

fn request() -> JwtRequest {
    JwtRequest { subject: JwtSubject::Default, audience: ["payments".to_owned()].into() }
}

fn tokens(state: JwtState) -> JwtSnapshot {
    let keys = vec![serde_json::json!({"kid": "a"})];
    let bundles = [(td("example.org"), Arc::new(JwtBundle::new(td("example.org"), keys)))].into();
    JwtSnapshot { svids: [(request(), state)].into(), bundles, ..JwtSnapshot::default() }
}

fn valid() -> JwtState {
    let validity = Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH };
    let id = SpiffeId::new("spiffe://example.org/web").unwrap();
    let token = Token::new(Zeroizing::new("head.body.sig".to_owned()));
    JwtState::Valid(Arc::new(JwtSvid { id, audience: request().audience, validity, hint: None, token }))
}

fn config() -> Config {
    Config::new("/nowhere".into())
}

/// Name, mode, and what the PEM blocks hold.
fn files(config: &Config, state: &Availability, jwt: &JwtSnapshot) -> Vec<(String, u32, Vec<String>)> {
    let (files, _) = render(config, state, jwt).unwrap().expect("nothing to write");
    let blocks = |content: &[u8]| {
        let text = std::str::from_utf8(content).unwrap();
        if !text.starts_with("-----") {
            return vec![text.to_owned()];
        }
        let blocks = text.split_inclusive("-----\n").collect::<Vec<_>>();
        let blocks = blocks.chunks(2).map(|block| decoded(&block.concat()));
        blocks.map(|(label, der)| format!("{label}: {}", String::from_utf8(der).unwrap())).collect()
    };
    files.into_iter().map(|file| (file.name, file.mode, blocks(&file.content))).collect()
}

fn decoded(block: &str) -> (String, Vec<u8>) {
    let (label, der) = pem_rfc7468::decode_vec(block.as_bytes()).unwrap();
    (label.to_owned(), der)
}

fn file(name: &str, mode: u32, blocks: &[&str]) -> (String, u32, Vec<String>) {
    (name.to_owned(), mode, blocks.iter().map(|&block| block.to_owned()).collect())
}

fn ready() -> Availability {
    Availability::Ready(Arc::new(snapshot()))
}

#[test]
fn the_usual_files_are_those_of_the_default_identity() {
    assert_eq!(
        files(&config(), &ready(), &JwtSnapshot::default()),
        [
            file("svid.pem", 0o644, &["CERTIFICATE: web leaf", "CERTIFICATE: web intermediate"]),
            file("svid_bundle.pem", 0o644, &["CERTIFICATE: example.org root"]),
            file("svid_key.pem", 0o600, &["PRIVATE KEY: web key"]),
        ]
    );
    let (_, described) = render(&config(), &ready(), &JwtSnapshot::default()).unwrap().unwrap();
    assert_eq!(described.spiffe_id.unwrap().to_string(), "spiffe://example.org/web");
    assert_eq!(described.not_after, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60)));
}

#[test]
fn options_move_certificates_about() {
    let mut config = config();
    config.identity = Selection::Hint(Hint::new("internal").unwrap());
    (config.add_intermediates_to_bundle, config.include_federated_domains) = (true, true);
    (config.svid_file, config.key_file) = (None, None);
    config.combined_file = Some("combined.pem".to_owned());
    config.key_mode = 0o640;
    let bundle = ["CERTIFICATE: example.org root", "CERTIFICATE: db intermediate", "CERTIFICATE: partner.test root"];
    let expected = [
        file("combined.pem", 0o640, &["PRIVATE KEY: db key", "CERTIFICATE: db leaf"]),
        file("svid_bundle.pem", 0o644, &bundle),
    ];
    assert_eq!(files(&config, &ready(), &JwtSnapshot::default()), expected);
    config.identity = Selection::Id(SpiffeId::new("spiffe://example.org/db").unwrap());
    assert_eq!(files(&config, &ready(), &JwtSnapshot::default()), expected);
}

#[test]
fn what_is_not_there_is_not_written_over_what_is() {
    let write =
        |state: &Availability, config: &Config| render(config, state, &JwtSnapshot::default()).map(|it| it.is_some());
    for state in [Availability::Pending, Availability::Denied("no".into())] {
        assert_eq!(write(&state, &config()), Ok(false), "{state:?}");
    }
    let bundles_alone = IdentitySnapshot { svids: Vec::new(), ..snapshot() };
    let bundles_alone = Availability::Ready(Arc::new(bundles_alone));
    assert_eq!(write(&bundles_alone, &config()), Ok(false), "the last key stays");
    let verifier = Config { svid_file: None, key_file: None, ..config() };
    assert_eq!(
        files(&verifier, &bundles_alone, &JwtSnapshot::default()),
        [file("svid_bundle.pem", 0o644, &["CERTIFICATE: example.org root"])]
    );
    let other = Config { identity: Selection::Hint(Hint::new("other").unwrap()), ..config() };
    assert_eq!(write(&ready(), &other), Err(RenderError::NoIdentity("with the hint \"other\"".to_owned())));
    let lonely = IdentitySnapshot { bundles: BTreeMap::new(), ..snapshot() };
    let error = write(&Availability::Ready(Arc::new(lonely)), &config());
    assert_eq!(error, Err(RenderError::NoBundle("example.org".to_owned())));
}

#[test]
fn a_token_has_a_file_as_long_as_it_is_valid() {
    let mut config = config();
    (config.svid_file, config.key_file, config.bundle_file) = (None, None, None);
    config.jwt_svids = vec![JwtFile { request: request(), file: "token".to_owned() }];
    let pending = tokens(JwtState::Pending);
    assert!(render(&config, &Availability::Pending, &pending).unwrap().is_none());
    assert!(render(&config, &Availability::Pending, &JwtSnapshot::default()).unwrap().is_none());
    let token = file("token", 0o600, &["head.body.sig"]);
    assert_eq!(files(&config, &Availability::Pending, &tokens(valid())), [token]);
    let gone = tokens(JwtState::Gone(SystemTime::UNIX_EPOCH));
    assert_eq!(files(&config, &Availability::Pending, &gone), [], "fail closed");

    config.jwt_bundle_file = Some("keys.json".to_owned());
    let set = Base64::encode_string(br#"{"keys":[{"kid":"a"}]}"#);
    let keys = file("keys.json", 0o644, &[&format!(r#"{{"example.org":"{set}"}}"#)]);
    assert_eq!(files(&config, &Availability::Pending, &gone), [keys]);
}
