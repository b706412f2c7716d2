//! Rotation by the clock.

use std::{future, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CaStep, DevError, Rotation, shared::Shared};

/// Shorter intervals would rotate without end.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The steps of one roll-over are spread evenly over it.
const STEPS: [CaStep; 3] = [CaStep::Prepare, CaStep::Activate, CaStep::Retire];

/// Refuses intervals that would rotate without end.
pub(super) fn check(rotation: Rotation, roll_overs: &[Option<Duration>]) -> Result<(), DevError> {
    let leaves = match rotation {
        Rotation::Every(interval) => Some(interval),
        Rotation::HalfLife | Rotation::Never => None,
    };
    let steps = roll_overs.iter().flatten().map(|every| step_interval(*every));
    match leaves.into_iter().chain(steps).find(|it| *it < MIN_INTERVAL) {
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

/// Rolls the own CA, or the own JWT keys, over, again and again.
pub(super) async fn roll_over(
    shared: Arc<Shared>,
    every: Duration,
    take: impl Fn(&Shared, CaStep) -> Result<(), DevError>,
) {
    let mut clock = tokio::time::interval(step_interval(every));
    clock.tick().await;
    for step in STEPS.into_iter().cycle() {
        clock.tick().await;
        if let Err(error) = take(&shared, step) {
            tracing::error!(%error, "development issuer cannot roll its authority or keys over");
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
        tokio::spawn(roll_over(Arc::clone(&shared), Duration::from_secs(30), Shared::own_ca_step));
        tokio::spawn(roll_over(Arc::clone(&shared), Duration::from_secs(30), Shared::own_jwt_key_step));
        for (index, expected) in STEPS.into_iter().chain([CaStep::Prepare]).enumerate() {
            let (mut ca, mut keys) = (None, None);
            while ca.is_none() || keys.is_none() {
                match events.recv().await.unwrap() {
                    Event::Ca { step, .. } => ca = Some(step),
                    Event::JwtKey { step, .. } => keys = Some(step),
                    _ => {}
                }
            }
            assert_eq!((ca, keys), (Some(expected), Some(expected)));
            assert_eq!(started.elapsed().as_secs(), 10 * (index as u64 + 1));
        }
    }

    #[test]
    fn intervals_without_end_are_refused() {
        let short = Duration::from_millis(9);
        assert!(matches!(check(Rotation::Every(short), &[]), Err(DevError::Interval(it)) if it == short));
        assert!(check(Rotation::HalfLife, &[None, Some(3 * short)]).is_err());
        assert!(check(Rotation::Every(2 * short), &[Some(6 * short)]).is_ok());
        assert!(check(Rotation::Never, &[None]).is_ok());
    }
}
