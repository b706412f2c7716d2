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
