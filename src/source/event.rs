//! What happens to identities, as typed events: a library user subscribes to them, `tracing` logs each under a stable
//! name (its `event` field, one of [`RenewalEvent::NAMES`]).

mod log;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use super::{ErrorKind, failover::SwitchReason};
use crate::{
    identity::{JwtRequest, SpiffeId, TrustDomain},
    telemetry::metrics::SourceMetrics,
};
use log::log;

/// One outcome of the renewal engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewalEvent {
    /// The source delivered usable data, for the first time or after it was down.
    SourceUp,
    /// Of several sources another one is in service now. What it says replaces what the one before said, as a whole.
    SourceSwitched {
        /// The [name](super::Source::name) of the one before; at the start, of the preferred one.
        from: Arc<str>,
        /// The name of the one in service.
        to: Arc<str>,
        /// Why.
        reason: SwitchReason,
    },
    /// The session with a source that is not in service ended.
    StandbyDown {
        /// Its [name](super::Source::name).
        source: Arc<str>,
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Its failures in a row, this one included.
        failures: u32,
    },
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
    /// A new JWT-SVID is in service.
    JwtRenewed {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// A JWT-SVID could not be had, or was refused. The one in service stays there until its end.
    JwtRenewalFailed {
        /// What was asked for.
        request: JwtRequest,
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures of this request in a row, this one included.
        failures: u32,
    },
    /// Less than a quarter of a JWT-SVID's life is left and no renewal came.
    JwtExpiring {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// A JWT-SVID's life is over and no renewal came: clients have an empty one now.
    JwtExpired {
        /// Whose.
        spiffe_id: SpiffeId,
        /// For whom, as it was asked for.
        audience: BTreeSet<String>,
        /// The end of its life.
        not_after: SystemTime,
    },
    /// The source says that this JWT-SVID is not granted any more, and the grace time is over: clients have an empty one.
    JwtWithdrawn {
        /// What was asked for.
        request: JwtRequest,
        /// The source's reason.
        reason: Arc<str>,
    },
    /// Other keys than before verify a trust domain's JWT-SVIDs.
    JwtKeysChanged {
        /// Which domain.
        trust_domain: TrustDomain,
        /// Keys that are new.
        added: usize,
        /// Keys that are gone.
        removed: usize,
    },
    /// The JWT keys could not be had, or were refused. Those that are known stay.
    JwtKeysFailed {
        /// What the failure means.
        kind: ErrorKind,
        /// The failure with its causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
}

impl RenewalEvent {
    /// Every name that [`RenewalEvent::name`] returns, and so every value of the log field `event`.
    pub const NAMES: [&'static str; 19] = [
        "source_up",
        "source_down",
        "source_switched",
        "standby_down",
        "svid_renewed",
        "identity_unchanged",
        "renewal_failed",
        "svid_expiring",
        "svid_expired",
        "trust_changed",
        "identity_denied",
        "identity_withdrawn",
        "jwt_renewed",
        "jwt_renewal_failed",
        "jwt_expiring",
        "jwt_expired",
        "jwt_withdrawn",
        "jwt_keys_changed",
        "jwt_keys_failed",
    ];

    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SourceUp => "source_up",
            Self::SourceDown { .. } => "source_down",
            Self::SourceSwitched { .. } => "source_switched",
            Self::StandbyDown { .. } => "standby_down",
            Self::Renewed { .. } => "svid_renewed",
            Self::Unchanged => "identity_unchanged",
            Self::RenewalFailed { .. } => "renewal_failed",
            Self::Expiring { .. } => "svid_expiring",
            Self::Expired { .. } => "svid_expired",
            Self::TrustChanged { .. } => "trust_changed",
            Self::Denied { .. } => "identity_denied",
            Self::Withdrawn { .. } => "identity_withdrawn",
            Self::JwtRenewed { .. } => "jwt_renewed",
            Self::JwtRenewalFailed { .. } => "jwt_renewal_failed",
            Self::JwtExpiring { .. } => "jwt_expiring",
            Self::JwtExpired { .. } => "jwt_expired",
            Self::JwtWithdrawn { .. } => "jwt_withdrawn",
            Self::JwtKeysChanged { .. } => "jwt_keys_changed",
            Self::JwtKeysFailed { .. } => "jwt_keys_failed",
        }
    }
}

/// Hands events to subscribers and to the log.
#[derive(Debug)]
pub(super) struct Reporter {
    events: broadcast::Sender<RenewalEvent>,
    metrics: SourceMetrics,
    last_failure: Option<Arc<str>>,
    repeats: u32,
}

/// How metrics spell the failures of sessions: each [`ErrorKind`], and messages that were refused.
const FAILURES: [&str; 4] =
    [ErrorKind::Transient.as_str(), ErrorKind::NotEntitled.as_str(), ErrorKind::Misconfigured.as_str(), BAD_MESSAGE];
pub(super) const BAD_MESSAGE: &str = "bad_message";

/// Equal failures in a row that are logged as they deserve; later ones are for debugging.
const LOUD_REPEATS: u32 = 3;

impl Reporter {
    pub(super) fn new(capacity: usize) -> Self {
        let metrics = SourceMetrics::new(&FAILURES, &RenewalEvent::NAMES);
        Self { events: broadcast::Sender::new(capacity), metrics, last_failure: None, repeats: 0 }
    }

    /// A second one, for those who follow the first.
    pub(super) fn beside(&self) -> Self {
        Self { events: self.events.clone(), metrics: self.metrics.clone(), last_failure: None, repeats: 0 }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<RenewalEvent> {
        self.events.subscribe()
    }

    /// What is counted about the source.
    pub(super) fn metrics(&self) -> &SourceMetrics {
        &self.metrics
    }

    /// Counts the events that the slowest subscriber has not taken yet.
    pub(super) fn depth(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let events = self.events.clone();
        move || events.len()
    }

    pub(super) fn report(&mut self, event: RenewalEvent) {
        self.metrics.event(event.name());
        log(&event, self.is_loud(&event));
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// Whether a failure is news. A misconfiguration always is: it cannot heal by itself, and is retried slowly.
    fn is_loud(&mut self, event: &RenewalEvent) -> bool {
        let error = match event {
            RenewalEvent::SourceDown { kind: ErrorKind::Misconfigured, .. } => return true,
            // Many requests fail for one reason, so each counts for itself.
            RenewalEvent::JwtRenewalFailed { kind, failures, .. }
            | RenewalEvent::JwtKeysFailed { kind, failures, .. } => {
                return *kind == ErrorKind::Misconfigured || *failures <= LOUD_REPEATS;
            }
            // Several may be down for different reasons, so each counts for itself.
            RenewalEvent::StandbyDown { failures, .. } => return *failures == 1,
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
}
