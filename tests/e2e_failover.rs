//! Failing over to a second agent and back costs no request, though each has a CA of its own and leaves rotate all the
//! while: real Envoys, each request a new connection with a full handshake.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml allows them in test functions, not in theirs")]

mod support;

use std::time::Duration;

use support::mesh::{Mesh, Plan, STANDBY, everywhere};
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

const FIRST: &str = "agent.sock";
const ROUNDS: usize = 3;
const ROTATIONS: usize = 3;

#[test]
fn no_request_is_lost() {
    everywhere(there_and_back);
}

async fn there_and_back(mut plan: Plan) {
    plan.standby = true;
    let mut mesh = plan.serving().await;
    mesh.wait_in_service(FIRST).await;
    let load = mesh.load();
    rotate(&mesh).await;
    for round in 0..ROUNDS {
        // Of the last one nothing remains: the first agent comes back with yet another CA.
        let gone = round + 1 == ROUNDS;
        if !gone {
            mesh.issuer.fail_with(Status::unavailable("the agent is being upgraded"));
        }
        mesh.look_at_the_other_issuer();
        if gone {
            mesh.restart_first_issuer(async |mesh| on_standby(mesh).await).await;
        } else {
            on_standby(&mesh).await;
            mesh.standby.as_ref().unwrap().recover();
        }
        mesh.look_at_the_other_issuer();
        mesh.wait_in_service(FIRST).await;
        arrived(&mesh).await;
        rotate(&mesh).await;
    }
    mesh.expect_no_failure(load).await;
}

async fn on_standby(mesh: &Mesh) {
    mesh.wait_in_service(STANDBY).await;
    arrived(mesh).await;
    rotate(mesh).await;
}

/// Both Envoys have what the issuer in service says: its leaves, its authorities, and no others.
async fn arrived(mesh: &Mesh) {
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;
}

async fn rotate(mesh: &Mesh) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..ROTATIONS {
        second.tick().await;
        mesh.issuer.rotate().unwrap();
        mesh.wait_leaves().await;
    }
    second.tick().await;
}
