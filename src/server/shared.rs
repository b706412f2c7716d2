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
    live::{Live, Settings},
    publish::{Acks, Feed, Feeds},
    said::Said,
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
    /// Names of which it was said that clients are not given them.
    pub(super) said: Said,
    /// How far each stream is in a roll-out.
    pub(super) acks: Acks,
    pub(super) journal: Journal,
    /// Set before the first stream, or never.
    pub(super) traces: OnceLock<Traces>,
}

/// What a client follows, all of it by one state of the configuration.
pub(super) struct Admission {
    pub(super) feed: watch::Receiver<Feed>,
    /// The flavour of the feed.
    pub(super) flavour: Flavour,
    /// The client's flavours: by default, and with the SPIFFE validator disabled.
    pub(super) flavours: (Flavour, Flavour),
    /// Names that only this client has.
    pub(super) names: Arc<NodeNames>,
}

impl Shared {
    /// What a request may cost.
    pub(super) fn bounds(&self) -> Bounds {
        let limits = self.settings.limits();
        Bounds { bytes: limits.request_bytes as usize, patience: limits.request_timeout }
    }

    /// The same for a client that has not said, or never will say, who it is.
    pub(super) fn admit_anyone(&self, live: &Live) -> Admission {
        self.admission(live, &Node::default(), self.anonymous.clone())
    }

    /// What the client that calls itself this follows, and the names that only it has.
    pub(super) fn admit(&self, live: &Live, node: &Node) -> Admission {
        if *node == Node::default() {
            return self.admit_anyone(live);
        }
        let names = live.secrets.names.bind(node, &live.secrets.naming);
        for unusable in &names.unusable {
            self.unusable.say(node, unusable);
        }
        self.admission(live, node, Arc::new(names))
    }

    fn admission(&self, live: &Live, node: &Node, names: Arc<NodeNames>) -> Admission {
        let flavours = Flavour::either(node);
        let flavour = live.flavour(flavours);
        Admission { feed: self.feeds.of(flavour), flavour, flavours, names }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, EVENTS_KEPT, live, publish::Publisher},
        *,
    };
    use crate::{
        secret::{self, SecretCatalog},
        xds::SECRET_TYPE_URL,
    };

    /// A stream whose feed and flavour were of two configurations would follow the wrong one for good: it changes over
    /// only when its flavour is another.
    #[test]
    fn the_feed_is_that_of_the_flavour_though_a_reload_comes_in_between() {
        let secrets = secret::Config::default();
        let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
        let (steering, settings) = live::channel(Config::default(), secrets.clone());
        let catalog = SecretCatalog::new(secrets.clone(), origin.clone());
        let (publisher, feeds) = Publisher::new(catalog, &secrets, Streams::default());
        let metrics = StreamMetrics::default();
        let shared = Shared {
            budgets: Budgets::new(settings.clone(), metrics.clone()),
            settings,
            origin,
            feeds,
            files: Arc::new(FileStore::new()),
            peers: PeerStreams::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            metrics,
            unusable: Unusable::new(secrets.names.templates()),
            anonymous: Arc::new(secrets.names.bind(&Node::default(), &secrets.naming)),
            streams: Streams::default(),
            said: Said::default(),
            acks: publisher.acks().clone(),
            journal: Journal::default(),
            traces: OnceLock::new(),
        };
        let named = Node { id: "envoy".to_owned(), ..Node::default() };
        let before = shared.settings.now();
        steering.apply(Config::default(), secret::Config { disable_spiffe_cert_validation: true, ..secrets });
        let after = shared.settings.now();
        for (live, flavour) in [(before, Flavour::Spiffe), (after, Flavour::Plain)] {
            for node in [&Node::default(), &named] {
                let admission = shared.admit(&live, node);
                assert_eq!(admission.flavour, flavour);
                assert!(admission.feed.same_channel(&shared.feeds.of(flavour)));
                assert_eq!(admission.flavours, (Flavour::Spiffe, Flavour::Plain));
            }
        }
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
