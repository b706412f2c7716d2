//! Tells the service manager how we are: ready once an identity is served, alive as long as every part takes its turns.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{Availability, IdentitySnapshot},
    lifecycle::{Readiness, clock},
    source::SourceStatus,
    systemd::{Notifier, notify::ReadyWhen},
};

/// What the manager is told about.
pub(super) struct Service {
    pub(super) notifier: Notifier,
    pub(super) ready: ReadyWhen,
    pub(super) states: watch::Receiver<Availability>,
    pub(super) source: watch::Receiver<SourceStatus>,
    pub(super) readiness: Readiness,
}

impl Service {
    /// Follows the program until `stop`.
    pub(super) async fn accompany(self, stop: CancellationToken) {
        if !self.notifier.listens() {
            return;
        }
        if let Some(patience) = self.notifier.watchdog() {
            tokio::spawn(signs_of_life(self.notifier.clone(), self.readiness.clone(), patience, stop.clone()));
        }
        let notifier = self.notifier.clone();
        self.tell(&stop).await;
        notifier.stopping();
    }

    async fn tell(mut self, stop: &CancellationToken) {
        let mut clock_changes = clock::changes();
        let mut ready = false;
        let mut told = String::new();
        loop {
            let (state, source) = (self.states.borrow_and_update().clone(), self.source.borrow_and_update().clone());
            let health = Health::of(&state, SystemTime::now());
            let text = health.text(source.last_error.as_deref());
            if !ready && (health.serves() || self.ready == ReadyWhen::Listening) {
                ready = true;
                self.notifier.ready(&text);
            } else if text != told {
                self.notifier.status(&text);
            }
            told = text;
            let left = health.left();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = clock_changes.next() => {}
                changed = self.states.changed() => if changed.is_err() { return stop.cancelled().await },
                changed = self.source.changed() => if changed.is_err() { return stop.cancelled().await },
                () = sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
        }
    }
}

/// Pings the watchdog twice in its time, and only after the tasks that everything depends on have answered, each from its
/// own loop: a runtime that is stuck, or one of them that is, stops the pings, and the manager restarts us.
async fn signs_of_life(notifier: Notifier, readiness: Readiness, patience: Duration, stop: CancellationToken) {
    let mut clock = interval(patience / 2);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = clock.tick() => {}
        }
        let silent = readiness.silent(patience / 4).await;
        if stop.is_cancelled() {
            return;
        }
        if silent.is_empty() {
            notifier.alive();
        } else {
            let tasks = silent.join(", ");
            tracing::error!(tasks, "a part of the program does not answer, systemd is not told that we are alive");
        }
    }
}

/// What there is to serve.
enum Health<'a> {
    Pending,
    Denied(&'a str),
    Expired(&'a IdentitySnapshot),
    Good(&'a IdentitySnapshot, Option<Duration>),
}

impl<'a> Health<'a> {
    fn of(state: &'a Availability, now: SystemTime) -> Self {
        match state {
            Availability::Pending => Self::Pending,
            Availability::Denied(reason) => Self::Denied(reason),
            Availability::Ready(snapshot) => match snapshot.first_expiry() {
                Some(end) if now > end => Self::Expired(snapshot),
                // A moment longer, so that it is over when we look again.
                Some(end) => {
                    let left = end.duration_since(now).unwrap_or_default() + Duration::from_millis(1);
                    Self::Good(snapshot, Some(left))
                }
                None => Self::Good(snapshot, None),
            },
        }
    }

    const fn serves(&self) -> bool {
        matches!(self, Self::Good(..))
    }

    const fn left(&self) -> Option<Duration> {
        if let Self::Good(_, left) = self { *left } else { None }
    }

    /// One line for `systemctl status`.
    fn text(&self, error: Option<&str>) -> String {
        let trouble = error.map(|error| format!("; source: {error}")).unwrap_or_default();
        match self {
            Self::Pending => format!("waiting for the first identity{trouble}"),
            Self::Denied(reason) => format!("no identity: {reason}"),
            Self::Expired(snapshot) => format!("identity expired: {}{trouble}", shown(snapshot)),
            Self::Good(snapshot, _) => format!("serving {}{trouble}", shown(snapshot)),
        }
    }
}

fn shown(snapshot: &IdentitySnapshot) -> String {
    let domains = snapshot.bundles.len();
    let trust = if domains == 1 { "1 trust domain".to_owned() } else { format!("{domains} trust domains") };
    match (snapshot.default_svid(), snapshot.first_expiry()) {
        (Some(first), Some(end)) => {
            let more = snapshot.svids.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(253_402_300_799);
            let end = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(end));
            format!("{}{more} until {end}, {trust}", first.id)
        }
        _ => trust,
    }
}
