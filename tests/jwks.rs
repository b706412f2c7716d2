//! The bundle endpoint over real sockets, and a real Envoy that verifies JWT-SVIDs with it.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

#[path = "jwks/fixture.rs"]
mod fixture;
mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding as _};
use fixture::{BOUND, Served, Signer, bounded, http1, http2, raw};
use serde_json::{Value, json};
use spiffe_sds::{
    app::App,
    config::{self, Config},
    dev::{
        self, DevIssuer,
        envoy::{Envoy, EnvoyBinary, admin::until},
    },
    envoy::{Action, Address, Bootstrap, JwtVerifier, Listener, Sds, Variant},
    identity::{SpiffeId, TrustBundle, TrustDomain},
    secret::jwks::closed_jwk_set,
    source::Endpoint,
};
use support::envoy::all;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
};
use tokio_util::sync::CancellationToken;

const OWN: &str = "example.org";
const PARTNER: &str = "partner.example";

#[tokio::test]
async fn both_versions_of_http_are_served_on_both_kinds_of_sockets() {
    let endpoint = Served::start().await;
    let signer = Signer::new(OWN, "a");
    assert_eq!(endpoint.get("/jwks/example.org").await.status(), 503, "before the source has spoken");
    endpoint.publish(&[&signer], &[]);
    endpoint.publish_x509(&[OWN]);
    let first = endpoint.until("/jwks", |response| response.status() == 200).await;
    let answers = [
        http1(endpoint.unix().await, "GET", "/jwks/example.org", None).await,
        http1(endpoint.tcp().await, "GET", "/jwks/example.org", None).await,
        http2(endpoint.unix().await, "GET", "/jwks/example.org").await,
        http2(endpoint.tcp().await, "GET", "/jwks/example.org").await,
    ];
    for answer in answers {
        assert_eq!((answer.status().as_u16(), answer.body()), (200, first.body()));
        for name in ["etag", "content-type", "content-length", "cache-control"] {
            assert_eq!(answer.headers()[name], first.headers()[name], "{name}");
        }
    }
    for head in
        [http1(endpoint.unix().await, "HEAD", "/jwks", None).await, http2(endpoint.unix().await, "HEAD", "/jwks").await]
    {
        assert_eq!(head.headers()["content-length"], first.headers()["content-length"]);
        assert!(head.body().is_empty());
    }
    let etag = first.headers()["etag"].to_str().unwrap();
    let held = http1(endpoint.unix().await, "GET", "/jwks", Some(("if-none-match", etag))).await;
    assert_eq!((held.status().as_u16(), held.body().len()), (304, 0));
    let post = http1(endpoint.unix().await, "POST", "/jwks", None).await;
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
}

#[tokio::test]
async fn over_tcp_only_who_is_addressed_to_us_is_answered_and_no_page_is() {
    let endpoint = Served::start().await;
    endpoint.publish(&[&Signer::new(OWN, "a")], &[]);
    endpoint.publish_x509(&[OWN]);
    endpoint.until("/jwks", |response| response.status() == 200).await;
    let get = |host: &str, more: &str| {
        format!("GET /jwks HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    // What `bootstrap --verify-jwt` calls it is one of them.
    for host in ["localhost", "127.0.0.1:80", "spiffe-sds"] {
        assert!(raw(endpoint.tcp().await, &get(host, "")).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for host in ["evil.test", "10.0.0.1", "spiffe-sds.evil.test"] {
        assert!(raw(endpoint.tcp().await, &get(host, "")).await.starts_with("HTTP/1.1 421"), "{host}");
        assert!(raw(endpoint.unix().await, &get(host, "")).await.starts_with("HTTP/1.1 200"), "{host}");
    }
    for header in ["Origin: http://localhost\r\n", "Sec-Fetch-Site: none\r\n"] {
        assert!(raw(endpoint.tcp().await, &get("localhost", header)).await.starts_with("HTTP/1.1 403"), "{header}");
        assert!(raw(endpoint.unix().await, &get("localhost", header)).await.starts_with("HTTP/1.1 403"), "{header}");
    }
}

#[tokio::test]
async fn documents_follow_the_source() {
    let endpoint = Served::start().await;
    let (a, b) = (Signer::new(OWN, "a"), Signer::new(OWN, "b"));
    let number = |response: &http::Response<bytes::Bytes>| {
        let bundle: Value = serde_json::from_slice(response.body()).unwrap();
        bundle["spiffe_sequence"].as_u64().unwrap()
    };
    endpoint.publish(&[&a], &[]);
    endpoint.publish_x509(&[OWN]);
    let first = endpoint.until("/bundle", |response| response.status() == 200).await;
    endpoint.publish(&[&b, &a], &[]);
    let second = endpoint.until("/bundle", |response| response.body() != first.body()).await;
    assert!(number(&second) > number(&first));
    endpoint.publish(&[&b], &[PARTNER]);
    endpoint.until("/jwks/example.org", |response| !response.body().windows(3).any(|at| at == b"\"a\"")).await;
    assert_eq!(endpoint.get("/jwks/partner.example").await.body(), &closed_jwk_set());
}

#[tokio::test]
async fn bad_requests_are_answered_or_closed_and_harm_nobody() {
    let endpoint = Served::start().await;
    endpoint.publish(&[&Signer::new(OWN, "a")], &[]);
    endpoint.until("/jwks/example.org", |response| response.status() == 200).await;
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\n").into_bytes();

    let garbage = raw(endpoint.unix().await, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n").await;
    assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let huge = [head("GET /"), format!("x: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes()].concat();
    assert!(raw(endpoint.unix().await, &huge).await.starts_with("HTTP/1.1 431"));
    let many = [head("GET /"), "x: y\r\n".repeat(1000).into_bytes(), b"\r\n".to_vec()].concat();
    assert!(raw(endpoint.unix().await, &many).await.starts_with("HTTP/1.1 431"));
    let path = head(&format!("GET /{}", "a/".repeat(1 << 19)));
    assert!(raw(endpoint.unix().await, &path).await.starts_with("HTTP/1.1 4"));
    let climbing = [head("GET /jwks/../../etc/passwd"), b"connection: close\r\n\r\n".to_vec()].concat();
    assert!(raw(endpoint.unix().await, &climbing).await.starts_with("HTTP/1.1 404"));
    // Closes in the middle of a preface and of a head.
    drop(raw(endpoint.unix().await, b"PRI * HT"));
    let body = [head("POST /"), b"content-length: 1000000\r\nconnection: close\r\n\r\n".to_vec()].concat();
    assert!(raw(endpoint.unix().await, &body).await.starts_with("HTTP/1.1 405"));

    assert_eq!(endpoint.get("/jwks/example.org").await.status(), 200);
}

/// As long as its answers are not read, no more requests are taken in.
#[tokio::test]
async fn a_client_that_never_reads_is_not_listened_to() {
    let endpoint = Served::start().await;
    let mut stream = endpoint.unix().await;
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let mut taken = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), stream.write(requests.as_bytes())).await {
        taken += written.unwrap();
        assert!(taken < 16 << 20, "{taken} bytes of requests taken in");
    }
    assert_eq!(endpoint.get("/").await.status(), 503, "others are served");
}

/// Connections that say nothing, the beginning of HTTP/2, or half a request: all are closed in time.
#[tokio::test]
async fn connections_that_ask_nothing_are_closed() {
    let endpoint = Served::start().await;
    let begun = tokio::time::Instant::now();
    let beginnings: [&[u8]; 4] =
        [b"", b"PRI * HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /jwks HTTP/1.1\r\nhost:"];
    let mut waiting = Vec::new();
    for beginning in beginnings {
        waiting.push(tokio::spawn(raw(endpoint.unix().await, beginning)));
    }
    for closed in waiting {
        closed.await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}: not before it is due", begun.elapsed());
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_removes_the_socket() {
    // Whoever held it up would do so for an hour.
    let endpoint = Served::draining(Duration::from_secs(3600)).await;
    let idle = endpoint.unix().await;
    let (mut used, connection) = hyper::client::conn::http1::handshake::<_, http_body_util::Empty<bytes::Bytes>>(
        hyper_util::rt::TokioIo::new(endpoint.unix().await),
    )
    .await
    .unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("/").body(http_body_util::Empty::new()).unwrap();
    assert_eq!(used.send_request(request).await.unwrap().status(), 503);
    let socket = endpoint.socket();
    endpoint.stop.cancel();
    bounded(endpoint.running).await.unwrap().unwrap();
    assert!(!socket.exists());
    drop((idle, driver));
}

/// The whole program, from the Workload API to the documents.
#[tokio::test]
async fn bundles_of_a_real_source_follow_its_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let [agent, xds, bundles] = ["agent.sock", "sds.sock", "bundles.sock"].map(|name| dir.path().join(name));
    let (own, partner) = (TrustDomain::new(OWN).unwrap(), TrustDomain::new(PARTNER).unwrap());
    let id = SpiffeId::new("spiffe://example.org/web").unwrap();
    let mut source = dev::Config::new(own.clone(), Endpoint::Unix(agent.clone())).identity(id, None);
    source.federated.push(partner.clone());
    let issuer = DevIssuer::start(source).await.unwrap();

    let text = format!(
        "source: {{workload_api: {{endpoint: 'unix://{}'}}}}\nlisteners: [{{unix: {{path: {}}}}}]\n\
         bundle_endpoint: {{refresh_hint: 7s, listeners: [{{unix: {{path: {}}}}}]}}\n",
        agent.display(),
        xds.display(),
        bundles.display()
    );
    let file = config::File { path: "sds.yaml".into(), text };
    let config = Config::new(&config::Sources { file: Some(file), ..config::Sources::default() }).unwrap();
    let app = App::bind(&config).await.unwrap();
    assert_eq!(app.bundles_bound().len(), 1);
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));

    let shown = async |path: &str| {
        let response = http1(UnixStream::connect(&bundles).await.unwrap(), "GET", path, None).await;
        serde_json::from_slice::<Value>(response.body()).map_err(|_| response.status().to_string())
    };
    let becomes = async |td: &TrustDomain, wanted: Option<TrustBundle>| {
        let wanted = wanted.map(|bundle| bundle.authorities().to_vec()).unwrap_or_default();
        let wanted: Vec<_> = wanted.iter().map(|it| json!(Base64::encode_string(it.der()))).collect();
        let probe = async || {
            let bundle = shown(&format!("/bundle/{td}")).await?;
            let keys = bundle["keys"].as_array().unwrap();
            let x509: Vec<_> = keys.iter().filter(|key| key["use"] == "x509-svid").collect();
            let found: Vec<_> = x509.iter().map(|key| key["x5c"][0].clone()).collect();
            if found == wanted { Ok(bundle) } else { Err(bundle.to_string()) }
        };
        until(BOUND, &format!("the bundle of {td}"), probe).await.unwrap()
    };
    let first = becomes(&own, issuer.bundle(&own)).await;
    assert_eq!(first["spiffe_refresh_hint"], 7);
    becomes(&partner, issuer.bundle(&partner)).await;
    issuer.prepare_ca().unwrap();
    assert_eq!(issuer.bundle(&own).unwrap().authorities().len(), 2);
    let second = becomes(&own, issuer.bundle(&own)).await;
    assert!(second["spiffe_sequence"].as_u64() > first["spiffe_sequence"].as_u64());
    issuer.defederate(&partner).unwrap();
    becomes(&partner, None).await;
    assert_eq!(shown("/").await.unwrap()["bundles"], json!({ OWN: "/bundle/example.org" }));

    stop.cancel();
    bounded(running).await.unwrap().unwrap();
    assert!(!bundles.exists() && !xds.exists());
}

/// An Envoy that wants a JWT-SVID for "backend" of one of both trust domains, with keys over the Unix socket.
async fn verifier(binary: &EnvoyBinary, endpoint: &Served) -> Envoy {
    let sds = Sds::new(Variant::Delta, Address::Unix(endpoint.dir.path().join("none.sock")));
    let fresh = Duration::from_secs(1);
    let listener = Listener::new("api", ([127, 0, 0, 1], 0).into(), Action::respond("in"))
        .jwt(JwtVerifier::new(OWN, "backend").refresh(fresh))
        .jwt(JwtVerifier::new(PARTNER, "backend").refresh(fresh));
    let node = format!("verifier-{}", binary.version());
    let bootstrap = Bootstrap::new(node, "test", sds).bundles(Address::Unix(endpoint.socket())).listener(listener);
    Envoy::start(binary, endpoint.dir.path(), bootstrap).await.unwrap()
}

/// The status that a request with this token gets.
async fn status(envoy: &Envoy, token: Option<&str>) -> u16 {
    let address = envoy.wait_listener("api", BOUND).await.unwrap();
    let bearer = token.map(|token| format!("Bearer {token}"));
    let header = bearer.as_deref().map(|bearer| ("authorization", bearer));
    http1(TcpStream::connect(address).await.unwrap(), "GET", "/", header).await.status().as_u16()
}

async fn until_status(envoy: &Envoy, token: &str, wanted: u16) {
    let probe = async || match status(envoy, Some(token)).await {
        status if status == wanted => Ok(()),
        status => Err(status.to_string()),
    };
    until(BOUND, &format!("status {wanted}"), probe).await.unwrap();
}

#[tokio::test]
async fn envoy_verifies_inbound_tokens_and_follows_the_keys() {
    for binary in all() {
        let endpoint = Served::start().await;
        let (own, partner) = (Signer::new(OWN, "own-1"), Signer::new(PARTNER, "partner-1"));
        let (alice, bob) = (format!("spiffe://{OWN}/alice"), format!("spiffe://{PARTNER}/bob"));
        // Nothing is known yet: nobody gets in, and the keys are honoured once they come.
        let envoy = verifier(&binary, &endpoint).await;
        envoy.wait_ready(BOUND).await.unwrap();
        assert_eq!(status(&envoy, Some(&own.token(&alice, "backend"))).await, 401);
        endpoint.publish(&[&own, &partner], &[]);
        until_status(&envoy, &own.token(&alice, "backend"), 200).await;
        until_status(&envoy, &partner.token(&bob, "backend"), 200).await;

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let unknown = Signer::new(OWN, "own-2");
        let impostor = Signer::new(OWN, "own-1");
        for (why, token) in [
            ("no token", None),
            ("unknown kid", Some(unknown.token(&alice, "backend"))),
            ("known kid, other key", Some(impostor.token(&alice, "backend"))),
            ("subject of another trust domain", Some(own.token(&bob, "backend"))),
            ("the other way round", Some(partner.token(&alice, "backend"))),
            ("a domain that begins like ours", Some(own.token("spiffe://example.org.evil/alice", "backend"))),
            ("other audience", Some(own.token(&alice, "frontend"))),
            ("expired", Some(own.sign(&json!({"sub": alice, "aud": "backend", "exp": now - 3600})))),
            ("without an end", Some(own.sign(&json!({"sub": alice, "aud": "backend"})))),
        ] {
            let status = status(&envoy, token.as_deref()).await;
            assert!([401, 403].contains(&status), "{} on {}: {status}", why, binary.version());
        }

        // Prepare, activate, retire: at no moment is a token of the active key refused.
        endpoint.publish(&[&own, &unknown, &partner], &[]);
        until_status(&envoy, &unknown.token(&alice, "backend"), 200).await;
        assert_eq!(status(&envoy, Some(&own.token(&alice, "backend"))).await, 200);
        endpoint.publish(&[&unknown, &partner], &[]);
        until_status(&envoy, &own.token(&alice, "backend"), 401).await;
        assert_eq!(status(&envoy, Some(&unknown.token(&alice, "backend"))).await, 200);

        // No keys, and a domain that is withdrawn: Envoy must not go on with those it has.
        endpoint.publish(&[&partner], &[OWN]);
        until_status(&envoy, &unknown.token(&alice, "backend"), 401).await;
        assert_eq!(status(&envoy, Some(&partner.token(&bob, "backend"))).await, 200);
        endpoint.publish(&[&own], &[]);
        until_status(&envoy, &own.token(&alice, "backend"), 200).await;
        until_status(&envoy, &partner.token(&bob, "backend"), 401).await;
        envoy.stop().await;
    }
}
