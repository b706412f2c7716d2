//! What the service manager hears from us (`sd_notify(3)`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;

use crate::printable::is_hidden;

/// When a start counts as successful.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadyWhen {
    /// An identity is held and valid: whoever is ordered after us finds one.
    #[default]
    Identity,
    /// The sockets listen.
    Listening,
}

/// What the configuration says about the service manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// When to say that we are ready.
    pub ready: ReadyWhen,
    /// Whether to give our sockets to the file descriptor store; when it says that it is there, if absent.
    pub store: Option<bool>,
}

/// Speaks to the service manager, if there is one that listens.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    listens: bool,
    watchdog: Option<Duration>,
    /// Whether the start is over; clones share it.
    ready: Arc<AtomicBool>,
}

impl Notifier {
    /// As `environment` says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn new(environment: &BTreeMap<String, String>) -> Self {
        let listens = environment.get("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        let number = |name: &str| environment.get(name).and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| listens && ours && *usec > 0).map(Duration::from_micros);
        Self { listens, watchdog, ready: Arc::default() }
    }

    /// Whether anybody listens.
    #[must_use]
    pub const fn listens(&self) -> bool {
        self.listens
    }

    /// How long the manager waits for a sign of life before it restarts us; `None` when it does not.
    #[must_use]
    pub const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// `READY=1`: the start is over.
    pub fn ready(&self, status: &str) {
        self.ready.store(true, Ordering::Relaxed);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// `STATUS=`: one line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(&one_line(status))]);
    }

    /// `RELOADING=1`, with the time that systemd wants since version 253. Nothing before the start is over: the `READY=1`
    /// that has to follow would say that it is.
    pub fn reloading(&self) {
        if self.ready.load(Ordering::Relaxed) {
            match NotifyState::monotonic_usec_now() {
                Ok(now) => self.tell(&[NotifyState::Reloading, now]),
                Err(_) => self.tell(&[NotifyState::Reloading]),
            }
        }
    }

    /// `READY=1`: the reload is over.
    pub fn reloaded(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.tell(&[NotifyState::Ready]);
        }
    }

    /// `STOPPING=1`: the drain begins.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }

    /// `WATCHDOG=1`: a sign of life.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "systemd cannot be told how we are");
        }
    }
}

/// A line break would begin another message: the text may quote others.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(variables: &[(&str, &str)]) -> Notifier {
        Notifier::new(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn nobody_listens_without_a_socket() {
        let quiet = notifier(&[("WATCHDOG_USEC", "1000000")]);
        assert!(!quiet.listens() && quiet.watchdog().is_none());
        quiet.ready("nobody hears this");
    }

    #[test]
    fn a_status_is_no_message_of_its_own() {
        assert_eq!(one_line("waiting\nREADY=1"), "waiting READY=1");
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let socket = ("NOTIFY_SOCKET", "/run/systemd/notify");
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(notifier(&[socket, ("WATCHDOG_USEC", "1000000")]).watchdog(), second);
        assert_eq!(notifier(&[socket, ("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", &own)]).watchdog(), second);
        assert_eq!(notifier(&[socket, ("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "1")]).watchdog(), None);
        assert_eq!(notifier(&[socket, ("WATCHDOG_USEC", "0")]).watchdog(), None);
    }
}
