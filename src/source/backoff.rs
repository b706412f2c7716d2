//! How long to wait before asking again.

use std::time::Duration;

/// Jittered exponential backoff between `initial` and `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The first delay after an immediate reconnect failed.
    pub initial: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(10) }
    }
}

/// The delays themselves: each ceiling is twice the one before, each delay lies in the upper half below its ceiling.
///
/// Half of a delay is random so that the clients of a restarted agent do not come back all at once.
#[derive(Debug)]
pub struct Backoff {
    config: Config,
    ceiling: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Starts at `config.initial`. Equal seeds give equal delays.
    #[must_use]
    pub fn new(config: Config, rng: fastrand::Rng) -> Self {
        Self { config, ceiling: config.initial.min(config.max), rng }
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// The next delay, between half of the present ceiling and all of it.
    pub fn next_delay(&mut self) -> Duration {
        let delay = jittered(self.ceiling, &mut self.rng);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.config.max);
        delay
    }

    /// Starts again: the source has proven that it works.
    pub fn reset(&mut self) {
        self.ceiling = self.config.initial.min(self.config.max);
    }
}

/// Something between half of `ceiling` and all of it.
pub(crate) fn jittered(ceiling: Duration, rng: &mut fastrand::Rng) -> Duration {
    ceiling.mul_f64(0.5 + rng.f64() / 2.0).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        Backoff::new(Config::default(), fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn delays_double_up_to_the_maximum_with_jitter_below() {
        for seed in 0..100 {
            let mut backoff = backoff(seed);
            for ceiling in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
                let ceiling = Duration::from_millis(ceiling);
                let delay = backoff.next_delay();
                assert!(delay >= ceiling / 2 && delay <= ceiling, "{delay:?} of {ceiling:?}");
            }
        }
    }

    #[test]
    fn seeds_decide_and_reset_starts_again() {
        let delays = |seed| (0..5).map(|_| ()).scan(backoff(seed), |b, ()| Some(b.next_delay())).collect::<Vec<_>>();
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
        let mut backoff = backoff(3);
        while backoff.next_delay() < Duration::from_secs(5) {}
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(200));
    }

    #[test]
    fn odd_configurations_stay_within_bounds() {
        for (initial, max) in [(Duration::ZERO, Duration::ZERO), (Duration::MAX, Duration::from_secs(1))] {
            let mut backoff = Backoff::new(Config { initial, max }, fastrand::Rng::with_seed(1));
            assert!((0..100).all(|_| backoff.next_delay() <= max));
        }
    }
}
