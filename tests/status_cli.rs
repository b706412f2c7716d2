//! `status`, `resend` and `log-level` against a running server.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use std::process::Output;

use envoy_types::pb::envoy::config::core::v3::Node;
use fixture::Site;
use support::{
    world::{bounded, id},
    xds::{Sotw, envoy},
};

async fn run(site: &Site, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = bounded(
        tokio::process::Command::new(env!("CARGO_BIN_EXE_spiffe-sds"))
            .env_clear()
            .env("SPIFFE_SDS_ADMIN", site.socket())
            .args(args)
            .output(),
    )
    .await
    .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn the_table_tells_who_refused_what() {
    let site = Site::ready(&[]).await;
    let (code, text, _) = run(&site, &["status"]).await;
    assert_eq!(code, Some(0), "{text}");
    for word in ["Sources", "active", "spiffe://domain.test/workload", "valid", "0 streams"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let mut envoy = Sotw::secrets(&site.xds().await).await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    envoy.nack("no \u{1b}[31msuch curve").await;
    site.until("/debug/clients?state=error", |answer| answer.body.contains("such curve")).await;
    let (code, text, _) = run(&site, &["status", "--state", "error", "--color", "never"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("envoy-1") && text.contains("such curve") && !text.contains('\u{1b}'), "{text}");
    let (code, text, _) = run(&site, &["status", "--json", "nobody"]).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["good"], &json["clients"]["matched"]), (Some(1), &false.into(), &0.into()));
    let (code, text, _) = run(&site, &["resend", "--node", "envoy-1"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "sending again on 1 streams\n"));
    envoy.expect(["default"]).await;
    assert_eq!(run(&site, &["resend", "--node", "nobody"]).await.0, Some(1));
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_what_nothing_provides_comes_first_and_is_a_problem() {
    let site = Site::ready(&[]).await;
    let channel = site.xds().await;
    let node = |id: &str| Some(Node { id: id.into(), ..envoy(40) });
    let mut healthy = Sotw::secrets(&channel).await.node(node("a-healthy"));
    healthy.subscribe(["default"]).await;
    healthy.expect(["default"]).await;
    healthy.ack().await;
    site.until("/debug/clients?state=synced", |answer| answer.body.contains("a-healthy")).await;
    assert_eq!(run(&site, &["status"]).await.0, Some(0));

    let mut waiting = Sotw::secrets(&channel).await.node(node("z-waiting"));
    waiting.subscribe(["ROOTCA", "spiffe://domain.test/later"]).await;
    waiting.expect(["ROOTCA"]).await;
    waiting.ack().await;
    site.until("/debug/clients?state=not_sent", |answer| answer.body.contains("later")).await;
    let (code, text, _) = run(&site, &["status", "--color", "never"]).await;
    let rows = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.contains("a-healthy") || line.contains("waiting"));
        rows.map(|row| row.split_whitespace().next().unwrap().to_owned()).collect()
    };
    assert_eq!((code, rows(&text)[0].as_str()), (Some(1), "z-waiting"), "{text}");
    assert!(text.contains("not registered (yet)") && text.contains("1 not sent, 0 never"), "{text}");

    let mut wrong = Sotw::secrets(&channel).await.node(node("zz-waiting"));
    wrong.subscribe(["defualt"]).await;
    site.until("/debug/clients?state=never", |answer| answer.body.contains("defualt")).await;
    let (code, text, _) = run(&site, &["status", "--color", "never"]).await;
    assert_eq!(
        (code, rows(&text)),
        (Some(1), ["zz-waiting", "z-waiting", "z-waiting", "a-healthy"].map(str::to_owned).into())
    );
    let (code, text, _) = run(&site, &["status", "--state", "never", "--color", "never"]).await;
    assert!(code == Some(1) && text.contains("defualt") && !text.contains("a-healthy"), "{text}");
    let (_, text, _) = run(&site, &["status", "--state", "never", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let name = &json["clients"]["streams"][0]["names"][0];
    assert_eq!((&json["good"], &json["clients"]["totals"]["never"]), (&false.into(), &1.into()));
    assert_eq!((&name["state"], &name["never"]), (&"never".into(), &true.into()), "{name}");
    assert!(name["reason"].as_str().unwrap().contains("no such name"), "{name}");
    let page = site.get("/").await.body;
    let at = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words} is not on {page}"));
    assert!(at("zz-waiting") < at("a-healthy") && at("z-waiting") < at("a-healthy"));
    assert!(page.contains("no such name") && page.contains(">never</span>"), "{page}");

    // It heals as soon as nobody waits any more.
    wrong.hang_up().await.unwrap();
    site.issuer.issue(&id("later"), None).unwrap();
    waiting.expect(["spiffe://domain.test/later"]).await;
    waiting.ack().await;
    site.until("/debug/clients?state=not_sent", |answer| answer.body.contains("\"matched\":0")).await;
    site.until("/debug/clients?state=never", |answer| answer.body.contains("\"matched\":0")).await;
    assert_eq!(run(&site, &["status"]).await.0, Some(0));
    site.stop().await;
}

#[tokio::test]
async fn what_is_left_out_is_said_everywhere_and_only_while_it_is() {
    let site = Site::ready(&[]).await;
    site.issuer.send_raw(site.issuer.message().federated_bundle("spiffe://bad.test", &b"garbage"[..]));
    let words = "the trust bundle of bad.test";
    let debug = site.until("/debug/sources", |answer| answer.body.contains(words)).await;
    let json: serde_json::Value = serde_json::from_str(&debug.body).unwrap();
    assert_eq!((&json["refused"][0]["kind"], &json["refused"][0]["kept"]), (&"bundle".into(), &false.into()));
    site.scraped("spiffe_sds_refused_items", &[("kind", "bundle")], 1.0).await;
    let page = site.get("/").await.body;
    assert!(page.contains("1 item left out") && page.contains(words), "{page}");
    let (code, text, _) = run(&site, &["status", "--color", "never"]).await;
    assert!(code == Some(1) && text.contains(&format!("left out: {words} (")), "{text}");
    let (_, text, _) = run(&site, &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["good"], &json["refused"][0]["count"]), (&false.into(), &1.into()));

    site.issuer.recover();
    site.until("/debug/sources", |answer| !answer.body.contains(words)).await;
    site.scraped("spiffe_sds_refused_items", &[("kind", "bundle")], 0.0).await;
    assert_eq!(run(&site, &["status"]).await.0, Some(0));
    let events = site.get("/debug/events").await.body;
    assert_eq!((events.matches("item_refused").count(), events.matches("item_accepted").count()), (1, 1), "{events}");
    site.stop().await;
}

#[tokio::test]
async fn a_listener_that_clients_cannot_reach_is_a_problem() {
    let site = Site::ready(&[]).await;
    let staged = site.directory.path().join("theirs.sock");
    let _theirs = std::os::unix::net::UnixListener::bind(&staged).unwrap();
    std::fs::rename(&staged, site.directory.path().join("sds.sock")).unwrap();
    site.until("/ready", |answer| answer.status == 503).await;
    let (code, text, _) = run(&site, &["status", "--color", "never"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("Not ready: listeners") && text.contains("replaced by another process"), "{text}");
    site.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let site = Site::ready(&[]).await;
    let (code, _, error) = run(&site, &["refresh-tokens"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("(501)") && error.contains("no token"), "{error}");
    let (_, _, error) = run(&site, &["status", "--state", "sideways"]).await;
    assert!(error.contains("state is none of"), "{error}");
    let (code, _, error) = run(&site, &["status", "--admin", "/nowhere.sock"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("no server answers at unix:///nowhere.sock"), "{error}");
    site.stop().await;
}

#[tokio::test]
async fn tokens_are_asked_for_again() {
    let site = Site::ready(&[("jwt.svids", "payments,billing")]).await;
    let fetched = async |wanted: u64| {
        let mut traffic = site.issuer.traffic();
        bounded(traffic.wait_for(|traffic| traffic.jwt_fetches == wanted)).await.unwrap();
    };
    fetched(2).await;
    let (code, text, _) = run(&site, &["refresh-tokens"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "asking for 2 tokens again\n"));
    fetched(4).await;
    site.stop().await;
}
