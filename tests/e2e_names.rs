//! The operator's own names on real Envoys: the name table, matchers, revocation lists, and names that strangers choose.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use spiffe_sds::{
    config::{self, Config, Sources},
    dev::{
        Issued, RawMessage,
        envoy::{Envoy, EnvoyBinary},
    },
    envoy::{Action, Address, Bootstrap, Listener, Sds, Tls, Variant},
    identity::{Certificate, CertificateChain, PrivateKey, Svid, Validity},
    secret,
    server::StreamEvent,
    workload_api_proto::X509svid,
};
use support::{
    envoy::{latest, oldest},
    tls,
    world::{Events, World, id},
};
use tempfile::TempDir;
use zeroize::Zeroizing;

const BOUND: Duration = Duration::from_secs(30);

/// The `secrets` section of a configuration.
fn secrets(section: &str) -> secret::Config {
    let indented: String = section.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("source: {{ workload_api: {{ endpoint: 'unix:///unused' }} }}\nsecrets:\n{indented}");
    let file = config::File { path: "e2e.yaml".into(), text };
    let config = Config::new(&Sources { file: Some(file), variables: BTreeMap::new(), flags: Vec::new() });
    config.unwrap_or_else(|problems| panic!("{problems}")).secrets().clone()
}

/// An issuer with a server's and two clients' identities, and a program with these secrets.
async fn world(section: &str) -> World {
    World::with(|setup| {
        setup.secrets = secrets(section);
        let issuer = setup.issuer.clone().identity(id("client"), Some("the client"));
        setup.issuer = issuer.identity(id("stranger"), None);
    })
    .await
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn sds(world: &World, variant: Variant) -> Sds {
    Sds::new(variant, Address::Unix(world.socket())).initial_fetch_timeout(BOUND)
}

/// An Envoy with a listener for each pair of certificate and context.
async fn envoy(binary: &EnvoyBinary, dir: &TempDir, bootstrap: Bootstrap, listeners: &[(&str, &str, &str)]) -> Envoy {
    let listeners = listeners.iter().map(|(name, svid, context)| {
        Listener::new(*name, loopback(), Action::respond("hello\n")).tls(Tls::new(*svid, *context).no_resumption())
    });
    let bootstrap = listeners.fold(bootstrap, Bootstrap::listener);
    let envoy = Envoy::start(binary, dir.path(), bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    envoy.wait_ready(BOUND).await.unwrap_or_else(|error| panic!("{error}"));
    envoy
}

async fn port(envoy: &Envoy, listener: &str) -> SocketAddr {
    envoy.wait_listener(listener, BOUND).await.unwrap()
}

/// Nothing was refused by an Envoy so far.
fn expect_no_rejection(events: &mut Events) {
    for event in events.now() {
        assert!(!matches!(event, StreamEvent::Nacked { .. }), "{event:?}");
    }
}

const TABLE: &str = r#"
names:
  - name: sds://${node.metadata.app}
    svid: spiffe://domain.test/${node.metadata.role}
  - name: by-hint
    svid: "hint:the client"
  - name: sds://${node.metadata.app}-ca
    bundle: own
    suppress_client_ca_list: true
    match_subject_alt_names:
      - uri: { exact: "spiffe://domain.test/${node.metadata.peer}" }
  - name: plain-ca
    bundle: domain.test
    flavour: plain
    suppress_client_ca_list: true
    match_subject_alt_names:
      - dns: { exact: nobody.test }
      - uri: { prefix: spiffe://domain.test/cli }
  - name: everyone
    bundle: all
  - name: plain-named
    bundle: domain.test
    flavour: plain
"#;

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_table_serve_the_latest_envoy() {
    for variant in Variant::ALL {
        table(&latest(), variant).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_table_serve_the_oldest_envoy() {
    table(&oldest(), Variant::Delta).await;
    table(&oldest(), Variant::Sotw).await;
}

async fn table(binary: &EnvoyBinary, variant: Variant) {
    let world = world(TABLE).await;
    let mut events = world.events();
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = Bootstrap::new("n1", "e2e", sds(&world, variant));
    let bootstrap = bootstrap.metadata("app", "web").metadata("role", "workload").metadata("peer", "client");
    let listeners = [
        ("spiffe", "sds://web", "sds://web-ca"),
        ("plain", "by-hint", "plain-ca"),
        ("open", "default", "everyone"),
        ("named", "default", "plain-named"),
    ];
    let envoy = envoy(binary, &dir, bootstrap, &listeners).await;
    let (server, client, stranger) = (world.svid("workload"), world.svid("client"), world.svid("stranger"));
    for (listener, shown, allowed) in [("spiffe", &server, false), ("plain", &client, false), ("open", &server, true)] {
        let address = port(&envoy, listener).await;
        assert_eq!(tls::request(address, &client).await, Ok(shown.serial.clone()), "{variant} {listener}");
        let refused = tls::request(address, &stranger).await;
        assert_eq!(refused.is_ok(), allowed, "{variant} {listener}: {refused:?}");
    }
    // With `suppress_client_ca_list` Envoy tells nobody whom it trusts; without, everybody before the handshake is over.
    // Before 1.39 the field is not sent.
    let known = *binary != oldest();
    for (listener, suppressed) in [("spiffe", known), ("plain", known), ("open", false), ("named", false)] {
        let authorities = tls::asked_for(port(&envoy, listener).await).await;
        let named = authorities.unwrap_or_else(|| panic!("{variant} {listener}: no certificate was asked for"));
        assert_eq!(named.is_empty(), suppressed, "{variant} {listener} on {}: {named:?}", binary.version());
    }
    // A rotation reaches names that only this client has.
    world.issuer.rotate().unwrap();
    let wanted = world.svid("workload").serial;
    envoy.admin().wait_serial(&wanted, BOUND).await.unwrap();
    expect_no_rejection(&mut events);
    envoy.stop().await;
}

/// An authority whose key the test has.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, path: &str, serial: u64) -> Issued {
        let (key, id) = (KeyPair::generate().unwrap(), id(path));
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(serial));
        params.is_ca = IsCa::ExplicitNoCa;
        // Both authorities have one name: the key tells which of them it was.
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (begin, end) = (date_time_ymd(2024, 1, 1), date_time_ymd(2100, 1, 1));
        (params.not_before, params.not_after) = (begin, end);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let svid = Svid {
            id,
            chain: CertificateChain::new(Certificate::from_der(leaf.der()), Vec::new()),
            key: PrivateKey::from_pkcs8_der(Zeroizing::new(key.serialize_der())),
            hint: None,
            validity: Validity { not_before: begin.into(), not_after: end.into() },
        };
        Issued { svid, serial: format!("{serial:02x}") }
    }

    /// A list that revokes these serial numbers.
    fn crl(&self, number: u64, revoked: &[u64]) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

/// A message with this server identity, these authorities and these lists.
fn message(world: &World, server: &Issued, authorities: &[&Ca], crls: &[Vec<u8>]) -> RawMessage {
    world.issuer.message().tamper(|message| {
        let chain: Vec<u8> = server.svid.chain.iter().flat_map(|certificate| certificate.der().to_vec()).collect();
        let bundle: Vec<u8> = authorities.iter().flat_map(|ca| ca.certificate.der().to_vec()).collect();
        message.svids = vec![X509svid {
            spiffe_id: server.svid.id.to_string(),
            x509_svid: chain.into(),
            x509_svid_key: server.svid.key.pkcs8_der().to_vec().into(),
            bundle: bundle.into(),
            hint: String::new(),
        }];
        message.crl = crls.iter().map(|crl| crl.clone().into()).collect();
    })
}

const FLAVOURS: &str = "names: [{ name: plain-ca, bundle: own, flavour: plain }]\n";

#[tokio::test(flavor = "multi_thread")]
async fn revoked_peers_are_refused_in_both_flavours() {
    for binary in [latest(), oldest()] {
        let world = world(FLAVOURS).await;
        let mut events = world.events();
        let (old, new) = (Ca::new(), Ca::new());
        let (server, good, bad) = (old.issue("workload", 0x11), old.issue("good", 0x22), old.issue("bad", 0x33));
        let later = new.issue("good", 0x33);
        world.issuer.send_raw(message(&world, &server, &[&old], &[]));
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = Bootstrap::new("n1", "e2e", sds(&world, Variant::Delta));
        let listeners = [("spiffe", "default", "ROOTCA"), ("plain", "default", "plain-ca")];
        let envoy = envoy(&binary, &dir, bootstrap, &listeners).await;
        let ports = [port(&envoy, "spiffe").await, port(&envoy, "plain").await];
        let expect = async |what: &str, peer: &Issued, accepted: bool| {
            for address in ports {
                let begun = Instant::now();
                while tls::request(address, peer).await.is_ok() != accepted {
                    assert!(begun.elapsed() < BOUND, "{} {what} {address} of {ports:?}", binary.version());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        expect("without a list", &bad, true).await;
        expect("without a list", &good, true).await;

        world.issuer.send_raw(message(&world, &server, &[&old], &[old.crl(1, &[0x33])]));
        expect("revoked", &bad, false).await;
        expect("not revoked either", &good, true).await;

        // An authority without a list: Envoy would refuse all of its peers, so there is no list at all.
        world.issuer.send_raw(message(&world, &server, &[&old, &new], &[old.crl(2, &[0x33])]));
        expect("of an authority without a list", &later, true).await;
        expect("not revoked", &good, true).await;

        world.issuer.send_raw(message(&world, &server, &[&old, &new], &[old.crl(3, &[0x33]), new.crl(1, &[])]));
        expect("revoked again", &bad, false).await;
        expect("of the other authority with the same serial number", &later, true).await;

        // Somebody else's list says nothing, though its issuer has the same name.
        let foreign = Ca::new().crl(9, &[0x22]);
        world.issuer.send_raw(message(&world, &server, &[&old, &new], &[old.crl(4, &[]), new.crl(2, &[]), foreign]));
        expect("revoked no longer", &bad, true).await;
        expect("not revoked", &good, true).await;
        expect_no_rejection(&mut events);
        envoy.stop().await;
    }
}

const ON_DEMAND: &str = r#"
names:
  - name: known.example.com
    svid: spiffe://domain.test/client
allowed_names: ["server"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn names_that_strangers_choose_are_refused_at_once() {
    let world = world(ON_DEMAND).await;
    let dir = tempfile::tempdir().unwrap();
    let sds = sds(&world, Variant::Delta);
    let file = dir.path().join("listeners.yaml");
    let bootstrap = Bootstrap::new("n1", "e2e", sds).listeners_from(&file);
    let envoy = Envoy::start(&latest(), dir.path(), bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    replace(&file, &on_demand_listener());
    let address = port(&envoy, "on-demand").await;
    let client = world.svid("client");
    let known = tls::request_to(address, "known.example.com", &client).await;
    assert_eq!(known, Ok(world.svid("client").serial));
    for name in ["unknown.example.com", "ROOTCA", "default", "known.example.com.evil", "known-example.com"] {
        let begun = Instant::now();
        let refused = tls::request_to(address, name, &client).await;
        assert!(refused.is_err(), "{name}: {refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name} took {:?}: {refused:?}", begun.elapsed());
    }
    world.issuer.rotate().unwrap();
    let wanted = world.svid("client").serial;
    // Envoy does not list these certificates.
    let begun = Instant::now();
    while tls::request_to(address, "known.example.com", &client).await.as_ref() != Ok(&wanted) {
        assert!(begun.elapsed() < BOUND, "the rotated certificate never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    envoy.stop().await;
}

/// The listener of `examples/envoy/on-demand.yaml`, as a file that Envoy watches.
fn on_demand_listener() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/on-demand.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let example: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let mut listener = example["static_resources"]["listeners"][0].clone();
    listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    listener["address"]["socket_address"]["port_value"] = 0.into();
    serde_json::json!({ "version_info": "1", "resources": [listener] }).to_string()
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}
