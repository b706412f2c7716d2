//! What happens to identities, as typed events: a library user subscribes to them, `tracing` logs each under a stable
//! name (its `event` field, one of [`RenewalEvent::NAMES`]).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use super::ErrorKind;
use crate::identity::{SpiffeId, TrustDomain};

/// One outcome of the renewal engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewalEvent {
    /// The source delivered usable data, for the first time or after it was down.
    SourceUp,
    /// The session with the source ended. What is in service stays there.
    SourceDown {
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// A new X.509-SVID is in service.
    Renewed {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// The source repeated what is in service already.
    Unchanged,
    /// A message was refused as a whole; what is in service stays there.
    RenewalFailed {
        /// What is wrong with the message, with causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// Less than a third of an SVID's life is left and no renewal came.
    Expiring {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// An SVID's life is over and no renewal came.
    Expired {
        /// Whose.
        spiffe_id: SpiffeId,
        /// Of the leaf, hexadecimal.
        serial: Arc<str>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// Other authorities than before vouch for a trust domain.
    TrustChanged {
        /// Which domain.
        trust_domain: TrustDomain,
        /// Authorities that are new.
        added: usize,
        /// Authorities that are gone.
        removed: usize,
    },
    /// The source says that this workload has no identity. SVIDs in service stay there for `grace`.
    Denied {
        /// The source's reason.
        reason: Arc<str>,
        /// How long SVIDs stay in service; `None` when there are none.
        grace: Option<Duration>,
    },
    /// The grace time is over: the SVIDs are out of service.
    Withdrawn {
        /// The source's reason.
        reason: Arc<str>,
    },
}

impl RenewalEvent {
    /// Every name that [`RenewalEvent::name`] returns, and so every value of the log field `event`.
    pub const NAMES: [&'static str; 10] = [
        "source_up",
        "source_down",
        "svid_renewed",
        "identity_unchanged",
        "renewal_failed",
        "svid_expiring",
        "svid_expired",
        "trust_changed",
        "identity_denied",
        "identity_withdrawn",
    ];

    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SourceUp => "source_up",
            Self::SourceDown { .. } => "source_down",
            Self::Renewed { .. } => "svid_renewed",
            Self::Unchanged => "identity_unchanged",
            Self::RenewalFailed { .. } => "renewal_failed",
            Self::Expiring { .. } => "svid_expiring",
            Self::Expired { .. } => "svid_expired",
            Self::TrustChanged { .. } => "trust_changed",
            Self::Denied { .. } => "identity_denied",
            Self::Withdrawn { .. } => "identity_withdrawn",
        }
    }
}

/// Hands events to subscribers and to the log.
#[derive(Debug)]
pub(super) struct Reporter {
    events: broadcast::Sender<RenewalEvent>,
    last_failure: Option<Arc<str>>,
    repeats: u32,
}

/// Equal failures in a row that are logged as they deserve; later ones are for debugging.
const LOUD_REPEATS: u32 = 3;

impl Reporter {
    pub(super) fn new(capacity: usize) -> Self {
        Self { events: broadcast::Sender::new(capacity), last_failure: None, repeats: 0 }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<RenewalEvent> {
        self.events.subscribe()
    }

    pub(super) fn report(&mut self, event: RenewalEvent) {
        log(&event, self.is_loud(&event));
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// Whether a failure is news. A misconfiguration always is: it cannot heal by itself, and is retried slowly.
    fn is_loud(&mut self, event: &RenewalEvent) -> bool {
        let error = match event {
            RenewalEvent::SourceDown { kind: ErrorKind::Misconfigured, .. } => return true,
            RenewalEvent::SourceDown { error, .. } | RenewalEvent::RenewalFailed { error, .. } => error,
            RenewalEvent::SourceUp => {
                self.last_failure = None;
                return true;
            }
            _ => return true,
        };
        if self.last_failure.as_ref() == Some(error) {
            self.repeats = self.repeats.saturating_add(1);
        } else {
            self.last_failure = Some(error.clone());
            self.repeats = 1;
        }
        self.repeats <= LOUD_REPEATS
    }
}

fn log(event: &RenewalEvent, loud: bool) {
    let name = event.name();
    match event {
        RenewalEvent::SourceUp => tracing::info!(event = name, "identity source is up"),
        RenewalEvent::SourceDown { kind, error, failures } => {
            let kind = kind.as_str();
            match (loud, kind) {
                (false, _) => tracing::debug!(event = name, kind, %error, failures, "identity source is down"),
                (_, "misconfigured") => {
                    tracing::error!(event = name, kind, %error, failures, "identity source is down");
                }
                _ => tracing::warn!(event = name, kind, %error, failures, "identity source is down"),
            }
        }
        RenewalEvent::Renewed { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::info!(event = name, %spiffe_id, %serial, %not_after, "svid renewed");
        }
        RenewalEvent::Unchanged => tracing::debug!(event = name, "identity source repeated the same state"),
        RenewalEvent::RenewalFailed { error, failures } if loud => {
            tracing::error!(event = name, %error, failures, "update refused, last good state kept");
        }
        RenewalEvent::RenewalFailed { error, failures } => {
            tracing::debug!(event = name, %error, failures, "update refused, last good state kept");
        }
        RenewalEvent::Expiring { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::warn!(event = name, %spiffe_id, %serial, %not_after, "svid expires soon and is not renewed");
        }
        RenewalEvent::Expired { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::error!(event = name, %spiffe_id, %serial, %not_after, "svid expired");
        }
        RenewalEvent::TrustChanged { trust_domain, added, removed } => {
            tracing::info!(event = name, %trust_domain, added, removed, "trust bundle changed");
        }
        RenewalEvent::Denied { reason, grace } => {
            let grace_s = grace.map(|grace| grace.as_secs_f64());
            tracing::warn!(event = name, %reason, grace_s, "no identity issued to this workload");
        }
        RenewalEvent::Withdrawn { reason } => {
            tracing::error!(event = name, %reason, "identity withdrawn after the grace time");
        }
    }
}

/// `format_rfc3339` refuses what lies before 1970 or after 9999; other sources than the Workload API may say that.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(error: &str) -> RenewalEvent {
        RenewalEvent::SourceDown { kind: ErrorKind::Transient, error: error.into(), failures: 1 }
    }

    #[test]
    fn equal_failures_are_news_three_times() {
        let mut reporter = Reporter::new(1);
        let loud: Vec<_> = (0..5).map(|_| reporter.is_loud(&down("a"))).collect();
        assert_eq!(loud, [true, true, true, false, false]);
        assert!(reporter.is_loud(&down("b")), "another failure is news");
        assert!(reporter.is_loud(&RenewalEvent::SourceUp));
        assert!(reporter.is_loud(&down("b")), "the same one after a recovery too");
    }

    #[test]
    fn misconfiguration_is_always_news() {
        let mut reporter = Reporter::new(1);
        let event = RenewalEvent::SourceDown { kind: ErrorKind::Misconfigured, error: "a".into(), failures: 1 };
        assert!((0..9).all(|_| reporter.is_loud(&event)));
    }

    #[test]
    fn odd_times_can_be_shown() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59Z");
    }
}
