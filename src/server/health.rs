//! `grpc.health.v1`: serving means that an identity is there to be served.

use std::time::SystemTime;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::service::{Aggregated, Secrets};
use crate::identity::Availability;

/// What is reported on: the whole server and both services, which always say the same.
const SERVICES: [&str; 3] = ["", Secrets::NAME, Aggregated::NAME];

/// Follows the store until `stop`.
pub(super) async fn follow(
    mut reporter: HealthReporter,
    mut states: watch::Receiver<Availability>,
    stop: CancellationToken,
) {
    loop {
        let (serving, wake) = {
            let state = states.borrow_and_update();
            verdict(&state, SystemTime::now())
        };
        report(&reporter, serving).await;
        tokio::select! {
            () = stop.cancelled() => break,
            changed = states.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
        }
    }
    report(&reporter, ServingStatus::NotServing).await;
    // Ends the watches: they are streams without an end, and would hold the drain up until its deadline.
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}

/// Serving while the last good identity is valid, and for how much longer that is.
fn verdict(state: &Availability, now: SystemTime) -> (ServingStatus, Option<std::time::Duration>) {
    let Availability::Ready(snapshot) = state else { return (ServingStatus::NotServing, None) };
    match snapshot.first_expiry() {
        Some(end) if now > end => (ServingStatus::NotServing, None),
        Some(end) => {
            let left = end.duration_since(now).unwrap_or_default();
            (ServingStatus::Serving, Some(left + std::time::Duration::from_millis(1)))
        }
        // A verifier without an identity of its own serves bundles.
        None => (ServingStatus::Serving, None),
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
