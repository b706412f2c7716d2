//! Trust first, and the next step when every Envoy has it: no request is lost while an Envoy is stopped in the middle of a
//! roll-over, while the machine has no processor free, over a restart of the program, or in a failover. Real Envoys, each
//! request a new connection with a full handshake.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml allows them in test functions, not in theirs")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use spiffe_sds::{dev::envoy::Envoy, envoy::Variant};
use support::{
    envoy::latest,
    mesh::{Mesh, Plan, STANDBY, each, td},
};
use tokio::time::{interval, sleep};
use tonic::Status;

/// The kinds of streams that differ: one a secret in state of the world, one for all with deltas.
const VARIANTS: [Variant; 2] = [Variant::Sotw, Variant::AdsDelta];
/// How long an Envoy is stopped: nearly three times the hold.
const STOPPED: Duration = Duration::from_millis(700);

#[test]
fn an_envoy_that_is_stopped_in_each_roll_over_costs_nothing() {
    each(&latest(), &VARIANTS, stopped_in_roll_overs);
}

#[test]
fn a_machine_without_a_free_processor_costs_nothing() {
    each(&latest(), &VARIANTS, busy);
}

#[test]
fn another_bundle_that_grows_all_the_time_starves_no_certificate() {
    each(&latest(), &VARIANTS, growing);
}

#[test]
fn an_authority_that_changes_while_the_program_is_down_costs_nothing() {
    each(&latest(), &Variant::ALL, changed_while_down);
}

#[test]
fn an_envoy_that_is_stopped_in_each_failover_costs_nothing() {
    each(&latest(), &VARIANTS, stopped_in_failovers);
}

async fn stopped_in_roll_overs(plan: Plan) {
    let mesh = plan.serving().await;
    let load = mesh.load();
    for round in 0..6 {
        let envoy = if round % 3 == 2 { &mesh.server } else { &mesh.client };
        stopped(envoy, async || mesh.roll_at_once()).await;
        arrived(&mesh).await;
    }
    mesh.expect_no_failure(load).await;
}

async fn busy(plan: Plan) {
    let mesh = plan.serving().await;
    let load = mesh.load();
    let _busy = Busy::new(4);
    for round in 0..6 {
        if round % 2 == 0 {
            mesh.roll_at_once()
        } else {
            mesh.roll_in_steps(Duration::from_millis(100)).await
        }
        arrived(&mesh).await;
    }
    mesh.expect_no_failure(load).await;
}

async fn growing(plan: Plan) {
    let mesh = plan.serving().await;
    let load = mesh.load();
    let grown = AtomicUsize::new(0);
    let grows = async {
        let mut clock = interval(Duration::from_millis(100));
        loop {
            clock.tick().await;
            let count = grown.fetch_add(1, Ordering::Relaxed);
            mesh.issuer.federate(&td(&format!("other{}.org", count % 40))).unwrap();
            if let Some(former) = count.checked_sub(20) {
                mesh.issuer.defederate(&td(&format!("other{}.org", former % 40))).unwrap();
            }
        }
    };
    let rotates = async {
        for _ in 0..5 {
            let before = grown.load(Ordering::Relaxed);
            mesh.issuer.rotate().unwrap();
            mesh.wait_leaves().await;
            mesh.eventually("growth", async || match grown.load(Ordering::Relaxed) - before {
                grown if grown > 2 => Ok(()),
                grown => Err(format!("{grown}")),
            })
            .await;
        }
    };
    tokio::select! {
        () = grows => {}
        () = rotates => {}
    }
    mesh.expect_no_failure(load).await;
}

async fn changed_while_down(plan: Plan) {
    let mut mesh = plan.serving().await;
    let load = mesh.load();
    for _ in 0..3 {
        mesh.stop_program().await;
        mesh.issuer.prepare_ca().unwrap();
        mesh.issuer.activate_ca().unwrap();
        mesh.start_program().await;
        arrived(&mesh).await;
        mesh.issuer.retire_ca().unwrap();
        arrived(&mesh).await;
    }
    mesh.expect_no_failure(load).await;
}

async fn stopped_in_failovers(mut plan: Plan) {
    plan.standby = true;
    let mut mesh = plan.serving().await;
    mesh.wait_in_service("agent.sock").await;
    let load = mesh.load();
    for _ in 0..2 {
        stopped(&mesh.client, async || {
            mesh.issuer.fail_with(Status::unavailable("the agent is being upgraded"));
            mesh.wait_in_service(STANDBY).await;
        })
        .await;
        mesh.look_at_the_other_issuer();
        arrived(&mesh).await;
        stopped(&mesh.client, async || {
            mesh.standby.as_ref().unwrap().recover();
            mesh.wait_in_service("agent.sock").await;
        })
        .await;
        mesh.look_at_the_other_issuer();
        arrived(&mesh).await;
    }
    mesh.expect_no_failure(load).await;
}

/// Both Envoys have the issuer's leaves, its authorities, and no others.
async fn arrived(mesh: &Mesh) {
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;
}

/// Stops an Envoy while something happens, and a while longer.
async fn stopped(envoy: &Envoy, happens: impl AsyncFnOnce()) {
    let pid = Pid::from_raw(envoy.pid().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    happens().await;
    sleep(STOPPED).await;
    kill(pid, Signal::SIGCONT).unwrap();
}

/// Threads that leave no processor free, until dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = stop.clone();
            thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
        }
        Self(stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
