//! The operator's own names over real sockets: who sees which, and what names cost that strangers make up.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest},
    google::protobuf::{Struct, Value, value::Kind},
};
use spiffe_sds::{
    config::{self, Config, Sources},
    secret,
};
use support::{
    log,
    secrets::{Content, certificate, content, spiffe},
    world::{DOMAIN, World, id, td},
    xds::{Delta, SECRET, Sotw, envoy, fetch},
};

/// The `secrets` section of a configuration.
fn secrets(section: &str) -> secret::Config {
    let indented: String = section.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!("source: {{ workload_api: {{ endpoint: 'unix:///unused' }} }}\nsecrets:\n{indented}");
    let file = config::File { path: "test.yaml".into(), text };
    let config = Config::new(&Sources { file: Some(file), variables: BTreeMap::new(), flags: Vec::new() });
    config.unwrap_or_else(|problems| panic!("{problems}")).secrets().clone()
}

async fn world(section: &str) -> World {
    World::with(|setup| {
        setup.secrets = secrets(section);
        setup.issuer = setup.issuer.clone().identity(id("other"), Some("internal"));
        setup.issuer.federated = vec![td("partner.test")];
    })
    .await
}

/// The node of an Envoy that says this of itself.
fn node(metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    Node { metadata: Some(Struct { fields }), ..envoy(40) }
}

const TEMPLATES: &str = "
names:
  - { name: 'sds://${node.metadata.app}', svid: 'spiffe://domain.test/${node.metadata.app}' }
  - { name: 'sds://both', bundle: [own, partner.test] }
  - { name: 'web-${node.id}', svid: 'hint:internal' }
  - { name: '~', svid: default }
";

#[tokio::test]
async fn a_template_is_a_name_for_its_node_alone() {
    let world = world(TEMPLATES).await;
    let channel = world.unix().await;
    let mut workload = Delta::secrets(&channel).await.node(Some(node(&[("app", "workload")])));
    workload.subscribe(["sds://workload", "sds://both", "web-envoy-1"]).await;
    let found = workload.expect(["sds://both", "sds://workload", "web-envoy-1"]).await;
    assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN, "partner.test"]));
    assert_eq!(content(&found[1]), certificate(&world.svid("workload")));
    assert_eq!(content(&found[2]), certificate(&world.svid("other")));
    workload.ack().await;

    let mut other = Delta::secrets(&channel).await.node(Some(node(&[("app", "other")])));
    other.subscribe(["sds://workload", "sds://other"]).await;
    let found = other.expect(["sds://other"]).await;
    assert_eq!(content(&found[0]), certificate(&world.svid("other")));
    other.expect_removed(["sds://workload"]).await;
    other.ack().await;

    world.issuer.rotate_one(&id("other")).unwrap();
    let found = other.expect(["sds://other"]).await;
    assert_eq!(content(&found[0]), certificate(&world.svid("other")));
    workload.expect(["web-envoy-1"]).await;
    workload.ack().await;
    workload.expect_silence().await;
}

#[tokio::test]
async fn what_a_node_does_not_say_or_says_badly_means_nothing_to_it() {
    let world = world(TEMPLATES).await;
    let channel = world.unix().await;
    for said in [&[][..], &[("app", "../workload")], &[("app", "")], &[("app", "a b")]] {
        let mut client = Delta::secrets(&channel).await.node(Some(node(said)));
        client
            .subscribe(["sds://", "sds://../workload", "sds://a b", "sds://workload", "sds://${node.metadata.app}"])
            .await;
        let removed = client.response().await.removed_resources;
        assert_eq!(removed.len(), 5, "{said:?}: {removed:?}");
        client.subscribe(["sds://both"]).await;
        client.expect(["sds://both"]).await;
    }
    let mut nobody = Delta::secrets(&channel).await.node(None);
    nobody.subscribe(["sds://both", "sds://workload"]).await;
    nobody.expect(["sds://both"]).await;
    nobody.expect_removed(["sds://workload"]).await;
}

#[tokio::test]
async fn an_identity_that_is_not_registered_yet_is_waited_for() {
    let world = world(TEMPLATES).await;
    let mut client = Sotw::secrets(&world.unix().await).await.node(Some(node(&[("app", "late")])));
    client.subscribe(["sds://late"]).await;
    client.expect_silence().await;
    world.issuer.issue(&id("late"), None).unwrap();
    let found = client.expect(["sds://late"]).await;
    assert_eq!(content(&found[0]), certificate(&world.svid("late")));
}

#[tokio::test]
async fn the_default_identity_follows_the_choice() {
    let world = world("default_identity: { pattern: 'spiffe://domain.test/o*' }").await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    let found = client.expect(["default"]).await;
    assert_eq!(content(&found[0]), certificate(&world.svid("other")));
}

#[tokio::test]
async fn a_unary_call_sees_the_same_names() {
    let world = world(TEMPLATES).await;
    let response = fetch(&world.unix().await, node(&[("app", "other")]), &["sds://other", "sds://both"]).await.unwrap();
    let found: Vec<_> = response.resources.iter().map(support::secrets::decode).collect();
    assert_eq!(content(&found[0]), certificate(&world.svid("other")));
    assert!(matches!(content(&found[1]), Content::Spiffe(domains) if domains.len() == 2));
}

/// Anonymous memory of this process in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

/// Asks for `count` names that nobody has asked for, `batch` at a time, and forgets them again.
async fn flood(client: &mut Delta, prefix: &str, count: usize, batch: usize) {
    for round in 0..count / batch {
        let names: Vec<_> = (0..batch).map(|at| format!("{prefix}-{round}-{at}.example.com")).collect();
        let subscribe =
            DeltaDiscoveryRequest { type_url: SECRET.into(), resource_names_subscribe: names, ..Default::default() };
        let mut names = subscribe.resource_names_subscribe.clone();
        client.send(subscribe);
        let response = client.response().await;
        names.sort_unstable();
        assert_eq!(response.removed_resources, names);
        client.send(DeltaDiscoveryRequest {
            type_url: SECRET.into(),
            response_nonce: response.nonce,
            resource_names_unsubscribe: names,
            ..Default::default()
        });
    }
}

/// With on-demand secrets whoever opens a TLS connection chooses a name.
#[tokio::test]
async fn ten_thousand_names_that_strangers_make_up_cost_little() {
    let log = log::lines(tracing::Level::INFO);
    let world = world("allowed_names: [default, ROOTCA, 'spiffe://domain.test']").await;
    let channel = world.unix().await;
    let mut client = Delta::secrets(&channel).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    flood(&mut client, "warm", 10_000, 500).await;
    let before = memory();
    flood(&mut client, "one-stream", 20_000, 500).await;
    // As Envoy does it: a stream for each name.
    for at in 0..1_000 {
        let mut one = Delta::secrets(&channel).await;
        one.subscribe([format!("stream-{at}.example.com").as_str()]).await;
        assert_eq!(one.response().await.removed_resources.len(), 1);
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
    let log = log.text();
    let refusals = log.lines().filter(|line| line.contains("names not available")).count();
    // One a response at most; how many of them are written is the matter of the log.
    assert!((1..1_200).contains(&refusals), "{refusals} lines");
    assert!(log.len() < 1_000_000, "{} bytes of log", log.len());
    println!("21,000 names, {grown} bytes more, {refusals} lines");
    // And who is served is served on.
    world.issuer.rotate().unwrap();
    client.expect(["default"]).await;
}

/// What cannot be said to the client is said to the operator: once, with the reason.
#[tokio::test]
async fn a_name_that_cannot_be_had_is_logged_once_whatever_the_protocol() {
    let log = log::lines(tracing::Level::INFO);
    let world = world("names: [{ name: '~', svid: default }]").await;
    let channel = world.unix().await;
    let lines = |words: &str| log.text().lines().filter(|line| line.contains(words)).count();
    let wrong = ["default", "defualt", "spiffe://foreign.test/x", "jwt:payments", "*", "file-root:/etc/passwd"];
    for _ in 0..3 {
        let mut client = Sotw::secrets(&channel).await;
        client.subscribe(wrong).await;
        client.expect(["default"]).await;
        client.ack().await;
        client.expect_silence().await;
    }
    let long = "x".repeat(5_000);
    for _ in 0..3 {
        let mut client = Sotw::secrets(&channel).await;
        client.subscribe(["default", &long]).await;
        client.expect(["default"]).await;
        client.ack().await;
        client.expect_silence().await;
    }
    for reason in [
        r#"["defualt"] reason="no such name"#,
        r#"["spiffe://foreign.test/x"] reason="a certificate of a trust domain that is none of ours"#,
        r#"["jwt:payments"] reason="a token that is not configured"#,
        r#"["*"] reason="asking for everything is off"#,
        r#"["file-root:/etc/passwd"] reason="a file that secrets.files.allow does not name"#,
        "longer than any name can be",
    ] {
        assert_eq!(lines(reason), 1, "{reason}: {}", log.text());
    }
    assert_eq!(log.about("names not available to this client").len(), 6, "{}", log.text());
    // Another client, which is told so.
    let mut delta = Delta::secrets(&channel).await.node(Some(Node { id: "delta".into(), ..envoy(40) }));
    delta.subscribe(["defualt"]).await;
    assert_eq!(delta.response().await.removed_resources, ["defualt"]);
    assert_eq!((lines(r#"["defualt"] reason="no such name"#), log.about("names not available").len()), (2, 6));
    assert_eq!(lines("nothing provides"), 0, "nobody has waited for long");
}
