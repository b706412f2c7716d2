//! What every stream needs, shared by all of them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{broadcast, watch};

use super::{
    StreamEvent, Streams,
    budget::Budgets,
    inbound::Bounds,
    live::Settings,
    publish::{Feed, Feeds},
};
use crate::{
    identity::FileStore,
    listen::peer::PeerStreams,
    secret::{Flavour, NodeNames, table},
    telemetry::{journal::Journal, metrics::StreamMetrics, traces::Traces},
    xds::{Node, Origin, ResourceName},
};

/// What every stream needs, shared by all of them.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) origin: Arc<Origin>,
    pub(super) feeds: Feeds,
    pub(super) files: Arc<FileStore>,
    pub(super) peers: PeerStreams,
    /// What clients make us hold.
    pub(super) budgets: Budgets,
    pub(super) events: broadcast::Sender<StreamEvent>,
    pub(super) metrics: StreamMetrics,
    pub(super) unusable: Unusable,
    /// The names of clients that do not say who they are.
    pub(super) anonymous: Arc<NodeNames>,
    pub(super) streams: Streams,
    pub(super) journal: Journal,
    /// Set before the first stream, or never.
    pub(super) traces: OnceLock<Traces>,
}

impl Shared {
    /// What a request may cost.
    pub(super) fn bounds(&self) -> Bounds {
        let limits = self.settings.limits();
        Bounds { bytes: limits.request_bytes as usize, patience: limits.request_timeout }
    }

    /// The same for a client that has not said, or never will say, who it is.
    pub(super) fn admit_anyone(&self) -> (watch::Receiver<Feed>, Arc<NodeNames>) {
        let live = self.settings.now();
        (self.feeds.of(Flavour::of(&Node::default(), &live.secrets)), self.anonymous.clone())
    }

    /// What the client that calls itself this follows, and the names that only it has.
    pub(super) fn admit(&self, node: &Node) -> (watch::Receiver<Feed>, Arc<NodeNames>) {
        if *node == Node::default() {
            return self.admit_anyone();
        }
        let live = self.settings.now();
        let names = live.secrets.names.bind(node, &live.secrets.naming);
        for unusable in &names.unusable {
            self.unusable.say(node, unusable);
        }
        (self.feeds.of(Flavour::of(node, &live.secrets)), Arc::new(names))
    }
}

/// Whether it was said of an entry of the name table that it means nothing for some node.
#[derive(Debug)]
pub(super) struct Unusable(Vec<AtomicBool>);

impl Unusable {
    /// For a name table with so many templates.
    pub(super) fn new(templates: usize) -> Self {
        Self(std::iter::repeat_with(AtomicBool::default).take(templates).collect())
    }

    /// An entry means nothing for this node; a warning for the first one.
    fn say(&self, node: &Node, unusable: &table::Unusable) {
        let (name, reason) = (unusable.name.as_str(), unusable.reason.to_string());
        let node = ResourceName::new(&node.id);
        let first = self.0.get(unusable.template).is_some_and(|said| !said.swap(true, Ordering::Relaxed));
        if first {
            tracing::warn!(name, %node, reason, "entry of the name table means nothing for a client");
        } else {
            tracing::debug!(name, %node, reason, "entry of the name table means nothing for a client");
        }
    }
}
