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
