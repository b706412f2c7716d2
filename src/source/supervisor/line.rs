//! One of the supervisor's sources: its session, or when the next one may begin.

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::time::{Instant, sleep};

use super::{Config, LineStatus, MISCONFIGURED_RETRY, Standing};
use crate::{
    identity::{IdentitySnapshot, Workload},
    source::{
        ErrorKind, Source, SourceError,
        backoff::Backoff,
        renewal::{Foreign, Sightings},
    },
};

/// What a session says; `None` when it ended without a reason.
pub(super) type Heard = Option<Result<IdentitySnapshot, SourceError>>;

/// A source and everything that is about sessions with it.
pub(super) struct Line {
    pub(super) name: Arc<str>,
    source: Arc<dyn Source>,
    session: Option<Session>,
    /// The pause after a failed session.
    pub(super) not_before: Option<Instant>,
    /// Ends when it is worth trying before that.
    back: Option<BoxFuture<'static, ()>>,
    pub(super) backoff: Backoff,
    /// What the present session said last.
    pub(super) held: Option<IdentitySnapshot>,
    /// Since when it offers its certificates.
    pub(super) seen: Sightings,
    /// The identity of another trust domain that stands first in what it said last.
    pub(super) foreign: Option<Foreign>,
    /// Whether it ever delivered.
    proven: bool,
    /// Failures since it last delivered.
    pub(super) failures: u32,
    pub(super) last_failure: Option<ErrorKind>,
    last_error: Option<Arc<str>>,
    last_update: Option<SystemTime>,
}

struct Session {
    updates: BoxStream<'static, Result<IdentitySnapshot, SourceError>>,
    opened: Instant,
    delivered: bool,
}

impl Line {
    pub(super) fn new(source: Arc<dyn Source>, backoff: Backoff) -> Self {
        let name = source.name();
        Self {
            name,
            source,
            session: None,
            not_before: None,
            back: None,
            backoff,
            held: None,
            seen: Sightings::default(),
            foreign: None,
            proven: false,
            failures: 0,
            last_failure: None,
            last_error: None,
            last_update: None,
        }
    }

    /// Whether a session may be opened now.
    pub(super) fn may_open(&self) -> bool {
        self.session.is_none() && self.not_before.is_none_or(|at| at <= Instant::now())
    }

    pub(super) fn open(&mut self, workload: &Workload) {
        let updates = self.source.watch(workload);
        self.session = Some(Session { updates, opened: Instant::now(), delivered: false });
        (self.not_before, self.back) = (None, None);
    }

    /// Ends the session, and forgets what came of it. Says whether there was anything to forget.
    pub(super) fn close(&mut self) -> bool {
        let idle = self.session.is_none() && self.last_failure.is_none() && self.held.is_none();
        (self.session, self.not_before, self.back, self.held) = (None, None, None, None);
        self.well();
        self.backoff.reset();
        !idle
    }

    pub(super) fn delivered(&mut self, snapshot: IdentitySnapshot, now: SystemTime) {
        if let Some(session) = &mut self.session {
            session.delivered = true;
        }
        self.held = Some(snapshot);
        self.proven = true;
        self.last_update = Some(now);
        self.well();
    }

    fn well(&mut self) {
        (self.failures, self.last_failure, self.last_error) = (0, None, None);
    }

    /// How it does, for people.
    pub(super) fn status(&self, active: bool) -> LineStatus {
        let standing = match &self.session {
            Some(session) if session.delivered => Standing::Up,
            _ if self.last_failure.is_some() => Standing::Down,
            Some(_) => Standing::Asked,
            None => Standing::Idle,
        };
        LineStatus {
            name: self.name.clone(),
            active,
            standing,
            last_update: self.last_update,
            consecutive_failures: self.failures,
            last_error: self.last_error.clone(),
            last_error_kind: self.last_failure,
        }
    }

    /// The session is over: the next one begins after a pause that counts from the beginning of this one.
    pub(super) fn failed(&mut self, kind: ErrorKind, error: Arc<str>, config: &Config) {
        let session = self.session.take();
        let lasted = session.as_ref().map(|session| session.opened.elapsed()).unwrap_or_default();
        let delivered = session.is_some_and(|session| session.delivered);
        self.held = None;
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(kind);
        self.last_error = Some(error);
        let delay = match kind {
            ErrorKind::Misconfigured if !self.proven => MISCONFIGURED_RETRY,
            // The source itself paces how often a workload with bundles alone is looked up again.
            ErrorKind::NotEntitled if delivered => {
                self.backoff.reset();
                config.backoff.initial.saturating_sub(lasted)
            }
            // An agent that restarts may refuse for a moment what it offered before.
            ErrorKind::NotEntitled | ErrorKind::Transient | ErrorKind::Misconfigured => {
                // One that delivers and breaks again and again has not proven that it works.
                if delivered && lasted >= config.backoff.max {
                    self.backoff.reset();
                }
                self.backoff.next_delay().saturating_sub(lasted)
            }
        };
        self.not_before = Some(Instant::now() + delay);
        self.back = Some(self.source.back());
    }
}

/// What a source says next; `None` when nothing came in time, one seems to be back, or the wall clock was
/// set.
pub(super) async fn listen(
    lines: &mut [Line],
    clock_changes: &mut BoxStream<'static, ()>,
    nap: Duration,
) -> Option<(usize, Heard)> {
    tokio::select! {
        heard = next(lines) => heard,
        Some(()) = clock_changes.next() => None,
        () = sleep(nap) => None,
    }
}

/// The next thing that any session says, or `None` when a source seems to be back, which ends its pause.
async fn next(lines: &mut [Line]) -> Option<(usize, Heard)> {
    poll_fn(|context| {
        for (index, line) in lines.iter_mut().enumerate() {
            if let Some(session) = &mut line.session
                && let Poll::Ready(heard) = session.updates.poll_next_unpin(context)
            {
                return Poll::Ready(Some((index, heard)));
            }
            if line.back.as_mut().is_some_and(|back| back.poll_unpin(context).is_ready()) {
                (line.not_before, line.back) = (None, None);
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}
