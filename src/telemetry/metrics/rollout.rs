//! What is published to streams.

use std::sync::Arc;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The metrics of the publisher. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct RolloutMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    published: Counter,
    failed: Counter,
    holds: Counter,
    holding: Gauge,
    secrets: Gauge,
}

impl RolloutMetrics {
    /// A state with this many secrets was given to streams.
    pub fn published(&self, secrets: usize) {
        self.0.published.inc();
        self.0.secrets.set(i64::try_from(secrets).unwrap_or(i64::MAX));
    }

    /// A state could not be encoded.
    pub fn failed(&self) {
        self.0.failed.inc();
    }

    /// Whether the next step of a rollout waits for its turn; a wait that begins is counted.
    pub fn hold(&self, holding: bool) {
        if holding {
            self.0.holds.inc();
        }
        self.0.holding.set(i64::from(holding));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let it = &*self.0;
        registry.register("publications", "States given to streams, each step of a rollout", it.published.clone());
        let help = "States that could not be encoded; the last good one stays";
        registry.register("publication_failures", help, it.failed.clone());
        registry.register("rollout_holds", "Waits between two steps of a rollout", it.holds.clone());
        let help = "Whether the next step of a rollout waits now";
        registry.register("rollout_holding", help, it.holding.clone());
        registry.register("secrets", "Secrets that can be asked for, aliases not counted", it.secrets.clone());
    }
}
