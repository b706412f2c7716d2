//! Names of files on real Envoys: a server whose certificate is in files, and a client that trusts what is in a file,
//! both rotated under load; the rest of either handshake is SPIFFE.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use pem_rfc7468::LineEnding;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use spiffe_sds::{
    dev::envoy::{Envoy, EnvoyBinary, Load, admin::until},
    envoy::{Action, Address, Bootstrap, Listener, Sds, Tls, Upstream, Variant},
};
use support::{
    app::Place,
    envoy::{latest, oldest},
};

const BOUND: Duration = Duration::from_secs(30);
const LEAVES: u64 = 4;

/// An authority that has nothing to do with SPIFFE.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Puts a new key and its certificate where the server's are, one after the other.
    fn issue(&self, directory: &Path, serial: u64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["server.test".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2100, 1, 1));
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        replace(&directory.join("tls.key"), &pem("PRIVATE KEY", &key.serialize_der()));
        replace(&directory.join("tls.crt"), &pem("CERTIFICATE", leaf.der()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_envoy_loses_no_request_when_files_rotate() {
    for variant in [Variant::Sotw, Variant::Delta, Variant::AdsDelta] {
        rotate(&latest(), variant).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_envoy_loses_no_request_when_files_rotate() {
    rotate(&oldest(), Variant::Delta).await;
}

async fn rotate(binary: &EnvoyBinary, variant: Variant) {
    let place = Place::new().await;
    let certs = place.at("certs");
    fs::create_dir(&certs).unwrap();
    let mut ca = Ca::new("the first");
    let mut serial = 0x1000;
    ca.issue(&certs, serial);
    replace(&certs.join("ca.pem"), &ca.pem);
    let running = place.run("secrets: { files: { allow: [$/certs] } }\n").await;

    let at = |name: &str| certs.join(name).display().to_string();
    let (cert, root) =
        (format!("file-cert:{}~{}", at("tls.crt"), at("tls.key")), format!("file-root:{}", at("ca.pem")));
    let sds = Sds::new(variant, Address::Unix(place.at("sds.sock"))).initial_fetch_timeout(BOUND);
    let mtls = Listener::new("mtls", loopback(), Action::respond("hello\n"))
        .tls(Tls::new(&cert, "ROOTCA").peer("spiffe://domain.test/workload").no_resumption());
    let server = start(binary, &place, Bootstrap::new("server", "e2e", sds.clone()).listener(mtls)).await;
    let port = server.wait_listener("mtls", BOUND).await.unwrap();
    let client = Bootstrap::new("client", "e2e", sds)
        .listener(Listener::new("entry", loopback(), Action::forward("server")))
        .upstream(
            Upstream::new("server", port).tls(Tls::new("default", &root).no_resumption()).connection_per_request(),
        );
    let client = start(binary, &place, client).await;
    let entry = client.wait_listener("entry", BOUND).await.unwrap();
    server.wait_ready(BOUND).await.unwrap();
    client.wait_ready(BOUND).await.unwrap();

    let load = Load::new(entry).unwrap().connection_per_request().workers(2);
    let load = load.pause(Duration::from_millis(10)).timeout(Duration::from_secs(20)).start();
    for _ in 0..2 {
        for _ in 0..LEAVES {
            serial += 1;
            ca.issue(&certs, serial);
            server.admin().wait_serial(&format!("{serial:02x}"), BOUND).await.unwrap();
        }
        // Another authority, of another name: trusted first, used then, alone at last.
        let next = Ca::new(&format!("authority {serial}"));
        trust(&client, &root, &certs, &format!("{}{}", ca.pem, next.pem)).await;
        serial += 1;
        next.issue(&certs, serial);
        server.admin().wait_serial(&format!("{serial:02x}"), BOUND).await.unwrap();
        trust(&client, &root, &certs, &next.pem).await;
        ca = next;
    }
    let report = load.stop().await;
    assert_eq!(report.failures, 0, "{variant} on envoy {}: {report:#?}", binary.version());
    assert!(report.requests > 50, "{variant}: hardly any load: {report:?}");

    // It is that file that is trusted, and nothing else.
    trust(&client, &root, &certs, &Ca::new("a stranger").pem).await;
    let refused = Load::new(entry).unwrap().connection_per_request().max_requests(1).start().finish().await;
    assert_eq!(refused.failures, 1, "{variant}");
    client.stop().await;
    server.stop().await;
    running.stop().await;
}

/// Puts these authorities in place and waits until the client has them.
async fn trust(client: &Envoy, name: &str, certs: &Path, authorities: &str) {
    let version = async || client.admin().secret_version(name).await.unwrap();
    let before = version().await;
    replace(&certs.join("ca.pem"), authorities);
    let arrived = async || if version().await == before { Err("the same version".to_owned()) } else { Ok(()) };
    until(BOUND, "other authorities", arrived).await.unwrap();
}

async fn start(binary: &EnvoyBinary, place: &Place, bootstrap: Bootstrap) -> Envoy {
    Envoy::start(binary, place.directory.path(), bootstrap).await.unwrap_or_else(|error| panic!("{error}"))
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
}
