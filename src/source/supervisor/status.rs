//! How sources do, for status pages and checks.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, watch};

use super::Supervisor;
use crate::{
    identity::Refusal,
    lifecycle::Heartbeat,
    source::{ErrorKind, RenewalEvent, event::Reporter},
    telemetry::metrics::{Depth, SourceMetrics},
};

/// What others may look at.
impl Supervisor {
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

    /// How each of the sources does, in order of preference, now and as it changes.
    #[must_use]
    pub fn each(&self) -> watch::Receiver<Arc<[LineStatus]>> {
        self.each.subscribe()
    }

    /// What the sources sent and is left out of what is served, now and as it changes; of X.509 and JWT alike.
    #[must_use]
    pub fn refused(&self) -> watch::Receiver<Arc<[Refusal]>> {
        self.reporter.refused()
    }

    /// Asks this supervisor for a sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.0.clone()
    }

    pub(in crate::source) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Which of the sources is in service, by its position, for whoever asks it for more than X.509-SVIDs.
    #[must_use]
    pub fn active(&self) -> watch::Receiver<Option<usize>> {
        self.active.subscribe()
    }

    /// What is counted about the source.
    #[must_use]
    pub fn metrics(&self) -> &SourceMetrics {
        self.reporter.metrics()
    }

    /// Counts the events that the slowest receiver of [`Supervisor::events`] has not taken yet.
    #[must_use]
    pub fn events_queued(&self) -> Depth {
        let depth = self.reporter.depth();
        Box::new(depth)
    }
}

/// How the source does. Of several sources: the one in service, or while there is none, whichever spoke last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The [name](crate::source::Source::name) of the source whose identities are in service; `None` before there are
    /// any.
    pub active: Option<Arc<str>>,
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

/// How one of the sources does, in service or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineStatus {
    /// The [name](crate::source::Source::name) of the source.
    pub name: Arc<str>,
    /// Its identities are in service, even while it is away.
    pub active: bool,
    /// Its session.
    pub standing: Standing,
    /// When usable data last came from it.
    pub last_update: Option<SystemTime>,
    /// Failures since then.
    pub consecutive_failures: u32,
    /// The last failure with its causes; `None` once usable data came again, or it is not asked any more.
    pub last_error: Option<Arc<str>>,
    /// What that failure means.
    pub last_error_kind: Option<ErrorKind>,
}

/// How the session with a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not asked: a preferred one serves.
    Idle,
    /// It is asked for the first time and has not answered yet.
    Asked,
    /// It delivers.
    Up,
    /// Its last session failed; it is asked again and again.
    Down,
}
