//! Metrics: counted where things happen, rendered when somebody asks.
//!
//! Each part of the program owns a group ([`StreamMetrics`], [`RolloutMetrics`], [`SourceMetrics`], ...) and counts with
//! plain atomics on handles that were resolved before; nothing waits for a scrape. [`Parts::exposition`] joins the
//! groups. Labels have few values, all of them ours: never a node, a peer or a name that a client asked for.
//! `docs/metrics.md` lists them all, and a test compares it with this.

mod connections;
mod histogram;
mod identity;
mod lines;
mod outcomes;
mod process;
mod readiness;
mod rollout;
mod source;
mod streams;
mod waits;

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{gauge::ConstGauge, info::Info},
    registry::Registry,
};
use tokio::sync::watch;

use crate::{
    identity::{Availability, JwtSnapshot, Withdrawn},
    lifecycle::Readiness,
    telemetry::logs,
};

pub use connections::ConnectionMetrics;
pub use outcomes::{HttpMetrics, MissedEvents, Outcomes};
pub use rollout::RolloutMetrics;
pub use source::SourceMetrics;
pub use streams::{ConnectionMeter, Mismatch, PeerClass, StreamMeter, StreamMetrics, Suppressed};
pub use waits::Waits;

/// How [`Exposition::render`] is to be labelled over HTTP.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many things wait in a queue right now.
pub type Depth = Box<dyn Fn() -> usize + Send + Sync>;

/// Which identities the source lists no longer, and how many clients have each right now.
pub type StillHeld = Box<dyn Fn() -> Vec<(Withdrawn, usize)> + Send + Sync>;

/// Every group of a running program.
pub struct Parts {
    /// What happens on streams.
    pub streams: StreamMetrics,
    /// What is published to them.
    pub rollout: RolloutMetrics,
    /// What the source does.
    pub source: SourceMetrics,
    /// The identities held.
    pub identities: watch::Receiver<Availability>,
    /// The tokens held.
    pub tokens: watch::Receiver<Arc<JwtSnapshot>>,
    /// Identities that the source lists no longer, and how many clients still have each.
    pub withdrawn: StillHeld,
    /// What readiness waits for.
    pub readiness: Readiness,
    /// What becomes of callbacks.
    pub callbacks: Outcomes,
    /// What becomes of files.
    pub outputs: Outcomes,
    /// What becomes of new configurations.
    pub reloads: Outcomes,
    /// Requests for pages and documents.
    pub http: HttpMetrics,
    /// Connections that there was no room for.
    pub connections: ConnectionMetrics,
    /// Events that somebody was too slow to hear.
    pub missed: MissedEvents,
    /// What this process logs with, if it does by itself.
    pub logs: Option<logs::Control>,
    /// Queues of events: events that the slowest listener has not seen yet.
    pub queues: Vec<(&'static str, Depth)>,
}

/// All metrics, ready to be rendered.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Parts {
    /// Joins the groups.
    #[must_use]
    pub fn exposition(self) -> Exposition {
        let mut root = Registry::default();
        root.register_collector(Box::new(process::Process));
        let ours = root.sub_registry_with_prefix("spiffe_sds");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        ours.register("build", "Which build is running", Info::new(version));
        self.streams.register(ours);
        self.rollout.register(ours);
        self.source.register(ours);
        let help = "Attempts of callbacks by result; dropped are events that had none";
        let good = "When the callback last did what it shall; 0 before the first time";
        self.callbacks.register(ours, "callbacks", help, "callback", good);
        let help = "Attempts to replace files by result";
        let good = "When the files were last what they should be; 0 before the first time";
        self.outputs.register(ours, "outputs", help, "output", good);
        let help = "Configurations that were read while the program ran, by what became of them";
        let good = "When a new configuration was last put into force; 0 before the first time";
        self.reloads.register(ours, "reloads", help, "reload", good);
        self.http.register(ours);
        self.connections.register(ours);
        self.missed.register(ours);
        ours.register_collector(Box::new(identity::Identities::new(self.identities, self.tokens, self.withdrawn)));
        ours.register_collector(Box::new(readiness::Conditions(self.readiness)));
        ours.register_collector(Box::new(lines::Lines(self.logs)));
        ours.register_collector(Box::new(Queues(self.queues)));
        Exposition(root)
    }
}

impl Exposition {
    /// The OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        // What 10,000 streams look like is as long as what one does.
        let mut text = String::with_capacity(32 << 10);
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Queues(Vec<(&'static str, Depth)>);

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Events that the slowest listener has not taken yet";
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut family = encoder.encode_descriptor("event_queue_depth", help, None, kind)?;
        for (queue, depth) in &self.0 {
            let labels = [("queue", *queue)];
            let depth = i64::try_from(depth()).unwrap_or(i64::MAX);
            ConstGauge::new(depth).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
