//! Several sources, a source that denies us and a sealed identity, as operators see them.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "admin/fixture.rs"]
#[allow(dead_code, reason = "shared with other files")]
mod fixture;
mod support;

use std::os::unix::fs::PermissionsExt as _;

use fixture::{Answer, Site, issuer};
use serde_json::Value;
use tonic::Status;

fn json(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

/// Name, state and whether it is in service, of each source.
fn sources(answer: &Answer) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = json(answer)["sources"].as_array().unwrap().clone();
    rows.iter().map(|row| (text(&row["name"]), text(&row["state"]), row["active"].as_bool().unwrap())).collect()
}

#[tokio::test]
async fn each_source_has_a_state_of_its_own() {
    let ((first, directory), (second, _keep)) = (issuer().await, issuer().await);
    let (a, b) = (first.endpoint().to_string(), second.endpoint().to_string());
    let both = format!("[\"{a}\", \"{b}\"]");
    let settings = [
        ("source.workload_api.endpoints", both.as_str()),
        ("source.failover.lost_after", "100ms"),
        ("source.failover.failback_after", "1h"),
    ];
    let site = Site::beside(first.clone(), directory, &settings).await;
    let stands = |a_state: &str, a_active: bool, b_state: &str, b_active: bool| {
        vec![(a.clone(), a_state.to_owned(), a_active), (b.clone(), b_state.to_owned(), b_active)]
    };
    let usual = stands("active", true, "idle", false);
    site.until("/debug/sources", |answer| sources(answer) == usual).await;
    first.fail_with(Status::unavailable("gone fishing"));
    let switched = stands("down", false, "active", true);
    let answer = site.until("/debug/sources", |answer| sources(answer) == switched).await;
    let down = &json(&answer)["sources"][0];
    assert!(down["last_error"].as_str().unwrap().contains("gone fishing"), "{down}");
    assert!(down["consecutive_failures"].as_u64().unwrap() > 0 && down["last_update"].is_string(), "{down}");
    let page = site.get("/").await.body;
    assert!(page.contains("gone fishing") && page.contains("a source is down") && page.contains(&b), "{page}");
    first.recover();
    let standby = stands("standby", false, "active", true);
    site.until("/debug/sources", |answer| sources(answer) == standby).await;
    assert!(!site.get("/").await.body.contains("a source is down"));
    site.stop().await;
}

#[tokio::test]
async fn a_denial_and_its_grace_are_said() {
    let site = Site::ready(&[("source.denied_grace", "1s")]).await;
    assert_eq!(json(&site.get("/debug/identities").await)["in_service"]["state"], "served");
    site.issuer.fail_with(Status::permission_denied("no identity issued"));
    let standing = |state: &'static str| move |answer: &Answer| json(answer)["in_service"]["state"] == state;
    site.until("/debug/identities", standing("grace")).await;
    assert_eq!(sources(&site.get("/debug/sources").await)[0].1, "denied");
    assert!(site.get("/").await.body.contains("stays in service for the grace time"));
    site.until("/debug/identities", standing("denied")).await;
    let page = site.get("/").await.body;
    assert!(page.contains("the source says that we have no identity") && page.contains("denies us"), "{page}");
    site.issuer.recover();
    site.until("/debug/identities", standing("served")).await;
    site.stop().await;
}

#[tokio::test]
async fn a_sealed_identity_is_marked_until_the_source_answers() {
    let (issuer, directory) = issuer().await;
    let (path, key) = (directory.path().join("warm"), directory.path().join("key"));
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = [("warm_start.path", path.to_str().unwrap()), ("warm_start.key_file", key.to_str().unwrap())];
    let kept = tempfile::tempdir().unwrap();
    let site = Site::beside(issuer.clone(), kept, &settings).await;
    support::world::eventually("sealed", || path.exists()).await;
    site.stop().await;
    issuer.fail_with(Status::unavailable("restarting"));
    let site = Site::beside(issuer.clone(), directory, &settings).await;
    let standing = |state: &'static str| move |answer: &Answer| json(answer)["in_service"]["state"] == state;
    site.until("/debug/identities", standing("warm")).await;
    let page = site.get("/").await.body;
    assert!(page.contains("sealed before the restart") && page.contains("spiffe://domain.test/workload"), "{page}");
    issuer.recover();
    site.until("/debug/identities", standing("served")).await;
    site.stop().await;
}
