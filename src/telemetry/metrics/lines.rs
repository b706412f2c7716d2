//! What became of log lines.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::telemetry::logs::Control;

/// Lines that were not written; none where this process does not log by itself.
#[derive(Debug)]
pub(super) struct Lines(pub(super) Option<Control>);

impl Collector for Lines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Log lines that were not written: unread, because nobody read those before them, or repeated, because there were too many of their kind";
        let mut family = encoder.encode_descriptor("log_lines_dropped", help, None, MetricType::Counter)?;
        let dropped = self.0.as_ref().map_or([("unread", 0), ("repeated", 0)], Control::dropped);
        for (reason, lines) in dropped {
            let labels = [("reason", reason)];
            ConstCounter::new(lines).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
