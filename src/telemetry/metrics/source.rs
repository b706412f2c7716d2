//! What the source of identities does.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::SystemTime,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// The metrics of the renewal engine. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    up: Gauge,
    last_update: Gauge<f64, AtomicU64>,
    failures_in_a_row: Gauge,
    failures: Family<Kind, Counter>,
    renewals: Family<Named, Counter>,
    active: Family<Source, Gauge>,
    refused: Family<Kind, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    event: &'static str,
}

/// Sources are named by the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: Arc<str>,
}

impl SourceMetrics {
    /// Metrics that begin at zero for these kinds of failures and these events, so that the first one is an increase.
    #[must_use]
    pub fn new<'a>(kinds: impl IntoIterator<Item = &'a &'static str>, events: &[&'static str]) -> Self {
        let metrics = Self::default();
        for kind in kinds {
            drop(metrics.0.failures.get_or_create(&Kind { kind }));
        }
        for event in events {
            drop(metrics.0.renewals.get_or_create(&Named { event }));
        }
        metrics
    }

    /// The source gave something usable.
    pub fn updated(&self, at: SystemTime) {
        self.0.up.set(1);
        self.0.last_update.set(seconds(at));
        self.0.failures_in_a_row.set(0);
    }

    /// The identities of this source are in service from now on.
    pub fn active(&self, name: &Arc<str>) {
        // Nothing asks for the others: the one before is the only other that may stand at 1.
        self.0.active.clear();
        self.0.active.get_or_create(&Source { source: name.clone() }).set(1);
    }

    /// So many things of each kind are left out of what is served.
    pub fn refused(&self, counts: impl IntoIterator<Item = (&'static str, usize)>) {
        for (kind, count) in counts {
            self.0.refused.get_or_create(&Kind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A session failed in this way, as the last of so many in a row.
    pub fn failed(&self, kind: &'static str, in_a_row: u32) {
        self.0.up.set(0);
        self.0.failures.get_or_create(&Kind { kind }).inc();
        self.0.failures_in_a_row.set(i64::from(in_a_row));
    }

    /// The renewal engine reported this.
    pub fn event(&self, event: &'static str) {
        self.0.renewals.get_or_create(&Named { event }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let it = &*self.0;
        let help = "Whether a session with the source is open and has given something usable";
        registry.register("source_up", help, it.up.clone());
        let help = "When the source last gave something usable, changed or not; 0 before the first time";
        registry.register_with_unit("source_last_update_timestamp", help, Unit::Seconds, it.last_update.clone());
        let help = "Sessions that failed since the source last gave something usable";
        registry.register("source_consecutive_failures", help, it.failures_in_a_row.clone());
        registry.register("source_active", "The source whose identities are in service", it.active.clone());
        let help = "Things that the source sent and that are left out of what is served, by what they are";
        registry.register("refused_items", help, it.refused.clone());
        registry.register("source_failures", "Sessions that failed, by what it means", it.failures.clone());
        registry.register("renewal_events", "What happened to identities, by event", it.renewals.clone());
    }
}

/// Unix time with fractions.
pub(super) fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
