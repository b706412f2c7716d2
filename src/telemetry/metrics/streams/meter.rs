//! Counts for one stream.

use std::{sync::OnceLock, time::Duration};

use super::{
    Handles, Mismatch, StreamMetrics, Suppressed,
    labels::{Closing, Kind},
};
use crate::telemetry::metrics::waits::Waiting;

/// Counts for one stream; its end is counted when it is dropped.
#[derive(Debug)]
pub struct StreamMeter {
    metrics: StreamMetrics,
    at: usize,
    waiting: Waiting,
    code: &'static str,
}

impl StreamMeter {
    /// `at` is the place of its kind among the handles.
    pub(super) fn new(metrics: StreamMetrics, at: usize) -> Self {
        Self { metrics, at, waiting: Waiting::default(), code: "none" }
    }

    /// A request came in.
    pub fn request(&self) {
        self.with(|handles| handles.requests.inc());
    }

    /// It was no plain answer.
    pub fn mismatch(&self, what: Mismatch) {
        self.with(|handles| match what {
            Mismatch::Stale => handles.stale.inc(),
            Mismatch::Repeated => handles.repeated.inc(),
        });
    }

    /// A response of this many bytes was handed to the connection.
    pub fn response(&self, bytes: usize) {
        self.with(|handles| {
            handles.responses.inc();
            handles.bytes.inc_by(bytes as u64)
        });
    }

    /// The response brought an update, this long after the source had it. `held`: it waited for its turn in a rollout.
    pub fn pushed(&self, since_update: Duration, held: bool) {
        self.with(|handles| if held { &handles.held } else { &handles.direct }.observe(since_update));
    }

    /// A response could be saved.
    pub fn suppressed(&self, why: Suppressed) {
        self.with(|handles| match why {
            Suppressed::Unchanged => handles.unchanged.inc(),
            Suppressed::Resumed => handles.resumed.inc(),
        });
    }

    /// The client took a response, this long after it was sent.
    pub fn acked(&self, latency: Duration) {
        self.with(|handles| {
            handles.acks.inc();
            handles.push_to_ack.observe(latency);
        });
    }

    /// The client rejected a response.
    pub fn nacked(&self) {
        self.with(|handles| handles.nacks.inc());
    }

    /// The stream now waits for this many names.
    pub fn waiting(&mut self, names: usize) {
        self.waiting.set(&self.metrics.0.waits, names as u64);
    }

    /// The server ends the stream with this gRPC status.
    pub fn ended(&mut self, code: &'static str) {
        self.code = code;
    }

    fn with<R>(&self, count: impl FnOnce(&Handles) -> R) {
        if let Some(handles) = self.metrics.0.handles.get(self.at).and_then(OnceLock::get) {
            count(handles);
        }
    }
}

impl Drop for StreamMeter {
    fn drop(&mut self) {
        self.waiting(0);
        self.with(|handles| {
            handles.open.dec();
            let Kind { service, variant, peer } = handles.kind;
            self.metrics.0.closed.get_or_create(&Closing { service, variant, peer, code: self.code }).inc();
        });
    }
}
