//! The one renewal engine: opens sessions with a source, keeps the last good state in the store, and decides what each
//! failure means. Nothing else retries.
//!
//! | The source says | In service | Next session |
//! |---|---|---|
//! | new data | replaced, if its content differs | - |
//! | lost after it had delivered | kept | at once, unless it flaps |
//! | [`Transient`](ErrorKind::Transient), or a refused message | kept | jittered exponential backoff |
//! | [`NotEntitled`](ErrorKind::NotEntitled) | kept for `denied_grace`, then bundles alone or `Denied` | backoff |
//! | [`Misconfigured`](ErrorKind::Misconfigured) | kept; without any, [`Supervisor::run`] fails | backoff; after a minute if it never delivered |
//!
//! The backoff counts from the start of the failed session: one that hung for longer than the delay is followed at once.
//!
//! Of several sources one is in service; which one, and which others are asked beside it, [`failover`] decides.

mod line;
mod setup;
mod status;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::stream::BoxStream;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ErrorKind, RenewalEvent, Source, SourceError,
    backoff::{self, Backoff},
    event::{BAD_MESSAGE, Reporter},
    failover::{self, Failover, Switch},
    refused::Scope,
    renewal::{self, Moment, Outcome, Pin, Renewal},
};
use crate::{
    identity::{Availability, IdentitySnapshot, IdentityStore, Workload},
    lifecycle::{Heartbeat, Responder, clock, heartbeat},
    telemetry::traces::{self, Cause, Traces},
};
use line::Line;
pub use status::{LineStatus, SourceStatus, Standing};

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
/// Timers run on the steady clock. A wall clock that was set is noticed at once where the system tells (`clock_changes`), and
/// by looking up this often where it does not.
pub(super) const LONGEST_NAP: Duration = Duration::from_secs(300);
/// A subscriber that lags by more events than this misses the oldest.
pub(super) const EVENTS_KEPT: usize = 256;

/// Keeps one workload's identities in the store fresh.
pub struct Supervisor {
    lines: Vec<Line>,
    failover: Failover,
    workload: Workload,
    store: Arc<IdentityStore>,
    config: Config,
    renewal: Renewal,
    pin: Pin,
    reporter: Reporter,
    status: watch::Sender<SourceStatus>,
    each: watch::Sender<Arc<[LineStatus]>>,
    active: watch::Sender<Option<usize>>,
    traces: Traces,
    /// What the present work is about, and when it came.
    occasion: (&'static str, SystemTime),
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    heartbeat: (Heartbeat, Responder),
    /// An item each time that the wall clock is set.
    clock_changes: BoxStream<'static, ()>,
}

impl Supervisor {
    /// A supervisor that publishes what `source` says about `workload` to `store`, once it [runs](Self::run).
    #[must_use]
    pub fn new(source: impl Source + 'static, workload: Workload, store: Arc<IdentityStore>, config: Config) -> Self {
        Self::of_several(vec![Arc::new(source)], failover::Config::default(), workload, store, config)
    }

    /// The same of several sources, the preferred one first.
    #[must_use]
    pub fn of_several(
        sources: Vec<Arc<dyn Source>>,
        failover: failover::Config,
        workload: Workload,
        store: Arc<IdentityStore>,
        config: Config,
    ) -> Self {
        let backoff = || Backoff::new(config.backoff, fastrand::Rng::new());
        let domains = sources.iter().map(|source| source.trust_domain()).collect();
        let lines: Vec<_> = sources.into_iter().map(|source| Line::new(source, backoff())).collect();
        Self {
            failover: Failover::new(failover, lines.len()),
            each: watch::Sender::new(lines.iter().map(|line| line.status(false)).collect()),
            lines,
            workload,
            store,
            config,
            renewal: Renewal::new(config.denied_grace),
            pin: Pin::new(domains),
            reporter: Reporter::new(EVENTS_KEPT),
            status: watch::Sender::default(),
            active: watch::Sender::default(),
            traces: Traces::default(),
            occasion: ("timer", SystemTime::UNIX_EPOCH),
            clock: Box::new(SystemTime::now),
            heartbeat: heartbeat("supervisor of the sources"),
            clock_changes: clock::changes(),
        }
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// The source refuses the request itself ([`ErrorKind::Misconfigured`]), of several each of them, and never
    /// delivered anything usable: somebody must change the configuration first.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), SourceError> {
        loop {
            let decided = self.steer();
            self.show();
            let nap = self.until_alarm(decided);
            let (heard, at) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = self.heartbeat.1.answer() => continue,
                heard = traces::timed(line::listen(&mut self.lines, &mut self.clock_changes, nap)) => heard,
            };
            let trigger = heard.as_ref().map(|(_, heard)| matches!(heard, Some(Ok(_))));
            self.occasion = (trigger.map_or("timer", |usable| if usable { "message" } else { "failure" }), at);
            match heard {
                Some((index, heard)) => self.heard(index, heard.unwrap_or(Err(SourceError::Closed)))?,
                None => self.ring(),
            }
        }
    }

    /// Switches if that is due; opens the sessions that are wanted and closes those that are not. Says as of when.
    fn steer(&mut self) -> Moment {
        let now = self.now();
        if let Some(switch) = self.failover.decide(now) {
            self.switch(switch, now);
        }
        for (index, line) in self.lines.iter_mut().enumerate() {
            if !self.failover.wants(index, now) {
                if line.close() {
                    self.failover.on_closed(index);
                }
            } else if line.may_open() {
                line.open(&self.workload);
                self.failover.on_opened(index, now);
                if self.failover.concerns_service(index) {
                    self.renewal.session_started();
                }
            }
        }
        now
    }

    /// Tells how each source does, if that has changed.
    fn show(&self) {
        let active = self.failover.active();
        let lines = self.lines.iter().enumerate();
        let now: Arc<[_]> = lines.map(|(index, line)| line.status(active == Some(index))).collect();
        self.each.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
    }

    fn switch(&mut self, switch: Switch, now: Moment) {
        let Some(line) = self.lines.get(switch.to) else { return };
        let Some(snapshot) = line.held.clone() else { return };
        let (to, name, seen) = (switch.to, line.name.clone(), line.seen.clone());
        self.failover.switched(to, now);
        self.active.send_replace(Some(to));
        self.reporter.metrics().active(&name);
        if let Some((from, reason)) = switch.from
            && let Some(from) = self.lines.get(from)
        {
            self.occasion.0 = "failover";
            self.reporter.report(RenewalEvent::SourceSwitched { from: from.name.clone(), to: name, reason });
        }
        self.pin.establish(&snapshot);
        let outcome = self.renewal.on_snapshot(snapshot, &seen, now);
        self.in_service(outcome, now);
    }

    /// A source said something, or its session ended.
    fn heard(&mut self, index: usize, heard: Result<IdentitySnapshot, SourceError>) -> Result<(), SourceError> {
        let now = self.now();
        match heard.and_then(|snapshot| self.accept(index, snapshot, now)) {
            Ok(Some(outcome)) => self.in_service(outcome, now),
            Ok(None) => {}
            Err(error) => return self.failed(index, error, now),
        }
        Ok(())
    }

    /// Takes over what a source said, as far as it may be served; what that changes, if the source is in service.
    fn accept(
        &mut self,
        index: usize,
        mut snapshot: IdentitySnapshot,
        now: Moment,
    ) -> Result<Option<Outcome>, SourceError> {
        let Some(line) = self.lines.get_mut(index) else { return Ok(None) };
        renewal::admit(&mut snapshot, now)?;
        if self.failover.active() == Some(index) {
            snapshot = self.renewal.with_last_good(snapshot, now);
        }
        let foreign = self.pin.apply(index, &mut snapshot)?;
        if line.foreign != foreign {
            line.foreign.clone_from(&foreign);
            foreign.into_iter().for_each(|foreign| self.reporter.report(foreign.event()));
        }
        line.seen.note(&snapshot.svids, now.wall);
        self.failover.on_snapshot(index, &snapshot, &line.seen, now);
        line.delivered(snapshot.clone(), now.wall);
        if self.failover.active() != Some(index) {
            return Ok(None);
        }
        self.pin.establish(&snapshot);
        Ok(Some(self.renewal.on_snapshot(snapshot, &line.seen, now)))
    }

    /// What came from the active source has been taken over.
    fn in_service(&mut self, outcome: Outcome, now: Moment) {
        self.reporter.metrics().updated(now.wall);
        let active = self.failover.active().and_then(|active| self.lines.get(active));
        self.status.send_replace(SourceStatus {
            active: active.map(|line| line.name.clone()),
            connected: true,
            last_update: Some(now.wall),
            ..SourceStatus::default()
        });
        self.apply(outcome);
    }

    /// Records the failure; says if going on is pointless.
    fn failed(&mut self, index: usize, error: SourceError, now: Moment) -> Result<(), SourceError> {
        let Some(line) = self.lines.get_mut(index) else { return Ok(()) };
        let kind = error.kind();
        let words: Arc<str> = error.chain().into();
        line.failed(kind, words.clone(), &self.config);
        let concerns_service = self.failover.concerns_service(index);
        self.failover.on_failure(index, kind, now);
        if !concerns_service {
            let (source, failures) = (line.name.clone(), line.failures);
            self.reporter.report(RenewalEvent::StandbyDown { source, kind, error: words, failures });
            return Ok(());
        }
        let outcome = self.renewal.on_failure(&error, now);
        self.status.send_modify(|status| {
            status.connected = false;
            status.consecutive_failures = self.renewal.failures();
            status.last_error = Some(words);
            status.last_error_kind = Some(kind);
        });
        let counted = if error.is_bad_message() { BAD_MESSAGE } else { kind.as_str() };
        self.reporter.metrics().failed(counted, self.renewal.failures());
        self.apply(outcome);
        let hopeless = |line: &Line| line.last_failure == Some(ErrorKind::Misconfigured);
        if self.renewal.is_fatal(kind) && self.lines.iter().all(hopeless) { Err(error) } else { Ok(()) }
    }

    fn ring(&mut self) {
        let outcome = self.renewal.on_alarm(self.now());
        self.apply(outcome);
    }

    fn apply(&mut self, outcome: Outcome) {
        if let Some(state) = outcome.publish {
            if let Availability::Ready(snapshot) = &state {
                self.reporter.caution(snapshot);
            }
            let (trigger, received) = self.occasion;
            let active = || self.failover.active().and_then(|active| self.lines.get(active));
            let cause = || Cause { trigger, source: active().map(|line| line.name.clone()), received };
            self.traces.publishing(&state, cause, || self.store.publish(&self.workload, state.clone()));
        }
        self.store.publish_withdrawn(&self.workload, self.renewal.withdrawn());
        for event in outcome.events {
            self.reporter.report(event);
        }
        if let Some(refusals) = outcome.refusals {
            self.reporter.refuse(Scope::X509, &refusals);
        }
    }

    /// Until something is due: an alarm, a decision, or the end of a pause. What became due after `decided`, when
    /// decisions were last made, is due at once.
    fn until_alarm(&self, decided: Moment) -> Duration {
        let now = self.now();
        let pauses = self.lines.iter().filter_map(|line| line.not_before).map(Instant::into_std);
        let (renewal, failover) = (self.renewal.next_alarm(), self.failover.next_alarm(decided));
        let wall = renewal.0.into_iter().chain(failover.0).map(|at| at.duration_since(now.wall).unwrap_or_default());
        let steady = renewal.1.into_iter().chain(failover.1).chain(pauses);
        let steady = steady.map(|at| at.saturating_duration_since(now.steady));
        wall.chain(steady).fold(LONGEST_NAP, Duration::min)
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
