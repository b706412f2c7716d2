//! What is published to streams.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::histogram::Durations;

/// The metrics of the publisher. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct RolloutMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    published: Counter,
    failed: Counter,
    holds: Family<For, Counter>,
    holding: Gauge,
    waited_for: Gauge,
    to_last_ack: Durations,
    timeouts: Counter,
    secrets: Gauge,
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct For {
    reason: &'static str,
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

    /// A step of a rollout has to wait for this reason.
    pub fn holds(&self, reason: &'static str) {
        self.0.holds.get_or_create(&For { reason }).inc();
    }

    /// Whether a step waits now.
    pub fn holding(&self, holding: bool) {
        self.0.holding.set(i64::from(holding));
    }

    /// So many streams have not acknowledged the oldest step that not all have.
    pub fn waits_for(&self, streams: usize) {
        self.0.waited_for.set(i64::try_from(streams).unwrap_or(i64::MAX));
    }

    /// Every stream has acknowledged a step, the last one this long after it was published.
    pub fn acked(&self, latency: Duration) {
        self.0.to_last_ack.observe(latency);
    }

    /// So many streams have not acknowledged a step in time.
    pub fn timed_out(&self, streams: usize) {
        self.0.timeouts.inc_by(streams as u64);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let it = &*self.0;
        registry.register("publications", "States given to streams, each step of a rollout", it.published.clone());
        let help = "States that could not be encoded; the last good one stays";
        registry.register("publication_failures", help, it.failed.clone());
        for reason in ["certificates", "withdrawal", "returning"] {
            it.holds.get_or_create_owned(&For { reason });
        }
        registry.register("rollout_holds", "Waits between two steps of a rollout, by what waits", it.holds.clone());
        let help = "Streams that have not acknowledged the oldest step of a rollout that not all have";
        registry.register("rollout_streams_waited_for", help, it.waited_for.clone());
        let help = "From a step of a rollout to the last ACK of it";
        registry.register_with_unit("rollout_step_to_last_ack", help, Unit::Seconds, it.to_last_ack.clone());
        let help = "Streams that did not acknowledge a step of a rollout in time";
        registry.register("rollout_timeouts", help, it.timeouts.clone());
        let help = "Whether the next step of a rollout waits now";
        registry.register("rollout_holding", help, it.holding.clone());
        registry.register("secrets", "Secrets that can be asked for, aliases not counted", it.secrets.clone());
    }
}
