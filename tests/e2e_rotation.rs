//! A rotation never costs a request: real Envoys from the first identity through leaf rotations and CA roll-overs, each
//! request a new connection with a full handshake.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml allows them in test functions, not in theirs")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use support::mesh::{CLIENT, Mesh, Plan, SERVER, everywhere, id};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

const LEAF_ROTATIONS: usize = 30;
const CA_ROLL_OVERS: usize = 20;

#[test]
fn no_request_is_lost() {
    everywhere(life);
}

async fn life(mut plan: Plan) {
    plan.issued = false;
    let mesh = plan.start().await;
    pending_then_issued(&mesh).await;
    leaves_rotate(&mesh).await;
    authorities_roll_over(&mesh).await;
}

/// Without an identity the Envoys wait with closed ports, and nothing but the identity is needed to open them.
async fn pending_then_issued(mesh: &Mesh) {
    mesh.wait_opened(mesh.streams()).await;
    assert!(!mesh.server.admin().is_ready().await && !mesh.client.admin().is_ready().await, "{}", mesh.label());
    for port in [mesh.mtls, mesh.entry] {
        let refused = TcpStream::connect(port).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{}", mesh.label());
    }
    mesh.issuer.issue(&id(SERVER), None).unwrap();
    mesh.issuer.issue(&id(CLIENT), None).unwrap();
    mesh.wait_serving().await;
    mesh.wait_leaves().await;
}

async fn leaves_rotate(mesh: &Mesh) {
    let handshakes_before = tls(mesh, "handshake").await;
    let load = mesh.load();
    let mut seen = BTreeSet::new();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..LEAF_ROTATIONS {
        second.tick().await;
        mesh.issuer.rotate().unwrap();
        mesh.wait_leaves().await;
        seen.insert(mesh.serial(SERVER));
    }
    second.tick().await;
    let report = mesh.expect_no_failure(load).await;
    assert_eq!(seen.len(), LEAF_ROTATIONS, "each rotation arrived in both envoys");
    let handshakes = tls(mesh, "handshake").await - handshakes_before;
    assert!(handshakes >= report.requests, "{}: {handshakes} for {}", mesh.label(), report.requests);
    assert_eq!(tls(mesh, "session_reused").await, 0, "{}: every handshake is a full one", mesh.label());
}

/// However the authority changes: as the SPIFFE Workload API usually tells it, in steps that follow each other faster
/// than proxies can, and all in one message.
async fn authorities_roll_over(mesh: &Mesh) {
    let load = mesh.load();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0..CA_ROLL_OVERS {
        second.tick().await;
        match round % 3 {
            0 => mesh.roll_at_once(),
            1 => mesh.roll_in_steps(Duration::from_millis(3)).await,
            _ => mesh.roll_in_steps(Duration::from_millis(300)).await,
        }
        mesh.wait_leaves().await;
        mesh.wait_authorities().await;
    }
    second.tick().await;
    mesh.expect_no_failure(load).await;
}

/// A TLS counter of the server Envoy's listener.
async fn tls(mesh: &Mesh, counter: &str) -> u64 {
    mesh.server.admin().stat(&format!("listener.mtls.ssl.{counter}")).await.unwrap().expect(counter)
}
