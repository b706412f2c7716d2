//! What readiness waits for.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::lifecycle::{Condition, Readiness};

/// Each condition of readiness.
#[derive(Debug)]
pub(super) struct Conditions(pub(super) Readiness);

impl Collector for Conditions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let conditions = self.0.conditions();
        let ready = !conditions.iter().any(Condition::blocks);
        let metric = encoder.encode_descriptor("ready", "Whether every condition holds", None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(ready)).encode(metric)?;
        let help = "Whether this condition of readiness holds";
        let mut family = encoder.encode_descriptor("ready_condition", help, None, MetricType::Gauge)?;
        for condition in conditions.iter().filter(|condition| condition.required) {
            let labels = [("condition", condition.name)];
            ConstGauge::new(i64::from(condition.pending.is_none())).encode(family.encode_family(&labels)?)?;
        }
        let help = "Whether this condition does not hold, though the program is ready";
        let mut family = encoder.encode_descriptor("degraded", help, None, MetricType::Gauge)?;
        for condition in conditions.iter().filter(|condition| !condition.required) {
            let labels = [("condition", condition.name)];
            ConstGauge::new(i64::from(condition.degrades())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
