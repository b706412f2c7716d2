//! A restart costs nothing: the real program is ended and started again under real Envoys with load, its socket held by
//! the parent as systemd would. Envoys that come back meanwhile wait; they are not refused.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "clippy.toml allows them in test functions, not in theirs")]

#[path = "e2e_restart/stage.rs"]
mod stage;
mod support;

use nix::sys::signal::Signal;
use spiffe_sds::envoy::Variant;
use stage::Stage;
use support::{
    envoy::latest,
    mesh::{Plan, each},
};

const RESTARTS: usize = 20;
#[test]
fn twenty_restarts_in_a_row_cost_nothing() {
    each(&latest(), &Variant::ALL, restarts);
}

async fn restarts(plan: Plan) {
    let mut stage = Stage::start(plan).await;
    let load = stage.load();
    let before = stage.secrets().await;
    for round in 0..RESTARTS {
        let signal = if round % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
        // None is stuck: it is waited for with a bound. How long it takes depends on the machine.
        stage.restart(signal).await;
        assert_eq!(stage.sent(), Vec::<String>::new(), "{}: the client knows these versions", stage.label());
        stage.served(&load, 20).await;
    }
    assert_eq!(stage.secrets().await, before, "{}: counts and versions at the envoys", stage.label());

    // All of them still listen.
    stage.rotate().await;
    let report = load.stop().await;
    assert_eq!(report.failures, 0, "{}: {report:#?}", stage.label());
}
