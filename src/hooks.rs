//! Callbacks: events leave the process by running a program, signalling one, or calling a webhook.
//!
//! Each callback is a task of its own with bounded room for what waits; nothing here is ever waited for by what serves
//! identities. When something runs, and with which event, is decided by `plan`, which is pure; [`exec`], [`signal`] and
//! [`webhook`] each do one attempt. docs/hooks.md describes it for users.

mod event;
pub mod exec;
mod notice;
mod plan;
pub mod signal;
pub mod webhook;
mod worker;

pub use event::HookEvent;
pub use notice::{Notice, rfc3339};

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{source::backoff, telemetry::metrics::Outcomes};
use event::Outlet;
use plan::Rules;

/// One callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What logs and events call it.
    pub name: String,
    /// The names of the events that it is told.
    pub events: BTreeSet<String>,
    /// What it does.
    pub action: Action,
    /// No attempt takes longer.
    pub timeout: Duration,
    /// How often one event is tried; at least 1.
    pub attempts: u32,
    /// Delays after failures.
    pub backoff: backoff::Config,
}

/// What a callback does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a program: one at a time for each kind of event, and of those that wait only the newest.
    Exec(exec::Config),
    /// Signals a process; planned like a program.
    Signal(signal::Config),
    /// Sends every event, in order.
    Webhook(webhook::Config),
}

impl Config {
    /// A callback with default timeout, attempts and delays.
    #[must_use]
    pub fn new(name: &str, events: &[&str], action: Action) -> Self {
        Self {
            name: name.to_owned(),
            events: events.iter().map(|&event| event.to_owned()).collect(),
            action,
            timeout: Duration::from_secs(30),
            attempts: 5,
            backoff: backoff::Config { initial: Duration::from_secs(1), max: Duration::from_secs(60) },
        }
    }

    fn rules(&self) -> Rules {
        let (lane_per_event, room) = match &self.action {
            Action::Exec(_) | Action::Signal(_) => (true, 1),
            Action::Webhook(webhook) => (false, webhook.queue),
        };
        Rules { lane_per_event, room, attempts: self.attempts, backoff: self.backoff }
    }
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    #[error(transparent)]
    Signal(#[from] signal::SignalError),
    #[error(transparent)]
    Webhook(#[from] webhook::WebhookError),
    /// Everything that is not a program, which ends its own way.
    #[error("it took longer than {0:?} and was given up; look at the other end, or raise `timeout`")]
    Timeout(Duration),
    #[error("it ended unexpectedly; this is a bug, please report it with the log")]
    Panic(#[from] tokio::task::JoinError),
}

/// Every callback of the program.
#[derive(Debug)]
pub struct Hooks {
    configs: Vec<Config>,
    outlet: Outlet,
}

/// A subscriber that lags by more results than this misses the oldest.
const EVENTS_KEPT: usize = 256;
/// Events between the moment they happen and the moment a callback's task plans them; it never does anything else long.
const INBOX: usize = 256;

impl Hooks {
    /// Callbacks that do nothing until they [run](Self::run).
    #[must_use]
    pub fn new(configs: Vec<Config>) -> Self {
        let outlet = Outlet { events: broadcast::Sender::new(EVENTS_KEPT), metrics: Outcomes::by("hook") };
        for config in &configs {
            outlet.metrics.begin(&config.name, &HookEvent::RESULTS);
        }
        Self { configs, outlet }
    }

    /// What becomes of callbacks from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<HookEvent> {
        self.outlet.events.subscribe()
    }

    /// What is counted about callbacks.
    #[must_use]
    pub fn metrics(&self) -> &Outcomes {
        &self.outlet.metrics
    }

    /// Tells every callback what it wants to know of `notices`, until `stop` or the end of the notices. Programs that run
    /// then are ended.
    pub async fn run(self, mut notices: mpsc::Receiver<Notice>, stop: CancellationToken) {
        let mut workers = JoinSet::new();
        let mut inboxes = Vec::new();
        for config in self.configs {
            let (inbox, notices) = mpsc::channel(INBOX);
            inboxes.push((config.name.clone(), config.events.clone(), inbox));
            workers.spawn(worker::run(config, notices, self.outlet.clone(), stop.clone()));
        }
        loop {
            let notice = tokio::select! {
                () = stop.cancelled() => break,
                notice = notices.recv() => notice,
                // A worker only ends early by a panic, which must not stay unseen.
                Some(Err(error)) = workers.join_next() => std::panic::resume_unwind(error.into_panic()),
            };
            let Some(notice) = notice.map(Arc::new) else { break };
            for (name, events, inbox) in &inboxes {
                if events.contains(notice.event) && inbox.try_send(notice.clone()).is_err() {
                    self.outlet.report(HookEvent::Dropped { hook: name.as_str().into(), count: 1 });
                }
            }
        }
        drop(inboxes);
        while workers.join_next().await.is_some() {}
    }
}
