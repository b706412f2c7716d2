//! The admin listener over real sockets: who may ask it what, and that what it says is so.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/counts.rs"]
mod counts;
#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use fixture::{Answer, Site, config, issuer};
use spiffe_sds::{app::App, listen::ListenError};
use support::{
    world::{bounded, id},
    xds::Sotw,
};
use tokio::net::{TcpStream, UnixStream};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// The names of the conditions that are pending, of the body of `/ready`.
fn pending(body: &str) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let conditions = body["conditions"].as_array().unwrap().iter();
    let pending = conditions.filter(|condition| condition["ready"] == false);
    pending.map(|condition| condition["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn over_tcp_the_host_must_be_ours() {
    let site = Site::start(&[("admin.hosts", "sds.internal")]).await;
    let get = |host: &str| format!("GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for host in ["localhost", "127.0.0.1:9", "[::1]", "sds.internal:80"] {
        assert_eq!(site.tcp(&get(host)).await.status, 200, "{host}");
    }
    for host in ["evil.test", "localhost.evil.test", "10.0.0.1"] {
        let answer = site.tcp(&get(host)).await;
        assert_eq!((answer.status, answer.body.contains("live")), (421, false), "{host}");
    }
    assert_eq!(site.tcp("GET /live HTTP/1.0\r\n\r\n").await.status, 421, "no host at all");
    assert_eq!(
        site.tcp("GET http://evil.test/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.status,
        421
    );
    assert_eq!(site.unix(&get("evil.test")).await.status, 200, "no browser speaks to Unix sockets");
    site.stop().await;
}

#[tokio::test]
async fn pages_are_only_read_and_nothing_is_kept_or_framed() {
    let site = Site::start(&[]).await;
    for path in ["/live", "/ready", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = site
                .unix(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
                .await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
        }
        let head = site.unix(&format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(head.body, "");
        for header in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(head.head.contains(header), "{path} lacks {header}: {}", head.head);
        }
    }
    assert_eq!(site.get("/nothing").await.status, 404);
    let mode = std::fs::metadata(site.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    site.stop().await;
}

#[tokio::test]
async fn a_socket_that_was_asked_for_must_be_there() {
    let (issuer, directory) = issuer().await;
    let first = App::bind(&config(&issuer, &directory, &[])).await.unwrap();
    let other = format!("unix://{}", directory.path().join("other.sock").display());
    let error =
        App::bind(&config(&issuer, &directory, &[("listeners", &other)])).await.err().expect("two on one socket");
    let chain = format!("{:#}", anyhow::Error::new(error));
    assert!(chain.contains("admin.sock is served by another process"), "{chain}");
    drop(first);
    let off = App::bind(&config(&issuer, &directory, &[("admin.listeners", "[]")])).await.unwrap();
    assert!(off.admin_bound().is_empty());
}

#[tokio::test]
async fn an_address_for_everybody_needs_consent() {
    let (issuer, directory) = issuer().await;
    let config = config(&issuer, &directory, &[("admin.allow_public", "true"), ("admin.listeners", "tcp://0.0.0.0:0")]);
    let open = App::bind(&config).await.unwrap();
    assert_eq!(open.admin_bound().len(), 1);
    let mut without = config.admin().clone();
    without.allow_public = false;
    let refused = spiffe_sds::admin::Admin::bind(without).await.err();
    assert!(matches!(refused, Some(ListenError::NotLoopback(_))));
}

#[tokio::test]
async fn ready_follows_the_identity_and_health_agrees() {
    let (issuer, directory) = issuer().await;
    issuer.hang();
    let site = Site::beside(issuer, directory, &[("source.denied_grace", "0s")]).await;
    let mut health = Health::watch(&site).await;
    let waiting = site.until("/ready", |answer| answer.status == 503 && pending(&answer.body).len() == 2).await;
    assert_eq!(pending(&waiting.body), ["identity", "source"]);
    assert_eq!(site.get("/live").await.status, 200);
    health.until(ServingStatus::NotServing).await;

    site.issuer.recover();
    site.until("/ready", |answer| answer.status == 200).await;
    health.until(ServingStatus::Serving).await;

    site.issuer.fail_with(Status::permission_denied("no identity issued"));
    let denied = site.until("/ready", |answer| answer.status == 503).await;
    assert_eq!(pending(&denied.body), ["identity"]);
    assert!(denied.body.contains("denies us an identity"), "{}", denied.body);
    health.until(ServingStatus::NotServing).await;
    site.stop().await;
}

#[tokio::test]
async fn ready_ends_with_the_life_of_the_identity() {
    let (issuer, directory) = issuer().await;
    issuer.set_ttl(Duration::from_secs(6)).unwrap();
    issuer.rotate().unwrap();
    let site = Site::beside(issuer, directory, &[]).await;
    let mut health = Health::watch(&site).await;
    health.until(ServingStatus::Serving).await;
    site.issuer.fail_with(Status::unavailable("away"));
    site.scraped("spiffe_sds_source_up", &[], 0.0).await;
    let expired = site.until("/ready", |answer| answer.status == 503).await;
    assert_eq!(pending(&expired.body), ["identity"], "that the source is away is not the reason: {}", expired.body);
    assert!(expired.body.contains("the SVID of spiffe://domain.test/workload has expired"), "{}", expired.body);
    health.until(ServingStatus::NotServing).await;
    let samples = site.scraped("spiffe_sds_svid_remaining_life_ratio", &[], 0.0).await;
    assert!(samples.sum("spiffe_sds_ready", &[]).abs() < 1e-9);
    site.stop().await;
}

/// What `grpc.health.v1` says as it changes.
struct Health(tonic::Streaming<tonic_health::pb::HealthCheckResponse>);

impl Health {
    async fn watch(site: &Site) -> Self {
        let mut client = HealthClient::new(site.xds().await);
        Self(bounded(client.watch(HealthCheckRequest { service: String::new() })).await.unwrap().into_inner())
    }

    async fn until(&mut self, wanted: ServingStatus) {
        bounded(async { while self.0.message().await.unwrap().expect("the watch ended").status() != wanted {} }).await;
    }
}

#[tokio::test]
async fn nothing_secret_is_on_any_page() {
    let site = Site::ready(&[]).await;
    let mut client = Sotw::secrets(&site.xds().await).await;
    client.subscribe(["default", "ROOTCA"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    let key = site.issuer.svid(&id("workload")).unwrap().svid.key.clone();
    let pem = pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, key.pkcs8_der()).unwrap();
    let hex: String = key.pkcs8_der().iter().map(|byte| format!("{byte:02x}")).collect();
    for path in ["/live", "/ready", "/metrics", "/nothing"] {
        let Answer { head, body, .. } = site.get(path).await;
        let text = format!("{head}{body}");
        assert!(!text.to_uppercase().contains("PRIVATE KEY"), "{path}");
        // The last line is short, so what is left of it may be anywhere.
        for line in pem.lines().filter(|line| line.len() > 40) {
            assert!(!text.contains(&line[..40]), "{path} shows the key");
        }
        assert!(!text.contains(&hex[hex.len() / 2..]), "{path} shows the key");
    }
    site.stop().await;
}

#[tokio::test]
async fn rotations_reach_clients_while_everybody_scrapes() {
    let site = std::sync::Arc::new(Site::ready(&[]).await);
    let mut client = Sotw::secrets(&site.xds().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let scrapers: Vec<_> = (0..4)
        .map(|_| {
            let site = site.clone();
            tokio::spawn(async move {
                let mut last = 0.0;
                for _ in 0..25 {
                    let samples = site.scrape().await;
                    let now = samples.sum("spiffe_sds_responses_total", &[]);
                    assert!(now >= last, "a counter went back from {last} to {now}");
                    last = now;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        site.issuer.rotate().unwrap();
        client.expect(["default"]).await;
        client.ack().await;
    }
    for scraper in scrapers {
        bounded(scraper).await.unwrap();
    }
    let samples = site.scraped("spiffe_sds_acks_total", &[], 21.0).await;
    assert!((samples.sum("spiffe_sds_responses_total", &[]) - 21.0).abs() < 1e-9);
}

#[tokio::test]
async fn garbage_and_silence_do_not_reach_the_data_path() {
    let site = Site::ready(&[]).await;
    let mut client = Sotw::secrets(&site.xds().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(UnixStream::connect(site.socket()).await.unwrap());
        silent.push(UnixStream::connect(site.socket()).await.unwrap());
    }
    // All places are taken; who comes now waits, and the data path does not notice.
    let long = "x".repeat(100_000);
    let tcp = TcpStream::connect(site.address).await.unwrap();
    site.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    client.ack().await;
    drop((silent, tcp));
    let garbage = [
        "\0\0\0\0".to_owned(),
        "GET / HTTP/9\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, but long enough".to_owned(),
        "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
    ];
    for request in garbage.iter().cycle().take(300) {
        site.unix(request).await;
    }
    site.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    assert_eq!(site.get("/live").await.status, 200);
    site.stop().await;
}

/// A request that never ends, on each kind of page that takes one; its connection answers PINGs and stays.
#[tokio::test]
async fn requests_that_do_not_end_hold_nobody_up() {
    let site = Site::ready(&[]).await;
    let mut held = Vec::new();
    for path in ["/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus", "/actions/resend", "/"] {
        for _ in 0..4 {
            let io = bounded(TcpStream::connect(site.address)).await.unwrap();
            let (mut sender, connection) = bounded(h2::client::handshake(io)).await.unwrap();
            let driven = tokio::spawn(connection);
            let method = if path == "/" { http::Method::GET } else { http::Method::POST };
            let request = http::Request::builder().method(method).uri(format!("http://localhost{path}"));
            let request = request.header("content-type", "application/grpc").body(()).unwrap();
            let (_, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(bytes::Bytes::from_static(&[0]), false).unwrap();
            held.push((sender, body, driven));
        }
    }
    for path in ["/metrics", "/ready", "/live", "/", "/debug/sources", "/debug/clients"] {
        let started = std::time::Instant::now();
        assert_eq!(site.get(path).await.status, 200, "{path}");
        assert!(started.elapsed() < Duration::from_secs(9), "{path} waited for somebody's request");
    }
    drop(held);
    site.stop().await;
}

/// Connections that answer PINGs and ask for nothing, and connections with a stream that stays open: a probe gets in.
#[tokio::test]
async fn a_probe_finds_a_place_on_a_listener_that_is_full() {
    let site = Site::ready(&[]).await;
    let mut held = Vec::new();
    for at in 0..150 {
        let io = bounded(TcpStream::connect(site.address)).await.unwrap();
        let Ok((mut sender, connection)) = bounded(h2::client::handshake(io)).await else { continue };
        let driven = tokio::spawn(connection);
        if at % 2 == 0 {
            let path = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";
            let request =
                http::Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
            if let Ok(call) = sender.send_request(request.body(()).unwrap(), false) {
                held.push((None, Some(call), driven));
                continue;
            }
        }
        held.push((Some(sender), None, driven));
    }
    let probe = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for _ in 0..20 {
        assert_eq!(site.tcp(probe).await.status, 200);
    }
    assert_eq!(site.get("/live").await.status, 200, "the other listener has places of its own");
    drop(held);
    site.stop().await;
}

/// Whatever took our path: it is said everywhere for as long as it lasts, and then we are back.
#[tokio::test]
async fn a_listener_that_was_replaced_is_said_everywhere_until_it_is_back() {
    let site = Site::ready(&[]).await;
    let socket = site.directory.path().join("sds.sock");
    for stays in [true, false] {
        let staged = site.directory.path().join("theirs.sock");
        let theirs = std::os::unix::net::UnixListener::bind(&staged).unwrap();
        std::fs::rename(&staged, &socket).unwrap();
        let answer = site.until("/ready", |answer| answer.status == 503).await;
        assert_eq!(pending(&answer.body), ["listeners"]);
        assert!(answer.body.contains("was replaced by another process"), "{}", answer.body);
        site.scraped("spiffe_sds_ready_condition", &[("condition", "listeners")], 0.0).await;
        site.until("/debug/events", |answer| answer.body.contains("listener_lost")).await;
        // Its process ends and leaves the file, or it cleans up.
        drop(theirs);
        if !stays {
            std::fs::remove_file(&socket).unwrap();
        }
        site.until("/ready", |answer| answer.status == 200).await;
        site.until("/debug/events", |answer| answer.body.contains("listener_restored")).await;
        let mut client = Sotw::secrets(&site.xds().await).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
    }
    site.stop().await;
}

#[tokio::test]
async fn a_directory_that_comes_back_has_its_socket_again() {
    let (issuer, directory) = issuer().await;
    let run = directory.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let listeners = format!("unix://{}", run.join("sds.sock").display());
    let site = Site::beside(issuer, directory, &[("listeners", &listeners)]).await;
    site.until("/ready", |answer| answer.status == 200).await;
    for _ in 0..2 {
        std::fs::rename(&run, run.with_extension("gone")).unwrap();
        let answer = site.until("/ready", |answer| answer.status == 503).await;
        assert_eq!(pending(&answer.body), ["listeners"]);
        std::fs::remove_dir_all(run.with_extension("gone")).unwrap();
        std::fs::create_dir(&run).unwrap();
        site.until("/ready", |answer| answer.status == 200).await;
        bounded(UnixStream::connect(run.join("sds.sock"))).await.unwrap();
    }
    site.stop().await;
}

/// Conditions are worth what those who keep them are.
#[tokio::test]
async fn a_part_that_does_not_answer_is_not_ready() {
    let (issuer, directory) = issuer().await;
    let app = App::bind(&config(&issuer, &directory, &[])).await.unwrap();
    let (heartbeat, mut responder) = spiffe_sds::lifecycle::heartbeat("stuck");
    app.readiness().depends_on(heartbeat);
    let site = Site::of(app, issuer, directory);
    let answers = tokio::spawn(async move {
        loop {
            responder.answer().await;
        }
    });
    site.until("/ready", |answer| answer.status == 200).await;
    answers.abort();
    let answer = site.until("/ready", |answer| answer.status == 503).await;
    assert_eq!(pending(&answer.body), ["stuck"]);
    assert_eq!(site.get("/live").await.status, 200);
    site.stop().await;
}

#[tokio::test]
async fn a_listener_for_everybody_is_only_read() {
    let (issuer, directory) = issuer().await;
    let unix = directory.path().join("admin.sock");
    let listeners = format!("unix://{},tcp://0.0.0.0:0", unix.display());
    let settings = [("admin.allow_public", "true"), ("admin.listeners", listeners.as_str())];
    let site = Site::beside(issuer, directory, &settings).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n";
    let act =
        |path: &str| format!("POST /actions/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{form}\r\n");
    for path in ["resend", "refresh-tokens", "log-level"] {
        assert_eq!(site.tcp(&act(path)).await.status, 403, "{path}");
        assert_ne!(site.unix(&act(path)).await.status, 403, "{path}");
    }
    let page = site.tcp("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!((page.status, page.body.contains("/actions/")), (200, false));
    assert!(site.get("/").await.body.contains("/actions/"));
    site.stop().await;
}
