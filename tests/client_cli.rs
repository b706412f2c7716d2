//! `fetch` and `watch` as a script runs them, against our server and against one that behaves like SPIRE's.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Output, Stdio},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{GenericSecret, Secret, secret::Type},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_server::{SecretDiscoveryService, SecretDiscoveryServiceServer},
        },
    },
    google::protobuf::Any,
};
use prost::Message as _;
use serde_json::Value;
use support::{envoy::BOUND, serving::Serving};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UnixListener,
    process::Command,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::{
    Stream,
    wrappers::{UnboundedReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming};

const VARIANTS: [&str; 5] = ["sotw", "delta", "ads-sotw", "ads-delta", "fetch"];

fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("spiffe-sds"));
    let (subcommand, rest) = arguments.split_first().unwrap();
    command.arg(subcommand).arg("--server").arg(format!("unix://{}", socket.display())).args(rest);
    command.stdin(Stdio::null()).env_clear().kill_on_drop(true);
    command
}

async fn run(socket: &Path, arguments: &[&str]) -> Output {
    timeout(BOUND, command(socket, arguments).output()).await.expect("it did not end").unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_shows_what_envoy_would_get_in_every_variant() {
    let serving = Serving::start().await;
    let serial = serving.issuer.svids()[0].serial.clone();
    for variant in VARIANTS {
        let output = run(&serving.socket(), &["fetch", "--variant", variant, "--json", "--timeout", "20s"]).await;
        assert_eq!(output.status.code(), Some(0), "{variant}: {output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        let (svid, roots) = (&shown["secrets"][0], &shown["secrets"][1]);
        assert_eq!((&svid["name"], &svid["about"]), (&"default".into(), &"spiffe://example.org/workload".into()));
        assert_eq!(svid["serials"], serde_json::json!([serial]), "{variant}");
        assert_eq!((&roots["name"], &roots["about"]), (&"ROOTCA".into(), &"example.org (1)".into()), "{variant}");
        assert_eq!(roots["details"]["validator"], "spiffe");
        assert_eq!(shown["missing"], serde_json::json!([]));
        for output in [&output.stdout, &output.stderr] {
            assert!(!text(output).contains("PRIVATE KEY") && !text(output).contains("BEGIN"), "{variant}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_names_have_an_exit_code_of_their_own() {
    let serving = Serving::start().await;
    for variant in VARIANTS {
        let arguments = ["fetch", "--variant", variant, "--timeout", "2s", "--name", "default", "--name", "nobody"];
        let output = run(&serving.socket(), &arguments).await;
        assert_eq!(output.status.code(), Some(3), "{variant}: {output:?}");
        let out = text(&output.stdout);
        assert!(out.contains("spiffe://example.org/workload"), "{variant}: {out}");
        assert!(out.contains("nobody: missing"), "{variant}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_and_complete() {
    let serving = Serving::start().await;
    let directory = serving.directory.path().join("out");
    let output = run(&serving.socket(), &["fetch", "--out-dir", directory.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut names = Vec::new();
    for file in fs::read_dir(&directory).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["ROOTCA.example.org.ca.pem", "default.crt.pem", "default.key.pem"]);
    assert!(fs::read_to_string(directory.join("default.key.pem")).unwrap().contains("BEGIN PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for subcommand in ["fetch", "watch"] {
        let output = run(&directory.path().join("none.sock"), &[subcommand]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot connect to unix:"), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_each_change() {
    let serving = Serving::start().await;
    for variant in ["sotw", "delta", "ads-sotw", "ads-delta"] {
        let arguments = ["watch", "--variant", variant, "--name", "default", "--count", "2"];
        let mut child = command(&serving.socket(), &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(BOUND, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(first.ends_with("first: spiffe://example.org/workload"), "{first}");
        serving.issuer.rotate().unwrap();
        let second = timeout(BOUND, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(second.ends_with("renewed: spiffe://example.org/workload"), "{second}");
        assert!(second.contains(&serving.issuer.svids()[0].serial[..16]), "{second}");
        assert_eq!(timeout(BOUND, child.wait()).await.unwrap().unwrap().code(), Some(0));
    }
}

/// Like SPIRE's: no delta, no aggregation, an error for a name it does not know. Tells what it heard.
struct SpireLike {
    secrets: Vec<(&'static str, Vec<u8>)>,
    heard: mpsc::UnboundedSender<DiscoveryRequest>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for SpireLike {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap();
        let name = first.resource_names[0].clone();
        let Some((_, value)) = self.secrets.iter().find(|(known, _)| *known == name) else {
            return Err(Status::invalid_argument(format!("unknown resource {name:?}")));
        };
        let secret = DataSource { specifier: Some(Specifier::InlineBytes(value.clone())), ..Default::default() };
        let secret = GenericSecret { secret: Some(secret), ..Default::default() };
        let value = Secret { name, r#type: Some(Type::GenericSecret(secret)) }.encode_to_vec();
        let any = Any { type_url: first.type_url.clone(), value };
        let (sender, responses) = mpsc::unbounded_channel();
        let type_url = first.type_url;
        let (version_info, nonce) = ("1".to_owned(), "n".to_owned());
        let response = DiscoveryResponse { version_info, nonce, type_url, resources: vec![any], ..Default::default() };
        sender.send(Ok(response)).unwrap();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let _ = heard.send(request);
            }
            drop(sender);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(responses))))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("not implemented"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("not implemented"))
    }
}

impl SpireLike {
    fn start(
        directory: &Path,
        secrets: Vec<(&'static str, Vec<u8>)>,
    ) -> (PathBuf, mpsc::UnboundedReceiver<DiscoveryRequest>) {
        let socket = directory.join("spire.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let (heard, requests) = mpsc::unbounded_channel();
        let service = SecretDiscoveryServiceServer::new(Self { secrets, heard });
        let served = tonic::service::Routes::new(service).prepare();
        tokio::spawn(serve(incoming, served));
        (socket, requests)
    }
}

async fn serve(mut incoming: UnixListenerStream, routes: tonic::service::Routes) {
    use hyper_util::{rt::TokioExecutor, rt::TokioIo, service::TowerToHyperService};
    use tokio_stream::StreamExt as _;
    while let Some(Ok(io)) = incoming.next().await {
        let service = TowerToHyperService::new(routes.clone());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(io), service));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_streams_for_unknown_names_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, _heard) = SpireLike::start(directory.path(), vec![("known", b"hunter2".to_vec())]);
    let arguments = ["fetch", "--variant", "sotw", "--name", "known", "--name", "nobody"];
    let output = run(&socket, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let out = text(&output.stdout);
    assert!(out.contains("known") && out.contains("7 bytes"), "the other name is not hurt: {out}");
    assert!(
        out.contains("the server refused nobody: InvalidArgument: unknown resource \"nobody\" (SPIRE ends"),
        "{out}"
    );
    assert!(!out.contains("hunter2"));
    let output = run(&socket, &["fetch", "--variant", "delta", "--name", "known"]).await;
    assert!(text(&output.stdout).contains("try another --variant"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_told_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    // {"sub":"spiffe://td/w","aud":["db"],"exp":4102444800}
    let payload = "eyJzdWIiOiJzcGlmZmU6Ly90ZC93IiwiYXVkIjpbImRiIl0sImV4cCI6NDEwMjQ0NDgwMH0";
    let token = format!("Bearer e30.{payload}.c2ln");
    let (socket, mut heard) = SpireLike::start(
        directory.path(),
        vec![("token", token.clone().into_bytes()), ("broken", b"two\r\nlines".to_vec())],
    );
    let output = run(&socket, &["fetch", "--variant", "sotw", "--name", "token"]).await;
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("spiffe://td/w for db") && out.contains("2100-01-01T00:00:00Z"), "{out}");
    assert!(!out.contains(payload));
    let ack = timeout(BOUND, heard.recv()).await.unwrap().unwrap();
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str(), ack.error_detail), ("1", "n", None));

    let output = run(&socket, &["fetch", "--variant", "sotw", "--name", "broken"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("broken: Envoy would refuse it: it cannot be the value of a header"));
    let nack = timeout(BOUND, heard.recv()).await.unwrap().unwrap();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("", "n"));
    assert_eq!(nack.error_detail.unwrap().code, 13);

    let directory = directory.path().join("out");
    let arguments = ["watch", "--variant", "sotw", "--name", "token", "--count", "1", "--nack", "--out-dir"];
    let output = run(&socket, &[&arguments[..], &[directory.to_str().unwrap()]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(directory.join("token.secret")).unwrap(), token);
    let nack = timeout(BOUND, heard.recv()).await.unwrap().unwrap();
    assert_eq!(nack.error_detail.unwrap().message, "refused on request (--nack)");
}
