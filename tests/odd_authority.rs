//! Clients that name the server in a way that is no URI authority: gRPC C-core on a Unix socket (Python, and Envoy's
//! `google_grpc`), Envoy clusters with odd names, and whatever else `h2` would reset without a word.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use support::{
    envoy::{BOUND, all, latest},
    serving::Serving,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Command,
    time::timeout,
};

/// A Python with `grpcio` and py-spiffe, installed once into the target directory.
async fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let (venv, done) = (target.join("grpcio/venv"), target.join("grpcio/done-1.85.1-0.3.2"));
    let python = venv.join("bin/python");
    if !done.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).await;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "grpcio==1.85.1", "spiffe==0.3.2"])).await;
        fs::write(done, "").unwrap();
    }
    python
}

/// Runs to a good end and hands out what was printed.
async fn run(command: &mut Command) -> String {
    // The first time things are downloaded.
    let output = timeout(10 * BOUND, command.stdin(Stdio::null()).kill_on_drop(true).output()).await.expect("it hangs");
    let output = output.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_on_a_unix_socket_gets_its_secrets_from_every_method() {
    let (world, python) = (Serving::start().await, python().await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/odd_authority/client.py");
    let printed = timeout(BOUND * 2, run(Command::new(python).arg(script).arg(world.socket()))).await.unwrap();
    let once = ["StreamSecrets", "DeltaSecrets", "FetchSecrets"];
    assert_eq!(printed.lines().collect::<Vec<_>>(), [once, once].concat());
}

/// The same client library on the other sockets that speak HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn python_reads_the_client_status_and_is_issued_identities() {
    let (site, python) = (fixture::Site::ready(&[]).await, python().await);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/odd_authority/others.py");
    let mut command = Command::new(python);
    command.arg(script).arg(site.socket()).arg(site.directory.path().join("api.sock"));
    let printed = timeout(BOUND * 2, run(&mut command)).await.unwrap();
    let wanted = [
        "FetchClientStatus",
        "StreamClientStatus",
        "FetchX509SVID",
        "py-spiffe spiffe://domain.test/workload",
        "py-spiffe JWT spiffe://domain.test/workload",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), wanted);
    site.stop().await;
}

/// A bootstrap whose two secrets come over `service`, from a cluster with this name.
fn bootstrap(socket: &Path, cluster: &str, service: &str) -> String {
    let socket = socket.display();
    let source = format!(
        "{{ resource_api_version: V3, api_config_source: {{ api_type: GRPC, transport_api_version: V3, \
         grpc_services: [ {service} ] }} }}"
    );
    format!(
        r#"
node: {{ id: envoy, cluster: test }}
static_resources:
  listeners:
  - name: tls
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.echo
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs: [ {{ name: default, sds_config: {source} }} ]
            validation_context_sds_secret_config: {{ name: ROOTCA, sds_config: {source} }}
  clusters:
  - name: "{cluster}"
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: sds
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ pipe: {{ path: {socket} }} }} }} }} ] }} ]
"#
    )
}

async fn envoy_takes_its_secrets(binary: &Path, cluster: &str, service: impl FnOnce(&Path) -> String) {
    let mut world = Serving::start().await;
    let (file, log) = (world.directory.path().join("envoy.yaml"), world.directory.path().join("log"));
    fs::write(&file, bootstrap(&world.socket(), cluster, &service(&world.socket()))).unwrap();
    let mut envoy = Command::new(binary)
        .args(["--disable-hot-restart", "--concurrency", "1", "-c"])
        .arg(&file)
        .stderr(File::create(log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::select! {
        () = world.acked(&["default", "ROOTCA"]) => {}
        ended = envoy.wait() => panic!("envoy ended: {ended:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_clusters_may_have_any_name() {
    for binary in all() {
        for cluster in ["outbound|443||sds.ns.svc", "xds cluster/α"] {
            let service = format!("{{ envoy_grpc: {{ cluster_name: \"{cluster}\" }} }}");
            envoy_takes_its_secrets(binary.path(), cluster, |_| service).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_google_grpc_works_on_a_unix_socket() {
    envoy_takes_its_secrets(latest().path(), "unused", |socket| {
        format!("{{ google_grpc: {{ target_uri: \"unix:{}\", stat_prefix: sds }} }}", socket.display())
    })
    .await;
}

#[tokio::test]
async fn every_authority_is_answered() {
    let world = Serving::start().await;
    for authority in ["localhost", "unix:/run/x.sock", "a%2Fb", "tmp%2Fsds.sock", "outbound|443||sds.ns.svc", "\u{e4}"]
    {
        let mut io = UnixStream::connect(world.socket()).await.unwrap();
        io.write_all(&unknown_method(authority)).await.unwrap();
        let mut read = Vec::new();
        let status = async {
            while answer(&read).is_none() {
                assert!(io.read_buf(&mut read).await.unwrap() > 0, "{authority}: the connection was closed");
            }
        };
        timeout(BOUND, status).await.unwrap();
        assert_eq!(answer(&read), Some(Answer::Headers), "{authority}");
    }
}

/// A connection with one call of a method that does not exist, which is answered by its status in plain headers.
fn unknown_method(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":path", "/none/None"), (":authority", authority), ("content-type", "application/grpc")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    out.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    out.extend(block);
    out
}

#[derive(Debug, PartialEq)]
enum Answer {
    Headers,
    Reset,
}

/// The first whole frame among these bytes that answers a stream.
fn answer(mut bytes: &[u8]) -> Option<Answer> {
    while let Some(header) = bytes.first_chunk::<9>() {
        match header[3] {
            1 => return Some(Answer::Headers),
            3 => return Some(Answer::Reset),
            _ => {}
        }
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        bytes = bytes.get(9 + length..)?;
    }
    None
}
