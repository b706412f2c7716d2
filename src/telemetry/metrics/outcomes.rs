//! What becomes of things that happen beside the data path: callbacks, files, reloads, pages, events that were missed.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::source::seconds;

type Labels = Vec<(&'static str, Arc<str>)>;

/// Results of things that are done again and again, and when each last went well. Clones are the same metrics.
#[derive(Clone)]
pub struct Outcomes(Arc<Inner>);

struct Inner {
    /// The label that tells one from the other, if there are several.
    label: Option<&'static str>,
    counts: Family<Labels, Counter>,
    last_success: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl Outcomes {
    /// For things that `label` tells apart. What the values of that label are is the operator's choice, never a client's.
    #[must_use]
    pub fn by(label: &'static str) -> Self {
        Self::new(Some(label))
    }

    /// For one thing.
    #[must_use]
    pub fn of_one() -> Self {
        Self::new(None)
    }

    fn new(label: Option<&'static str>) -> Self {
        Self(Arc::new(Inner { label, counts: Family::default(), last_success: Family::default() }))
    }

    /// Begins at zero, so that the first one of each result is an increase.
    pub fn begin(&self, subject: &str, results: &[&'static str]) {
        for result in results {
            drop(self.0.counts.get_or_create(&self.labels(subject, Some(result))));
        }
        drop(self.0.last_success.get_or_create(&self.labels(subject, None)));
    }

    /// It had this result, so many times.
    pub fn count(&self, subject: &str, result: &'static str, times: u64) {
        self.0.counts.get_or_create(&self.labels(subject, Some(result))).inc_by(times);
    }

    /// It is as it should be now.
    pub fn good(&self, subject: &str, now: SystemTime) {
        self.0.last_success.get_or_create(&self.labels(subject, None)).set(seconds(now));
    }

    /// Registers both under the names `plural` and `singular_last_success_timestamp_seconds`.
    pub(super) fn register(&self, registry: &mut Registry, plural: &str, counts: &str, singular: &str, good: &str) {
        registry.register(plural, counts, self.0.counts.clone());
        let name = format!("{singular}_last_success_timestamp");
        registry.register_with_unit(name, good, Unit::Seconds, self.0.last_success.clone());
    }

    fn labels(&self, subject: &str, result: Option<&'static str>) -> Labels {
        let subject = self.0.label.map(|label| (label, Arc::from(subject)));
        subject.into_iter().chain(result.map(|result| ("result", Arc::from(result)))).collect()
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outcomes").field(&self.0.label).finish()
    }
}

/// Requests for pages and documents. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct HttpMetrics(Family<[(&'static str, &'static str); 2], Counter>);

impl HttpMetrics {
    /// Every value of the label `class`: of the status, or `broken` for a connection that ended by what the client sent,
    /// or did not send in time.
    pub const CLASSES: [&'static str; 5] = ["2xx", "3xx", "4xx", "5xx", "broken"];

    /// Begins at zero.
    pub fn begin(&self, endpoint: &'static str) {
        for class in Self::CLASSES {
            drop(self.0.get_or_create(&[("endpoint", endpoint), ("class", class)]));
        }
    }

    /// A request was answered with this status.
    pub fn answered(&self, endpoint: &'static str, status: u16) {
        let class = match status {
            ..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.0.get_or_create(&[("endpoint", endpoint), ("class", class)]).inc();
    }

    /// A connection broke.
    pub fn broken(&self, endpoint: &'static str) {
        self.0.get_or_create(&[("endpoint", endpoint), ("class", "broken")]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests for pages and documents, by class of the status; broken is a connection that ended by what its client sent";
        registry.register("http_requests", help, self.0.clone());
    }
}

/// Events that a part of the program was too slow to hear. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct MissedEvents(Family<[(&'static str, &'static str); 1], Counter>);

impl MissedEvents {
    /// Begins at zero.
    pub fn begin(&self, listener: &'static str) {
        drop(self.0.get_or_create(&[("listener", listener)]));
    }

    /// This listener missed so many.
    pub fn missed(&self, listener: &'static str, events: u64) {
        self.0.get_or_create(&[("listener", listener)]).inc_by(events);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Events that a part of the program was too slow to hear";
        registry.register("events_missed", help, self.0.clone());
    }
}
