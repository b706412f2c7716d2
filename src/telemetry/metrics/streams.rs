//! What happens on connections and streams.

mod labels;
mod meter;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

use super::{histogram::Durations, waits::Waits};
use crate::xds::{Service, Variant};
use labels::{Budget, Closing, Fetch, Kind, Peer, Protocol, Push, Reason};
pub use meter::StreamMeter;

/// After this long without an answer a subscription counts as starved, unless configured otherwise.
const STARVED_AFTER: Duration = Duration::from_secs(30);

/// How a client reaches us; the only thing about it that becomes a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerClass {
    /// A Unix domain socket.
    Unix,
    /// TCP.
    Tcp,
}

/// Why a stream that could have been sent something was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppressed {
    /// What changed is nothing that the client asked for, or has already.
    Unchanged,
    /// The client came back with what it would have been sent.
    Resumed,
}

/// A request that is no plain answer to the last response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It answers a response that is no longer waited for.
    Stale,
    /// It asks for the same again, and gets it.
    Repeated,
}

/// The metrics of every stream. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub struct StreamMetrics(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Family<Kind, Gauge>,
    opened: Family<Kind, Counter>,
    closed: Family<Closing, Counter>,
    refused: Family<Peer, Counter>,
    requests: Family<Kind, Counter>,
    mismatches: Family<Reason, Counter>,
    responses: Family<Kind, Counter>,
    bytes: Family<Kind, Counter>,
    acks: Family<Kind, Counter>,
    nacks: Family<Kind, Counter>,
    suppressed: Family<Reason, Counter>,
    update_to_push: Family<Push, Durations>,
    push_to_ack: Family<Protocol, Durations>,
    fetches: Family<Fetch, Counter>,
    memory: Gauge,
    exhausted: Family<Budget, Counter>,
    connections: Family<Peer, Gauge>,
    connections_opened: Family<Peer, Counter>,
    waits: Waits,
    starved_after: OnceLock<Duration>,
    /// Resolved at the first stream of each kind: families take a lock to look a handle up.
    handles: [OnceLock<Handles>; 8],
}

/// The metrics of one kind of stream.
#[derive(Debug)]
struct Handles {
    kind: Kind,
    open: Gauge<i64, AtomicI64>,
    requests: Counter,
    stale: Counter,
    repeated: Counter,
    responses: Counter,
    bytes: Counter,
    acks: Counter,
    nacks: Counter,
    unchanged: Counter,
    resumed: Counter,
    direct: Durations,
    held: Durations,
    push_to_ack: Durations,
}

impl PeerClass {
    /// How labels spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
        }
    }
}

impl StreamMetrics {
    /// From when on a subscription that is not answered counts as starved. Only the first call counts.
    pub fn starved_after(&self, bound: Duration) {
        let _ = self.0.starved_after.set(bound);
    }

    /// What [`StreamMetrics::starved_after`] has said.
    #[must_use]
    pub fn starves_after(&self) -> Duration {
        self.0.starved_after.get().copied().unwrap_or(STARVED_AFTER)
    }

    /// A stream that begins now.
    #[must_use]
    pub fn open(&self, service: Service, variant: Variant, peer: PeerClass) -> StreamMeter {
        let at = usize::from(service == Service::Aggregated) << 2
            | usize::from(variant == Variant::Delta) << 1
            | usize::from(peer == PeerClass::Tcp);
        let kind = Kind { service: service.as_str(), variant: variant.as_str(), peer: peer.as_str() };
        let meter = StreamMeter::new(self.clone(), at);
        if let Some(slot) = self.0.handles.get(at) {
            slot.get_or_init(|| self.0.handles_of(kind.clone())).open.inc();
            self.0.opened.get_or_create(&kind).inc();
        }
        meter
    }

    /// A stream was not admitted.
    pub fn refused(&self, peer: PeerClass) {
        self.0.refused.get_or_create(&Peer { peer: peer.as_str() }).inc();
    }

    /// A question for what is there now was answered with this gRPC status; over REST it became an HTTP status.
    pub fn fetched(&self, api: &'static str, code: &'static str) {
        self.0.fetches.get_or_create(&Fetch { api, code }).inc();
    }

    /// Clients make us hold so many bytes more, or less.
    pub fn holds(&self, bytes: i64) {
        self.0.memory.inc_by(bytes);
    }

    /// Something was refused because `budget`, of one client (`peer`) or of all, has no room for it.
    pub fn exhausted(&self, budget: &'static str) {
        self.0.exhausted.get_or_create(&Budget { budget }).inc();
    }

    /// A connection that begins now.
    #[must_use]
    pub fn connect(&self, peer: PeerClass) -> ConnectionMeter {
        let label = Peer { peer: peer.as_str() };
        self.0.connections_opened.get_or_create(&label).inc();
        let open = self.0.connections.get_or_create_owned(&label);
        open.inc();
        ConnectionMeter(open)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let it = &*self.0;
        // Alerts ask how much these grow, and a series that begins with its first event has never grown.
        for (service, variant, peer) in kinds() {
            drop(it.nacks.get_or_create(&Kind { service, variant, peer }));
            drop(it.refused.get_or_create(&Peer { peer }));
        }
        registry.register("streams", "Streams that are open", it.open.clone());
        registry.register("streams_opened", "Streams that were opened", it.opened.clone());
        registry.register(
            "streams_closed",
            "Streams that ended, by gRPC status; none is a client that went away",
            it.closed.clone(),
        );
        let help = "Streams that were not admitted, because the peer had as many as it may, or there were as many as there may be";
        registry.register("streams_refused", help, it.refused.clone());
        registry.register("requests", "Requests on streams", it.requests.clone());
        let help = "Requests with a stale nonce, and requests for the same again";
        registry.register("request_mismatches", help, it.mismatches.clone());
        registry.register("responses", "Responses handed to connections", it.responses.clone());
        let help = "Size of the responses handed to connections";
        registry.register_with_unit("response", help, Unit::Bytes, it.bytes.clone());
        registry.register("acks", "Responses that clients took", it.acks.clone());
        registry.register("nacks", "Responses that clients rejected", it.nacks.clone());
        let help = "Pushes saved, because the change was nothing to the client or it had everything when it came back";
        registry.register("pushes_suppressed", help, it.suppressed.clone());
        let help = "From an update of the source to the push of it; held ones had to wait for their turn in a rollout";
        registry.register_with_unit("update_to_push", help, Unit::Seconds, it.update_to_push.clone());
        let help = "From a push to the client's ACK";
        registry.register_with_unit("push_to_ack", help, Unit::Seconds, it.push_to_ack.clone());
        registry.register("fetches", "FetchSecrets calls and REST polls, by gRPC status", it.fetches.clone());
        for budget in ["peer", "all"] {
            drop(it.exhausted.get_or_create(&Budget { budget }));
        }
        let help = "Memory that clients make the server hold, as it is charged to limits.memory";
        registry.register_with_unit("clients_memory", help, Unit::Bytes, it.memory.clone());
        let help = "Requests, names and answers for which limits.memory_per_peer or limits.memory had no room";
        registry.register("memory_refusals", help, it.exhausted.clone());
        registry.register("connections", "Connections that are open", it.connections.clone());
        registry.register("connections_opened", "Connections that were opened", it.connections_opened.clone());
        registry.register_collector(Box::new(Starved(self.clone())));
    }
}

/// Every kind of stream: service, variant and peer.
fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    [Service::Secrets, Service::Aggregated].into_iter().flat_map(|service| {
        [Variant::Sotw, Variant::Delta].into_iter().flat_map(move |variant| {
            [PeerClass::Unix, PeerClass::Tcp].map(|peer| (service.as_str(), variant.as_str(), peer.as_str()))
        })
    })
}

impl Inner {
    fn handles_of(&self, kind: Kind) -> Handles {
        let Kind { service, variant, peer } = kind;
        let reason = |reason| Reason { service, variant, peer, reason };
        let push = |rollout| Push { service, variant, rollout };
        Handles {
            open: self.open.get_or_create_owned(&kind),
            requests: self.requests.get_or_create_owned(&kind),
            stale: self.mismatches.get_or_create_owned(&reason("stale")),
            repeated: self.mismatches.get_or_create_owned(&reason("repeated")),
            responses: self.responses.get_or_create_owned(&kind),
            bytes: self.bytes.get_or_create_owned(&kind),
            acks: self.acks.get_or_create_owned(&kind),
            nacks: self.nacks.get_or_create_owned(&kind),
            unchanged: self.suppressed.get_or_create_owned(&reason("unchanged")),
            resumed: self.suppressed.get_or_create_owned(&reason("resumed")),
            direct: self.update_to_push.get_or_create_owned(&push("direct")),
            held: self.update_to_push.get_or_create_owned(&push("held")),
            push_to_ack: self.push_to_ack.get_or_create_owned(&Protocol { service, variant }),
            kind,
        }
    }
}

/// Counts for one connection; its end is counted when it is dropped.
#[derive(Debug)]
pub struct ConnectionMeter(Gauge);

impl Drop for ConnectionMeter {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Subscriptions that wait.
#[derive(Debug)]
struct Starved(StreamMetrics);

impl Collector for Starved {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (pending, starved) = self.0.0.waits.count(self.0.starves_after());
        let help = "Names that clients asked for and have not been given";
        let metric = encoder.encode_descriptor("subscriptions_pending", help, None, MetricType::Gauge)?;
        ConstGauge::new(pending.cast_signed()).encode(metric)?;
        let help = "Names that clients asked for and have not been given for longer than admin.starved_after";
        let metric = encoder.encode_descriptor("subscriptions_starved", help, None, MetricType::Gauge)?;
        ConstGauge::new(starved.cast_signed()).encode(metric)
    }
}
