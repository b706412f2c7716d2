//! Rotation by the clock.

use std::{future, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CaStep, DevError, Rotation, shared::Shared};

/// Shorter intervals would rotate without end.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The steps of one roll-over are spread evenly over it.
const STEPS: [CaStep; 3] = [CaStep::Prepare, CaStep::Activate, CaStep::Retire];

/// Refuses intervals that would rotate without end.
pub(super) fn check(rotation: Rotation, ca_rotate_every: Option<Duration>) -> Result<(), DevError> {
    let leaves = match rotation {
        Rotation::Every(interval) => Some(interval),
        Rotation::HalfLife | Rotation::Never => None,
    };
    match [leaves, ca_rotate_every.map(step_interval)].into_iter().flatten().find(|it| *it < MIN_INTERVAL) {
        Some(interval) => Err(DevError::Interval(interval)),
        None => Ok(()),
    }
}

/// Replaces every leaf each time it is due.
pub(super) async fn leaves(shared: Arc<Shared>, rotation: Rotation) {
    let mut ttl = shared.ttl.subscribe();
    loop {
        let started = Instant::now();
        let due = |ttl: Duration| match rotation {
            Rotation::HalfLife => Some(started + ttl / 2),
            Rotation::Every(interval) => Some(started + interval),
            Rotation::Never => None,
        };
        let mut at = due(*ttl.borrow_and_update());
        loop {
            tokio::select! {
                () = until(at) => break,
                // A new TTL holds for the leaves to come; they may be due earlier than the present ones.
                Ok(()) = ttl.changed() => at = due(*ttl.borrow_and_update()),
                else => return,
            }
        }
        if let Err(error) = shared.rotate() {
            tracing::error!(%error, "development issuer cannot rotate its leaves");
        }
    }
}

/// Rolls the own CA over, again and again.
pub(super) async fn ca(shared: Arc<Shared>, every: Duration) {
    let mut clock = tokio::time::interval(step_interval(every));
    clock.tick().await;
    for step in STEPS.into_iter().cycle() {
        clock.tick().await;
        if let Err(error) = shared.own_ca_step(step) {
            tracing::error!(%error, "development issuer cannot roll its authority over");
        }
    }
}

fn step_interval(every: Duration) -> Duration {
    every / 3
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => future::pending().await,
    }
}
