//! Outages on either side of the program: real Envoys keep serving with what they have, get what is new afterwards, and
//! nothing that they have already.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml allows them in test functions, not in theirs")]

mod support;

use std::collections::BTreeMap;

use spiffe_sds::{dev::envoy::load::Running, envoy::Variant};
use support::mesh::{BOUND, CLIENT, Mesh, Plan, SERVER, everywhere, id};
use tonic::Status;

#[test]
fn the_program_stops_and_starts_again() {
    everywhere(the_program_restarts);
}

#[test]
fn the_source_goes_and_comes_back() {
    everywhere(the_source_comes_back);
}

async fn the_program_restarts(plan: Plan) {
    let mut mesh = plan.serving().await;
    let load = mesh.load();

    // Nothing changes while it is down: nothing is sent. That shows at the next change, which is all that is sent.
    let before = updates(&mesh).await;
    mesh.stop_program().await;
    served(&mesh, &load, 30).await;
    mesh.start_program().await;
    mesh.wait_opened(mesh.streams()).await;
    connected(&mesh, true).await;
    mesh.issuer.rotate_one(&id(SERVER)).unwrap();
    mesh.wait_leaves().await;
    assert_eq!(sent(&mesh), ["server default"], "{}", mesh.label());
    assert_eq!(news(&before, &updates(&mesh).await), [("server", "default", 1)], "{}", mesh.label());

    // One certificate changes while it is down: the others are not sent.
    let before = updates(&mesh).await;
    mesh.stop_program().await;
    mesh.issuer.rotate_one(&id(SERVER)).unwrap();
    served(&mesh, &load, 30).await;
    mesh.start_program().await;
    mesh.wait_opened(mesh.streams()).await;
    mesh.wait_leaves().await;
    // A client's certificate arrives as late as anything that was wrongly sent again.
    mesh.issuer.rotate_one(&id(CLIENT)).unwrap();
    mesh.wait_leaves().await;
    let client = format!("client {CLIENT}");
    if mesh.plan.variant == Variant::AdsSotw {
        // There the client names one version for all its secrets, so that one change makes all of them unknown.
        assert_eq!(sent(&mesh), [client.as_str(), "server ALL", "server default"], "{}", mesh.label());
    } else {
        assert_eq!(sent(&mesh), [client.as_str(), "server default"], "{}", mesh.label());
        let expected = [("client", CLIENT, 1), ("server", "default", 1)];
        assert_eq!(news(&before, &updates(&mesh).await), expected, "{}", mesh.label());
    }
    mesh.expect_no_failure(load).await;
}

async fn the_source_comes_back(plan: Plan) {
    let mut mesh = plan.serving().await;
    let load = mesh.load();

    // Gone altogether. The one that comes back has forgotten its CA: all trust and every leaf change in one message.
    mesh.replace_issuer(async |mesh| {
        connected(mesh, false).await;
        served(mesh, &load, 30).await;
    })
    .await;
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;

    // There, but of no use. What it issues meanwhile arrives once it is of use again.
    let failures = [
        Status::unavailable("the agent restarts"),
        Status::permission_denied("no identity issued"),
        Status::internal("the agent has a bug"),
    ];
    for failure in failures {
        mesh.issuer.fail_with(failure);
        connected(&mesh, false).await;
        let sent = mesh.program().deliveries().len();
        mesh.issuer.rotate().unwrap();
        served(&mesh, &load, 30).await;
        assert_eq!(mesh.program().deliveries().len(), sent, "{}: there was nothing to send", mesh.label());
        mesh.issuer.recover();
        mesh.wait_leaves().await;
    }

    // There, and silent.
    mesh.issuer.hang();
    mesh.issuer.rotate().unwrap();
    served(&mesh, &load, 30).await;
    mesh.issuer.recover();
    mesh.wait_leaves().await;
    mesh.expect_no_failure(load).await;
}

/// Waits until so many more requests have been made, none of which may fail.
async fn served(mesh: &Mesh, load: &Running, requests: u64) {
    let wanted = load.snapshot().requests + requests;
    mesh.eventually("requests without failure", async || {
        let report = load.snapshot();
        assert_eq!(report.failures, 0, "{}: {report:?}", mesh.label());
        if report.requests >= wanted { Ok(()) } else { Err(format!("{report:?}")) }
    })
    .await;
}

async fn connected(mesh: &Mesh, wanted: bool) {
    let mut source = mesh.program().source();
    let there = source.wait_for(|status| status.connected == wanted);
    tokio::time::timeout(BOUND, there).await.expect("the source's status").unwrap();
}

/// What the program has sent since its start, as "receiver name", sorted.
fn sent(mesh: &Mesh) -> Vec<String> {
    let sent = mesh.program().deliveries().into_iter().map(|delivery| format!("{} {}", delivery.node, delivery.name));
    let mut sent: Vec<_> = sent.collect();
    sent.sort();
    sent
}

/// Envoy's own count of updates, by Envoy and secret.
type Updates = BTreeMap<(String, String), u64>;

async fn updates(mesh: &Mesh) -> Updates {
    let mut updates = BTreeMap::new();
    for envoy in [&mesh.server, &mesh.client] {
        let stats = envoy.admin().stats(r"^sds\..*\.update_success$").await.unwrap();
        for (stat, value) in stats {
            let name = stat.trim_start_matches("sds.").trim_end_matches(".update_success");
            // Envoy keeps no scheme in the name of a statistic.
            let name = name.replace("spiffe_", "spiffe://");
            updates.insert((envoy.bootstrap().node_id.clone(), name), value.as_u64().unwrap());
        }
    }
    updates
}

/// Which secrets were updated between the two, and how often.
fn news<'a>(before: &Updates, after: &'a Updates) -> Vec<(&'a str, &'a str, u64)> {
    let more = after.iter().map(|(key, count)| (key, count - before.get(key).unwrap_or(&0)));
    more.filter(|(_, more)| *more > 0).map(|((node, name), more)| (node.as_str(), name.as_str(), more)).collect()
}
