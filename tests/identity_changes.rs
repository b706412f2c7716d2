//! Identities that are late, gone, foreign or ahead of their time, on the whole program: what is served, and what operators see.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use std::{
    process::Output,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fixture::Site;
use spiffe_sds::{
    dev::{Issued, JwtFault, Template},
    identity::{JwtSnapshot, JwtState, SpiffeId},
};
use support::{
    secrets::{certificate, content},
    world::{bounded, id, td},
    xds::{Delta, Sotw},
};

const EVENTS: &str = "spiffe_sds_renewal_events_total";
const ENDS: &str = "spiffe_sds_svid_not_after_timestamp_seconds";

/// A leaf of `/workload` whose life began so long ago and lasts for so much longer.
fn aged(site: &Site, age: Duration, left: Duration) -> Issued {
    let now = SystemTime::now();
    let mut template = Template::leaf(id("workload"), now, left);
    template.validity.not_before -= age;
    site.issuer.sign(&template, &td("domain.test")).unwrap()
}

/// A leaf of `/workload` whose life begins in a moment.
fn ahead(site: &Site, by: Duration) -> Issued {
    let begin = SystemTime::now() + by;
    let mut template = Template::leaf(id("workload"), begin, Duration::from_secs(3600));
    // Whole seconds, and not set back.
    template.validity.not_before += Duration::from_secs(11);
    site.issuer.sign(&template, &td("domain.test")).unwrap()
}

async fn status(site: &Site) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_spiffe-sds"));
    let run = command.env_clear().env("SPIFFE_SDS_ADMIN", site.socket()).args(["status", "--color", "never"]);
    let Output { status, stdout, .. } = bounded(run.output()).await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

async fn happened(site: &Site, event: &str, times: f64) {
    site.scraped(EVENTS, &[("event", event)], times).await;
}

/// What the client has of `name` next.
async fn next(client: &mut Sotw, name: &str) -> support::secrets::Content {
    let secret = client.expect([name]).await;
    client.ack().await;
    content(&secret[0])
}

#[tokio::test]
async fn a_certificate_near_its_end_is_served_after_a_start() {
    for percent in [76, 91, 99] {
        let (issuer, directory) = fixture::issuer().await;
        let whole = Duration::from_secs(200_000);
        let age = whole * percent / 100;
        let now = SystemTime::now();
        let mut template = Template::leaf(id("workload"), now, whole - age);
        template.validity.not_before -= age;
        let late = issuer.sign(&template, &td("domain.test")).unwrap();
        issuer.send_raw(issuer.message().replaced(0, &late));
        let site = Site::beside(issuer, directory, &[]).await;
        site.until("/ready", |answer| answer.status == 200).await;
        let mut client = Sotw::secrets(&site.xds().await).await;
        client.subscribe(["default"]).await;
        assert_eq!(next(&mut client, "default").await, certificate(&late), "{percent} %");
        happened(&site, "svid_expiring", 1.0).await;
        let events = site.get("/debug/events?q=svid_expiring").await;
        assert!(events.body.contains("spiffe://domain.test/workload"), "{}", events.body);
        site.stop().await;
    }
}

#[tokio::test]
async fn a_new_certificate_with_an_old_beginning_is_no_warning() {
    let site = Site::ready(&[]).await;
    let renewed = aged(&site, Duration::from_secs(864_000), Duration::from_secs(7_200));
    site.issuer.send_raw(site.issuer.message().replaced(0, &renewed));
    happened(&site, "svid_renewed", 2.0).await;
    assert!(site.scrape().await.sum(EVENTS, &[("event", "svid_expiring")]).abs() < 1e-9);
    site.stop().await;
}

#[tokio::test]
async fn a_withdrawn_identity_is_told_as_long_as_a_client_has_it() {
    let site = Site::start(&[("source.denied_grace", "1s")]).await;
    let other = id("other");
    site.issuer.issue(&other, None).unwrap();
    site.scraped(ENDS, &[("spiffe_id", &other.to_string())], ends(&site, &other)).await;
    let channel = site.xds().await;
    let (mut sotw, mut delta) = (Sotw::secrets(&channel).await, Delta::secrets(&channel).await);
    sotw.subscribe(["spiffe://domain.test/other"]).await;
    next(&mut sotw, "spiffe://domain.test/other").await;
    delta.subscribe(["spiffe://domain.test/other"]).await;
    delta.expect(["spiffe://domain.test/other"]).await;
    delta.ack().await;
    let end = ends(&site, &other);
    assert_eq!(status(&site).await.0, Some(0));

    site.issuer.revoke(&other).unwrap();
    happened(&site, "svid_withdrawn", 1.0).await;
    let (code, text) = status(&site).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("spiffe://domain.test/other: withdrawn by the source"), "{text}");
    happened(&site, "svid_removed", 1.0).await;
    delta.expect_removed(["spiffe://domain.test/other"]).await;
    delta.ack().await;
    // Envoy keeps what it has, whatever it was told; so does its end in the metrics.
    let labels = [("spiffe_id", "spiffe://domain.test/other")];
    site.scraped("spiffe_sds_svid_withdrawn_clients", &labels, 2.0).await;
    assert!((site.scrape().await.sum(ENDS, &labels) - end).abs() < 1e-9);
    let (code, text) = status(&site).await;
    assert!(code == Some(1) && text.contains("2 streams have it and get no renewal"), "{text}");
    let page = site.get("/").await;
    assert!(page.body.contains("withdrawn by the source, out of service; 2 streams"), "{}", page.body);

    drop((sotw, delta));
    site.scraped("spiffe_sds_svid_withdrawn_clients", &labels, 0.0).await;
    site.until("/debug/identities", |answer| answer.body.contains("\"withdrawn\":[]")).await;
    let mut back = Sotw::secrets(&channel).await;
    back.subscribe(["spiffe://domain.test/other"]).await;
    site.issuer.issue(&other, None).unwrap();
    next(&mut back, "spiffe://domain.test/other").await;
    happened(&site, "svid_restored", 1.0).await;
    site.stop().await;
}

fn ends(site: &Site, id: &SpiffeId) -> f64 {
    let end = site.issuer.svid(id).unwrap().svid.validity.not_after;
    end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test]
async fn another_trust_domain_never_becomes_ours() {
    for settings in [&[][..], &[("source.workload_api.trust_domain", "domain.test")]] {
        let site = Site::ready(settings).await;
        let mut client = Sotw::secrets(&site.xds().await).await;
        client.subscribe(["default", "ROOTCA"]).await;
        let before = client.expect(["ROOTCA", "default"]).await;
        client.ack().await;
        site.issuer.federate(&td("evil.test")).unwrap();
        let stranger = SpiffeId::new("spiffe://evil.test/w").unwrap();
        let template = Template::leaf(stranger, SystemTime::now(), Duration::from_secs(3600));
        let foreign = site.issuer.sign(&template, &td("evil.test")).unwrap();
        let bundle = site.issuer.bundle(&td("evil.test")).unwrap();
        let bundle: Vec<u8> = bundle.authorities().iter().flat_map(|it| it.der().to_vec()).collect();
        let alone = site.issuer.message().replaced(0, &foreign).svid(0, |svid| svid.bundle = bundle.clone().into());
        // Nothing of ours in it: refused as a whole, again and again.
        site.issuer.send_raw(alone.clone());
        let refused = site.until("/metrics", |answer| {
            let samples = fixture::Samples::parse(&answer.body);
            samples.sum(EVENTS, &[("event", "trust_domain_refused")]) >= 1.0
        });
        refused.await;
        let sources =
            site.until("/debug/sources", |answer| answer.body.contains("our trust domain is domain.test")).await;
        assert!(
            sources.body.contains("spiffe://domain.test") || sources.body.contains("evil.test"),
            "{}",
            sources.body
        );
        assert_eq!(status(&site).await.0, Some(1));

        // In front of ours: ours stays the default one, and what is new of ours arrives.
        site.issuer.rotate().unwrap();
        let ours = site.issuer.message();
        let front = ours.clone().tamper(|message| {
            message.svids.insert(0, alone.response().svids[0].clone());
        });
        site.issuer.send_raw(front);
        let renewed = client.expect(["default"]).await;
        client.ack().await;
        assert_eq!(content(&renewed[0]), certificate(&site.issuer.svid(&id("workload")).unwrap()));
        assert_ne!(content(&renewed[0]), content(&before[1]));
        let trust = site.get("/debug/trust").await;
        let json: serde_json::Value = serde_json::from_str(&trust.body).unwrap();
        let own: Vec<_> = json["trust_domains"].as_array().unwrap().iter().filter(|it| it["own"] == true).collect();
        assert_eq!((own.len(), own[0]["trust_domain"].as_str()), (1, Some("domain.test")));
        site.issuer.recover();
        site.stop().await;
    }
}

#[tokio::test]
async fn a_renewal_ahead_of_its_time_waits_for_it() {
    let site = Site::ready(&[]).await;
    let mut client = Sotw::secrets(&site.xds().await).await;
    client.subscribe(["default"]).await;
    next(&mut client, "default").await;
    let renewal = ahead(&site, Duration::from_secs(3));
    site.issuer.send_raw(site.issuer.message().replaced(0, &renewal));
    happened(&site, "svid_not_yet_valid", 1.0).await;
    assert_eq!(next(&mut client, "default").await, certificate(&renewal));
    assert!(SystemTime::now() >= renewal.svid.validity.not_before, "not a moment before");
    happened(&site, "svid_renewed", 2.0).await;
    site.stop().await;
}

#[tokio::test]
async fn another_default_identity_is_said_and_its_tokens_follow() {
    let mut site = Site::ready(&[("jwt.svids", "payments")]).await;
    let of = |wanted: SpiffeId| {
        move |tokens: &Arc<JwtSnapshot>| {
            tokens.svids.values().all(|state| matches!(state, JwtState::Valid(token) if token.id == wanted))
        }
    };
    bounded(site.tokens.wait_for(of(id("workload")))).await.unwrap();
    site.issuer.issue(&id("lower"), None).unwrap();
    site.issuer.set_order(&[id("lower")]);
    happened(&site, "default_changed", 1.0).await;
    let events = site.get("/debug/events?q=default_changed").await;
    assert!(events.body.contains("spiffe://domain.test/lower"), "{}", events.body);
    assert!(events.body.contains("before: spiffe://domain.test/workload"), "{}", events.body);
    // Not after two thirds of its life, which are minutes.
    bounded(site.tokens.wait_for(of(id("lower")))).await.unwrap();
    site.stop().await;
}

#[tokio::test]
async fn what_was_configured_and_is_not_there_degrades_unless_it_is_required() {
    for required in [false, true] {
        let (issuer, directory) = fixture::issuer().await;
        issuer.set_jwt_fault(Some(JwtFault::WrongAudience));
        let tokens = [("jwt.svids", "payments"), ("admin.ready_requires", "tokens")];
        let site = Site::beside(issuer, directory, &tokens[..1 + usize::from(required)]).await;
        let wanted = if required { 503 } else { 200 };
        // The identity is there; what is missing is named.
        let identity = |body: &str| body.contains("{\"name\":\"identity\",\"ready\":true");
        let ready = site.until("/ready", |answer| identity(&answer.body) && answer.body.contains("payments")).await;
        let ready = if ready.status == wanted { ready } else { site.until("/ready", |it| it.status == wanted).await };
        let json: serde_json::Value = serde_json::from_str(&ready.body).unwrap();
        assert_eq!((&json["ready"], &json["degraded"]), (&(!required).into(), &(!required).into()), "{}", ready.body);
        let (code, text) = status(&site).await;
        assert_eq!(code, Some(1));
        assert!(text.contains("tokens: the default identity for payments: not granted"), "{text}");
        let (name, value) = if required { ("ready_condition", 0.0) } else { ("degraded", 1.0) };
        site.scraped(&format!("spiffe_sds_{name}"), &[("condition", "tokens")], value).await;
        site.issuer.set_jwt_fault(None);
        site.until("/ready", |it| it.status == 200 && it.body.contains("\"degraded\":false")).await;
        site.stop().await;
    }
}

#[tokio::test]
async fn a_directory_of_files_that_is_not_there_is_named_until_it_is() {
    let (issuer, directory) = fixture::issuer().await;
    let out = directory.path().join("out");
    let outputs = format!("[{{directory: '{}'}}]", out.display());
    let site = Site::beside(issuer, directory, &[("outputs", &outputs)]).await;
    let named = format!("{}: ", out.display());
    let ready = site.until("/ready", |it| it.status == 200 && it.body.contains(&named)).await;
    assert!(ready.body.contains("\"degraded\":true"), "{}", ready.body);
    std::fs::create_dir(&out).unwrap();
    site.until("/ready", |it| it.body.contains("\"degraded\":false")).await;
    site.stop().await;
}
