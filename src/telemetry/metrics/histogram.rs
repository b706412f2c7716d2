//! A histogram of durations made of atomics: that of the library takes a lock for each observation.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Upper bounds in microseconds: from a push over a Unix socket to a client that is nearly lost.
const BOUNDS: [u64; 14] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 10_000_000];

/// A histogram in seconds. Clones are the same histogram.
#[derive(Clone, Debug, Default)]
pub(super) struct Durations(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// One a bound, not cumulative.
    buckets: [AtomicU64; BOUNDS.len()],
    beyond: AtomicU64,
    micros: AtomicU64,
}

impl Durations {
    /// Counts one duration.
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| *bound < micros);
        self.0.buckets.get(at).unwrap_or(&self.0.beyond).fetch_add(1, Ordering::Relaxed);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut buckets: Vec<(f64, u64)> = BOUNDS
            .iter()
            .zip(&self.0.buckets)
            .map(|(bound, count)| (Duration::from_micros(*bound).as_secs_f64(), read(count)))
            .collect();
        buckets.push((f64::INFINITY, read(&self.0.beyond)));
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(read(&self.0.micros)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    #[test]
    fn bounds_are_included_and_counts_cumulative() {
        let durations = Durations::default();
        for micros in [1, 100, 101, 20_000_000] {
            durations.observe(Duration::from_micros(micros));
        }
        let mut registry = Registry::default();
        registry.register("d", "D", durations);
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "d_bucket{le=\"0.0001\"} 2\n",
            "d_bucket{le=\"0.00025\"} 3\n",
            "d_bucket{le=\"10.0\"} 3\n",
            "d_bucket{le=\"+Inf\"} 4\n",
            "d_count 4\n",
            "d_sum 20.000202\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
