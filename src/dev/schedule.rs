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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        dev::{Config, Event, state::State},
        identity::{SpiffeId, TrustDomain},
        source::Endpoint,
    };

    const TTL: Duration = Duration::from_secs(3600);

    fn shared() -> Arc<Shared> {
        let td = TrustDomain::new("example.org").unwrap();
        let id = SpiffeId::new("spiffe://example.org/web").unwrap();
        let config = Config { ttl: TTL, ..Config::new(td, Endpoint::Unix("/unused".into())) }.identity(id, None);
        let (state, _) = State::new(&config, SystemTime::now()).unwrap();
        Arc::new(Shared::new(state, false))
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_are_replaced_at_half_of_their_life() {
        let shared = shared();
        let mut events = shared.events.subscribe();
        let started = Instant::now();
        tokio::spawn(leaves(Arc::clone(&shared), Rotation::HalfLife));
        assert!(matches!(events.recv().await.unwrap(), Event::Rotated { .. }));
        assert!((TTL / 2..TTL / 2 + Duration::from_secs(1)).contains(&started.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_ttl_is_not_waited_for() {
        let shared = shared();
        let mut events = shared.events.subscribe();
        tokio::spawn(leaves(Arc::clone(&shared), Rotation::HalfLife));
        tokio::task::yield_now().await;
        let started = Instant::now();
        shared.ttl.send_replace(Duration::from_secs(10));
        assert!(matches!(events.recv().await.unwrap(), Event::Rotated { .. }));
        assert!(started.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_roll_over_takes_its_time_and_starts_again() {
        let shared = shared();
        let mut events = shared.events.subscribe();
        let started = Instant::now();
        tokio::spawn(ca(Arc::clone(&shared), Duration::from_secs(30)));
        for (index, expected) in STEPS.into_iter().chain([CaStep::Prepare]).enumerate() {
            let step = loop {
                if let Event::Ca { step, .. } = events.recv().await.unwrap() {
                    break step;
                }
            };
            assert_eq!(step, expected);
            assert_eq!(started.elapsed().as_secs(), 10 * (index as u64 + 1));
        }
    }

    #[test]
    fn intervals_without_end_are_refused() {
        let short = Duration::from_millis(9);
        assert!(matches!(check(Rotation::Every(short), None), Err(DevError::Interval(it)) if it == short));
        assert!(check(Rotation::HalfLife, Some(3 * short)).is_err());
        assert!(check(Rotation::Every(2 * short), Some(6 * short)).is_ok());
        assert!(check(Rotation::Never, None).is_ok());
    }
}
