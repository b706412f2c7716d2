//! `POST /v3/discovery:secrets`: Envoy's `api_type: REST`, and what its answers are.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

use std::fs::{self, File};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use spiffe_sds::dev::envoy::admin::{Admin, until};
use support::{
    envoy::{BOUND, all},
    serving::Serving,
    world::{Setup, World, bounded},
};
use tokio::{
    net::{TcpStream, UnixStream},
    process::Command,
};

const PATH: &str = "/v3/discovery:secrets";

/// A world that has its first secrets: the state that a stream would wait for.
async fn started(change: impl FnOnce(&mut Setup)) -> World {
    let world = World::with(change).await;
    let first = until(BOUND, "the first secret", async || {
        let answer = ask(&world, json!({ "resource_names": ["default"] })).await;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE { Err("503".to_owned()) } else { Ok(()) }
    });
    first.await.unwrap();
    world
}

async fn send(world: &World, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let io = TokioIo::new(UnixStream::connect(world.socket()).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = bounded(sender.send_request(request)).await.unwrap().into_parts();
    Response::from_parts(parts, bounded(body.collect()).await.unwrap().to_bytes())
}

fn request(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(PATH)
        .header("host", "outbound|443||sds")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

async fn ask(world: &World, body: Value) -> Response<Bytes> {
    send(world, request(body.to_string())).await
}

fn secrets(response: &Response<Bytes>) -> Value {
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    serde_json::from_slice(response.body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_that_of_fetch_secrets_in_json() {
    let world = started(|_| {}).await;
    let answer = ask(&world, json!({ "resource_names": ["default", "nobody", "ROOTCA"] })).await;
    let answer = secrets(&answer);
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    assert_eq!(answer["type_url"], kind);
    let [svid, roots] = answer["resources"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!((&svid["@type"], &svid["name"], &roots["name"]), (&kind.into(), &"default".into(), &"ROOTCA".into()));
    for part in ["certificate_chain", "private_key"] {
        // The start of "-----BEGIN ", in base64.
        assert!(svid["tls_certificate"][part]["inline_bytes"].as_str().unwrap().starts_with("LS0tLS1CRUdJTi"));
    }
    let validator = &roots["validation_context"]["custom_validator_config"];
    assert_eq!(validator["name"], "envoy.tls.cert_validator.spiffe");
    let domain = &validator["typed_config"]["trust_domains"][0];
    assert_eq!(domain["name"], "domain.test");
    assert_eq!(domain["trust_bundle"]["inline_string"], world.roots("domain.test"));

    // The plain flavour, asked for by the node, in the other spelling.
    let node = json!({ "id": "x", "metadata": { "disable_spiffe_cert_validation": true }, "extensions": [{ "a": 1 }] });
    let answer = ask(&world, json!({ "resourceNames": ["ROOTCA"], "node": node })).await;
    let answer = secrets(&answer);
    assert!(answer["resources"][0]["validation_context"]["trusted_ca"]["inline_bytes"].is_string(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_holds_is_not_sent_again() {
    let world = started(|_| {}).await;
    let mut body = json!({ "resource_names": ["default"] });
    let first = secrets(&ask(&world, body.clone()).await);
    body["version_info"] = first["version_info"].clone();
    let again = ask(&world, body.clone()).await;
    assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
    world.issuer.rotate().unwrap();
    let renewed = until(BOUND, "the new certificate", async || {
        let answer = ask(&world, body.clone()).await;
        if answer.status() == StatusCode::NOT_MODIFIED { Err("304".to_owned()) } else { Ok(secrets(&answer)) }
    });
    assert_ne!(renewed.await.unwrap()["version_info"], first["version_info"]);
    // Other names are another version.
    body["resource_names"] = json!(["ROOTCA"]);
    assert_eq!(ask(&world, body).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_says_why() {
    let world = started(|setup| setup.server.limits.request_bytes = 4096).await;
    for (status, request) in [
        (StatusCode::NOT_FOUND, request(json!({ "resource_names": ["nobody"] }).to_string())),
        (StatusCode::NOT_FOUND, request("{}")),
        (StatusCode::BAD_REQUEST, request("no json")),
        (StatusCode::BAD_REQUEST, request(r#"{"resource_names": 7}"#)),
        (StatusCode::BAD_REQUEST, request(r#"{"resource_names": ["default"], "type_url": "other"}"#)),
        (StatusCode::PAYLOAD_TOO_LARGE, request(vec![b' '; 5000])),
    ] {
        let shown = format!("{request:?}");
        let answer = send(&world, request).await;
        assert_eq!(answer.status(), status, "{shown}");
        assert!(!answer.body().is_empty(), "{shown}");
    }
    let pending = World::pending().await;
    let answer = ask(&pending, json!({ "resource_names": ["default"] })).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_over_http_2_too() {
    let world = started(|_| {}).await;
    let io = TokioIo::new(UnixStream::connect(world.socket()).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(json!({ "resource_names": ["default"] }).to_string()));
    let request = Request::post(format!("http://localhost{PATH}")).header("content-type", "application/json");
    let request = request.body(body).unwrap();
    let answer = bounded(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let request = Request::get(format!("http://localhost{PATH}")).body(Full::default()).unwrap();
    let answer = bounded(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_polls_and_follows_a_rotation() {
    for binary in all() {
        let serving = Serving::start().await;
        let directory = serving.directory.path();
        let (file, admin) = (directory.join("envoy.yaml"), directory.join("admin"));
        fs::write(&file, bootstrap(&serving)).unwrap();
        let _envoy = Command::new(binary.path())
            .args(["--disable-hot-restart", "--concurrency", "1", "--admin-address-path"])
            .arg(&admin)
            .arg("-c")
            .arg(&file)
            .stderr(File::create(directory.join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let admin = until(BOUND, "the admin interface", async || {
            let text = fs::read_to_string(&admin).map_err(|error| error.to_string())?;
            let admin = Admin::new(text.trim().parse().map_err(|_| text.clone())?);
            admin.server_info().await.map(|_| admin).map_err(|error| error.to_string())
        });
        let admin = admin.await.unwrap();
        for _ in 0..2 {
            admin.wait_serial(&serving.issuer.svids()[0].serial, BOUND).await.unwrap();
            serving.issuer.rotate().unwrap();
        }
        admin.wait_serial(&serving.issuer.svids()[0].serial, BOUND).await.unwrap();
        let counted = async |name: &str| admin.stat(name).await.unwrap().unwrap();
        assert_eq!(counted("sds.default.update_rejected").await, 0);
        assert_eq!(counted("sds.ROOTCA.update_rejected").await, 0);
        assert!(counted("sds.ROOTCA.update_success").await >= 1);
        // What has not changed is not sent again.
        admin.wait_stat("cluster.sds.internal.upstream_rq_304", |count| count >= 2, BOUND).await.unwrap();
    }
}

fn bootstrap(serving: &Serving) -> String {
    let socket = serving.socket();
    let source = json!({ "resource_api_version": "V3", "api_config_source": {
        "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["sds"], "refresh_delay": "0.2s",
        "request_timeout": "1s",
    } });
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": source }],
            "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": source },
        },
    });
    let loopback = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    let echo = json!({ "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" });
    let chain = json!({
        "filters": [{ "name": "envoy.filters.network.echo", "typed_config": echo }],
        "transport_socket": { "name": "tls", "typed_config": context },
    });
    let endpoint = json!({ "endpoint": { "address": { "pipe": { "path": socket } } } });
    let endpoints = json!({ "cluster_name": "sds", "endpoints": [{ "lb_endpoints": [endpoint] }] });
    // JSON is YAML.
    json!({
        "node": { "id": "envoy", "cluster": "test" },
        "admin": { "address": loopback },
        "static_resources": {
            "listeners": [{ "name": "tls", "address": loopback, "filter_chains": [chain] }],
            "clusters": [{ "name": "sds", "type": "STATIC", "load_assignment": endpoints }],
        },
    })
    .to_string()
}

/// As gRPC reads it.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_for_the_asking_where_that_is_allowed() {
    for wildcard in [false, true] {
        let world = started(|setup| setup.secrets.wildcard = wildcard).await;
        for names in [json!([]), json!([""]), json!(["*"])] {
            let answer = ask(&world, json!({ "resource_names": names })).await;
            if !wildcard {
                assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{names}");
                continue;
            }
            let body: Value = serde_json::from_slice(answer.body()).unwrap();
            let found: Vec<_> = body["resources"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
            assert_eq!(found, ["spiffe://domain.test", "spiffe://domain.test/workload"], "{names}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_an_answerable_request() {
    let world = started(|_| {}).await;
    let body = json!({ "resource_names": ["default"] }).to_string();
    for (kind, status) in [
        (Some("application/json"), 200),
        (Some("Application/JSON; charset=utf-8"), 200),
        (Some("text/plain"), 415),
        (Some("text/plain; application/json"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/jsonx"), 415),
        (None, 415),
    ] {
        let mut request = Request::post(PATH).header("host", "sds");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let answer = send(&world, request.body(Full::new(body.clone().into())).unwrap()).await;
        assert_eq!(answer.status(), status, "{kind:?}");
    }
}

/// What comes over HTTP/1.1 is no gRPC, whatever its path.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_methods_are_not_served_over_http_1() {
    let world = started(|_| {}).await;
    let path = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
    for kind in ["application/grpc", "application/grpc-web", "application/json", "text/plain"] {
        let request = Request::post(path).header("host", "localhost").header("content-type", kind);
        let answer = send(&world, request.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{kind}");
    }
}

/// Over TCP, where a browser could be.
#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_the_host_must_be_ours_and_no_page_may_ask() {
    let world = started(|setup| setup.server.hosts = vec!["sds_cluster".to_owned()]).await;
    let ask = async |headers: &[(&str, &str)]| {
        let io = TokioIo::new(TcpStream::connect(world.address()).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::post(PATH).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(json!({ "resource_names": ["default"] }).to_string()));
        let answer = bounded(sender.send_request(request.body(body).unwrap())).await.unwrap();
        let (status, body) =
            (answer.status().as_u16(), bounded(answer.into_body().collect()).await.unwrap().to_bytes());
        assert_eq!(status == 200, String::from_utf8_lossy(&body).contains("private_key"), "{headers:?}");
        status
    };
    for host in ["localhost", "127.0.0.1:80", "[::1]:80", "sds_cluster", "SDS_CLUSTER:18000"] {
        assert_eq!(ask(&[("host", host)]).await, 200, "{host}");
    }
    for host in ["evil.test", "evil.test:80", "localhost.evil.test", "10.0.0.1", "sds_cluster.evil.test"] {
        assert_eq!(ask(&[("host", host)]).await, 421, "{host}");
    }
    for (name, value) in [("origin", "http://localhost"), ("origin", "null"), ("sec-fetch-site", "same-origin")] {
        assert_eq!(ask(&[("host", "localhost"), (name, value)]).await, 403, "{name}: {value}");
    }
}
