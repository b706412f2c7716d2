//! Where events go: subscribers, the log, and what is counted.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{broadcast, watch};

use super::{RenewalEvent, log::log};
use crate::{
    identity::{IdentitySnapshot, Refusal},
    source::{
        ErrorKind,
        caveats::{self, Caveat},
        refused::{Refused, Scope, counts},
    },
    telemetry::metrics::SourceMetrics,
};

/// Hands events to subscribers and to the log.
#[derive(Debug)]
pub(in crate::source) struct Reporter {
    events: broadcast::Sender<RenewalEvent>,
    metrics: SourceMetrics,
    refused: Refused,
    caveats: BTreeSet<Caveat>,
    last_failure: Option<Arc<str>>,
    repeats: u32,
}

/// How metrics spell the failures of sessions: each [`ErrorKind`], and messages that were refused.
const FAILURES: [&str; 4] =
    [ErrorKind::Transient.as_str(), ErrorKind::NotEntitled.as_str(), ErrorKind::Misconfigured.as_str(), BAD_MESSAGE];
pub(in crate::source) const BAD_MESSAGE: &str = "bad_message";

/// Equal failures in a row that are logged as they deserve; later ones are for debugging.
const LOUD_REPEATS: u32 = 3;

impl Reporter {
    pub(in crate::source) fn new(capacity: usize) -> Self {
        let metrics = SourceMetrics::new(&FAILURES, &RenewalEvent::NAMES);
        metrics.refused(counts(&[]));
        let events = broadcast::Sender::new(capacity);
        Self { events, metrics, refused: Refused::default(), caveats: BTreeSet::new(), last_failure: None, repeats: 0 }
    }

    /// A second one, for those who follow the first.
    pub(in crate::source) fn beside(&self) -> Self {
        let (events, metrics, refused) = (self.events.clone(), self.metrics.clone(), self.refused.clone());
        Self { events, metrics, refused, caveats: BTreeSet::new(), last_failure: None, repeats: 0 }
    }

    pub(in crate::source) fn subscribe(&self) -> broadcast::Receiver<RenewalEvent> {
        self.events.subscribe()
    }

    /// What is counted about the source.
    pub(in crate::source) fn metrics(&self) -> &SourceMetrics {
        &self.metrics
    }

    /// Counts the events that the slowest subscriber has not taken yet.
    pub(in crate::source) fn depth(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let events = self.events.clone();
        move || events.len()
    }

    /// What of the sources' answers is left out, now and as it changes.
    pub(in crate::source) fn refused(&self) -> watch::Receiver<Arc<[Refusal]>> {
        self.refused.watch()
    }

    /// From now on this is what is left out of the answers of `scope`; told where that is news.
    pub(in crate::source) fn refuse(&mut self, scope: Scope, refusals: &[Refusal]) {
        let news = self.refused.replace(scope, refusals);
        self.metrics.refused(counts(&self.refused.watch().borrow()));
        for event in news {
            self.report(event);
        }
    }

    /// This is in service from now on; says once what of it does not work with Envoy as it is.
    pub(in crate::source) fn caution(&mut self, snapshot: &IdentitySnapshot) {
        let caveats = caveats::of(snapshot);
        for Caveat { item, text } in caveats.difference(&self.caveats) {
            tracing::warn!(%item, reason = text, "served, but envoy cannot work with it as it is");
        }
        self.caveats = caveats;
    }

    pub(in crate::source) fn report(&mut self, event: RenewalEvent) {
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
                // One that worked before is asked again in seconds even if it refuses the request.
                return *failures <= LOUD_REPEATS || *kind == ErrorKind::Misconfigured && failures.is_power_of_two();
            }
            // Several may be down for different reasons, so each counts for itself.
            RenewalEvent::StandbyDown { failures, .. } => return *failures == 1,
            RenewalEvent::SourceDown { error, .. }
            | RenewalEvent::RenewalFailed { error, .. }
            | RenewalEvent::TrustDomainRefused { error, .. } => error,
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
