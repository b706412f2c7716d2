//! What becomes of callbacks, as typed events and log lines.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use crate::telemetry::metrics::Outcomes;

/// One outcome of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HookEvent {
    /// It did what it shall.
    Succeeded {
        /// Which callback.
        hook: Arc<str>,
        /// The event it was told.
        on: &'static str,
        /// From 1.
        attempt: u32,
        /// How long this attempt took.
        took: Duration,
    },
    /// It did not.
    Failed {
        /// Which callback.
        hook: Arc<str>,
        /// The event it was told.
        on: &'static str,
        /// From 1.
        attempt: u32,
        /// What went wrong, with causes.
        error: Arc<str>,
        /// When the same event is tried again; `None` if it is not, because it was the last attempt or a newer event
        /// takes its place.
        retry_in: Option<Duration>,
    },
    /// Events that it will not be told: there were too many.
    Dropped {
        /// Which callback.
        hook: Arc<str>,
        /// How many.
        count: u32,
    },
}

impl HookEvent {
    /// Every value of the metrics' label `result`: an attempt that worked, one that is followed by another, the last one of
    /// an event, and an event that had none.
    pub(super) const RESULTS: [&'static str; 4] = ["succeeded", "retried", "failed", "dropped"];
    /// Every name that [`HookEvent::name`] returns, and so every value of the log field `event`.
    pub const NAMES: [&'static str; 3] = ["callback_succeeded", "callback_failed", "callback_dropped"];

    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "callback_succeeded",
            Self::Failed { .. } => "callback_failed",
            Self::Dropped { .. } => "callback_dropped",
        }
    }
}

/// Where outcomes go: subscribers, the log and the metrics.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) events: broadcast::Sender<HookEvent>,
    pub(super) metrics: Outcomes,
}

impl Outlet {
    pub(super) fn report(&self, event: HookEvent) {
        log(&event);
        match &event {
            HookEvent::Succeeded { hook, .. } => {
                self.metrics.count(hook, "succeeded", 1);
                self.metrics.good(hook, SystemTime::now());
            }
            HookEvent::Failed { hook, retry_in: Some(_), .. } => self.metrics.count(hook, "retried", 1),
            HookEvent::Failed { hook, retry_in: None, .. } => self.metrics.count(hook, "failed", 1),
            HookEvent::Dropped { hook, count } => self.metrics.count(hook, "dropped", u64::from(*count)),
        }
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}

fn log(event: &HookEvent) {
    let name = event.name();
    match event {
        HookEvent::Succeeded { hook, on, attempt, took } => {
            let took_ms = took.as_millis() as u64;
            tracing::info!(event = name, %hook, on, attempt, took_ms, "callback done");
        }
        HookEvent::Failed { hook, on, attempt, error, retry_in: Some(delay) } => {
            let retry_in_ms = delay.as_millis() as u64;
            // The first failure is news and the last one is bad news.
            if *attempt == 1 {
                tracing::warn!(event = name, %hook, on, attempt, %error, retry_in_ms, "callback failed, it will be tried again");
            } else {
                tracing::debug!(event = name, %hook, on, attempt, %error, retry_in_ms, "callback failed, it will be tried again");
            }
        }
        HookEvent::Failed { hook, on, attempt, error, retry_in: None } => {
            tracing::error!(event = name, %hook, on, attempt, %error, "callback failed, this event is not tried again");
        }
        HookEvent::Dropped { hook, count } => {
            tracing::warn!(event = name, %hook, count, "too many events for the callback, the oldest are dropped");
        }
    }
}
