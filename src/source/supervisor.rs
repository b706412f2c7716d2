//! The one renewal engine.

use std::time::Duration;

use super::backoff;

/// How the supervisor treats failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Delays between failed sessions.
    pub backoff: backoff::Config,
    /// How long the last good identity stays in service after the source says "not entitled": registrations are
    /// eventually consistent, and an Envoy that loses its certificate cannot serve.
    pub denied_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { backoff: backoff::Config::default(), denied_grace: Duration::from_secs(60) }
    }
}
