//! The one renewal engine: opens sessions with a source, keeps the last good state in the store, and decides what each
//! failure means. Nothing else retries.
//!
//! | The source says | In service | Next session |
//! |---|---|---|
//! | new data | replaced, if its content differs | - |
//! | lost after it had delivered | kept | at once, unless it flaps |
//! | [`Transient`](ErrorKind::Transient), or a refused message | kept | jittered exponential backoff |
//! | [`NotEntitled`](ErrorKind::NotEntitled) | kept for `denied_grace`, then bundles alone or `Denied` | backoff |
//! | [`Misconfigured`](ErrorKind::Misconfigured) | kept; without any, [`Supervisor::run`] fails | after a minute |
//!
//! The backoff counts from the start of the failed session: one that hung for longer than the delay is followed at once.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    ErrorKind, RenewalEvent, Source, SourceError,
    backoff::{self, Backoff},
    event::Reporter,
    renewal::{Moment, Outcome, Renewal},
};
use crate::identity::{IdentityStore, Workload};

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

/// How often a source that used to work and now refuses the request itself is asked again.
pub(super) const MISCONFIGURED_RETRY: Duration = Duration::from_secs(60);
/// Timers run on the steady clock; looking up this often notices a wall clock that was set, or a suspended machine.
pub(super) const LONGEST_NAP: Duration = Duration::from_secs(300);
/// A subscriber that lags by more events than this misses the oldest.
pub(super) const EVENTS_KEPT: usize = 256;

/// How the source does, for status pages and checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// A session is open and has delivered usable data.
    pub connected: bool,
    /// When usable data last came, changed or not.
    pub last_update: Option<SystemTime>,
    /// Failures since then.
    pub consecutive_failures: u32,
    /// The last failure with its causes; `None` once usable data came again.
    pub last_error: Option<Arc<str>>,
    /// What that failure means.
    pub last_error_kind: Option<ErrorKind>,
}

/// Keeps one workload's identities in the store fresh.
pub struct Supervisor {
    source: Arc<dyn Source>,
    workload: Workload,
    store: Arc<IdentityStore>,
    config: Config,
    renewal: Renewal,
    reporter: Reporter,
    status: watch::Sender<SourceStatus>,
    backoff: Backoff,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// How a session ended.
struct SessionEnd {
    error: SourceError,
    /// Whether usable data came before.
    delivered: bool,
}

impl Supervisor {
    /// A supervisor that publishes what `source` says about `workload` to `store`, once it [runs](Self::run).
    #[must_use]
    pub fn new(source: impl Source + 'static, workload: Workload, store: Arc<IdentityStore>, config: Config) -> Self {
        Self {
            source: Arc::new(source),
            workload,
            store,
            config,
            renewal: Renewal::new(config.denied_grace),
            reporter: Reporter::new(EVENTS_KEPT),
            status: watch::Sender::default(),
            backoff: Backoff::new(config.backoff, fastrand::Rng::new()),
            clock: Box::new(SystemTime::now),
        }
    }

    /// Judges the life of certificates by another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Makes the delays between sessions repeatable.
    #[must_use]
    pub fn with_rng(mut self, rng: fastrand::Rng) -> Self {
        self.backoff = Backoff::new(self.config.backoff, rng);
        self
    }

    /// Every outcome from now on. Subscribe before [`run`](Self::run) takes the supervisor.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RenewalEvent> {
        self.reporter.subscribe()
    }

    /// How the source does, now and as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// The source refuses the request itself ([`ErrorKind::Misconfigured`]) and never delivered anything usable:
    /// somebody must change the configuration first.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), SourceError> {
        loop {
            let started = Instant::now();
            let end = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                end = self.session() => end,
            };
            let delay = self.session_ended(end, started.elapsed())?;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = self.pause(delay) => {}
            }
        }
    }

    /// One session. Alarms go off meanwhile.
    async fn session(&mut self) -> SessionEnd {
        self.renewal.session_started();
        let mut updates = self.source.watch(&self.workload);
        let mut delivered = false;
        loop {
            let update = tokio::select! {
                update = updates.next() => update,
                () = sleep(self.until_alarm()) => {
                    self.ring();
                    continue;
                }
            };
            let now = self.now();
            let applied = update.unwrap_or(Err(SourceError::Closed)).and_then(|it| self.renewal.on_snapshot(it, now));
            match applied {
                Ok(outcome) => {
                    delivered = true;
                    self.status.send_replace(SourceStatus {
                        connected: true,
                        last_update: Some(now.wall),
                        ..SourceStatus::default()
                    });
                    self.apply(outcome);
                }
                Err(error) => return SessionEnd { error, delivered },
            }
        }
    }

    /// Records the failure; says how long to wait, or that waiting is pointless.
    fn session_ended(&mut self, end: SessionEnd, lasted: Duration) -> Result<Duration, SourceError> {
        let SessionEnd { error, delivered } = end;
        let kind = error.kind();
        let outcome = self.renewal.on_failure(&error, self.now());
        self.status.send_modify(|status| {
            status.connected = false;
            status.consecutive_failures = self.renewal.failures();
            status.last_error = Some(error.chain().into());
            status.last_error_kind = Some(kind);
        });
        self.apply(outcome);
        if self.renewal.is_fatal(kind) {
            return Err(error);
        }
        Ok(match kind {
            ErrorKind::Misconfigured => MISCONFIGURED_RETRY,
            // The source itself paces how often a workload with bundles alone is looked up again.
            ErrorKind::NotEntitled if delivered => {
                self.backoff.reset();
                self.config.backoff.initial.saturating_sub(lasted)
            }
            ErrorKind::NotEntitled | ErrorKind::Transient => {
                // One that delivers and breaks again and again has not proven that it works.
                if delivered && lasted >= self.config.backoff.max {
                    self.backoff.reset();
                }
                self.backoff.next_delay().saturating_sub(lasted)
            }
        })
    }

    /// Waits. Alarms go off meanwhile.
    async fn pause(&mut self, delay: Duration) {
        let end = Instant::now() + delay;
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                () = sleep(self.until_alarm()) => self.ring(),
            }
        }
    }

    fn ring(&mut self) {
        let outcome = self.renewal.on_alarm(self.now());
        self.apply(outcome);
    }

    fn apply(&mut self, outcome: Outcome) {
        if let Some(state) = outcome.publish {
            self.store.publish(&self.workload, state);
        }
        for event in outcome.events {
            self.reporter.report(event);
        }
    }

    fn until_alarm(&self) -> Duration {
        let now = self.now();
        let (wall, steady) = self.renewal.next_alarm();
        let wall = wall.map(|at| at.duration_since(now.wall).unwrap_or_default());
        let steady = steady.map(|at| at.saturating_duration_since(now.steady));
        wall.into_iter().chain(steady).fold(LONGEST_NAP, Duration::min)
    }

    fn now(&self) -> Moment {
        Moment { wall: (self.clock)(), steady: Instant::now().into_std() }
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("workload", &self.workload)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
