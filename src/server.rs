//! Serves xDS on sockets.
//!
//! [`Server::bind`] opens every listener, so that clients can connect before there is anything to say;
//! [`Server::run`] serves until told to stop and then drains: streams end in good order, connections get a GOAWAY, and
//! what has not finished by the deadline is closed.

mod budget;
pub mod bundles;
mod connection;
pub mod csds;
mod drive;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod generated;
mod health;
mod inbound;
mod limits;
mod live;
mod observe;
mod publish;
mod reflection;
pub mod registry;
mod rest;
mod said;
mod service;
mod shared;
mod trail;
mod withdrawn;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use bundles::BundleEndpoint;
pub use limits::Limits;
pub use live::Steering;
pub use observe::{Client, StreamEvent};
pub use registry::Streams;
pub use withdrawn::still_held;

use crate::{
    identity::{Availability, FileStore, JwtSnapshot},
    lifecycle::{self, Latch, PartError, Readiness},
    listen::{
        self, Bound, ListenError, Socket, Troubles, accept::accept, connections::Connections, guard::Hosts,
        peer::PeerStreams,
    },
    secret::{self, SecretCatalog},
    systemd::Handed,
    telemetry::{
        journal::Journal,
        metrics::{ConnectionMetrics, Depth, RolloutMetrics, StreamMetrics},
        traces::Traces,
    },
    xds::{Node, Origin, SECRET_TYPE_URL},
};
use budget::Budgets;
use connection::Clients;
use publish::Publisher;
use said::Said;
use service::{Aggregated, Secrets};
use shared::Shared;

/// Events that a slow listener may lag behind before it misses some.
const EVENTS_KEPT: usize = 4096;

/// What is served where, and how much of it to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<listen::Config>,
    /// Names besides `localhost` that requests over HTTP/1.1 and TCP may be addressed to, without port.
    pub hosts: Vec<String>,
    /// Bounds on what clients can make us hold.
    pub limits: Limits,
    /// HTTP/2 PING after this much silence on a connection.
    pub keepalive_interval: Duration,
    /// A connection whose PING is not answered for this long is closed.
    pub keepalive_timeout: Duration,
    /// Shutdown never takes longer than this.
    pub drain_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            hosts: Vec::new(),
            limits: Limits::default(),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(5),
        }
    }
}

/// Why a server ended that was not told to.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A part of it ended.
    #[error(transparent)]
    Part(#[from] PartError),
    /// What reflection should tell does not fit together.
    #[error("the protocol descriptions are broken; this is a bug of the build, please report it with the log")]
    Descriptors(#[source] tonic_reflection::server::Error),
}

/// A server whose listeners are open.
pub struct Server {
    steering: Steering,
    sockets: Vec<Socket>,
    troubles: Troubles,
    connections: ConnectionMetrics,
    publisher: Publisher,
    shared: Arc<Shared>,
    tokens: watch::Receiver<Arc<JwtSnapshot>>,
    readiness: Readiness,
    /// The condition that the sockets are open and served; taken with the first of them.
    listening: Latch,
}

impl Server {
    /// Opens every listener. Nothing is accepted before [`Server::run`], but clients may already connect.
    ///
    /// # Errors
    /// [`ListenError`] for the first listener that cannot be opened; those opened before it are closed.
    pub async fn bind(config: Config, secrets: secret::Config) -> Result<Self, ListenError> {
        Self::bind_handed(config, secrets, &Handed::default()).await
    }

    /// The same, but listeners that `handed` has are taken over, with the clients that wait there already.
    ///
    /// # Errors
    /// As of [`Server::bind`].
    pub async fn bind_handed(config: Config, secrets: secret::Config, handed: &Handed) -> Result<Self, ListenError> {
        let (mut sockets, troubles) = (Vec::new(), Troubles::default());
        for listener in &config.listeners {
            sockets.push(Socket::open(listener, handed, &troubles).await?);
        }
        let control_plane = concat!("spiffe-sds/", env!("CARGO_PKG_VERSION")).to_owned();
        let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane });
        let catalog = SecretCatalog::new(secrets.clone(), origin.clone());
        let (steering, settings) = live::channel(config, secrets.clone());
        let streams = Streams::new(settings.clone());
        let (publisher, feeds) = Publisher::new(catalog, &secrets, streams.clone());
        let unusable = shared::Unusable::new(secrets.names.templates());
        let anonymous = Arc::new(secrets.names.bind(&Node::default(), &secrets.naming));
        let metrics = StreamMetrics::default();
        let shared = Shared {
            budgets: Budgets::new(settings.clone(), metrics.clone()),
            settings,
            origin,
            feeds,
            files: Arc::new(FileStore::new()),
            peers: PeerStreams::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            streams,
            said: Said::default(),
            acks: publisher.acks().clone(),
            journal: Journal::default(),
            metrics,
            unusable,
            anonymous,
            traces: OnceLock::new(),
        };
        let tokens = watch::Sender::default().subscribe();
        let readiness = Readiness::default();
        readiness.depends_on(publisher.heartbeat());
        let listening = readiness.latch("listeners", "not accepting yet");
        let (shared, connections) = (Arc::new(shared), ConnectionMetrics::default());
        Ok(Self { steering, sockets, troubles, connections, publisher, shared, tokens, readiness, listening })
    }

    /// Serves these tokens too; without them every wanted one stays pending.
    #[must_use]
    pub fn with_tokens(mut self, tokens: watch::Receiver<Arc<JwtSnapshot>>) -> Self {
        self.tokens = tokens;
        self
    }

    /// Where clients ask for files, and where whoever reads them shall say what is in them. Without a reader such names
    /// stay silent.
    #[must_use]
    pub fn files(&self) -> Arc<FileStore> {
        self.shared.files.clone()
    }

    /// Traces rotations from their publication to the last acknowledgement. Whoever writes the store says what caused them.
    #[must_use]
    pub fn with_traces(mut self, traces: &Traces) -> Self {
        self.publisher.trace(traces.clone());
        // There are no streams yet, so that nobody has looked.
        let _ = self.shared.traces.set(traces.clone());
        self
    }

    /// Where the listeners really listen, in the configuration's order.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.sockets.iter().map(Socket::bound).collect()
    }

    /// What must hold before this server counts as ready. `grpc.health.v1` says the same; whoever adds conditions
    /// makes both wait for them.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Changes what may change while the server runs.
    #[must_use]
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// Who is connected and what each has, at any time.
    #[must_use]
    pub fn streams(&self) -> &Streams {
        &self.shared.streams
    }

    /// What happened lately.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// What happens on streams from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<StreamEvent> {
        self.shared.events.subscribe()
    }

    /// What is counted about streams.
    #[must_use]
    pub fn stream_metrics(&self) -> &StreamMetrics {
        &self.shared.metrics
    }

    /// Counts with these what there was no room for.
    #[must_use]
    pub fn with_connection_metrics(self, connections: ConnectionMetrics) -> Self {
        Self { connections, ..self }
    }

    /// What is counted about publishing.
    #[must_use]
    pub fn rollout_metrics(&self) -> &RolloutMetrics {
        self.publisher.metrics()
    }

    /// Counts the events that the slowest receiver of [`Server::events`] has not taken yet.
    #[must_use]
    pub fn events_queued(&self) -> Depth {
        let events = self.shared.events.clone();
        Box::new(move || events.len())
    }

    /// Serves what `states` holds until `stop`, then drains. Returns when the last connection is gone, the drain
    /// deadline at the latest.
    ///
    /// # Errors
    /// [`ServerError`] when a part of the server ended though nobody asked for it; the rest is drained first.
    pub async fn run(self, states: watch::Receiver<Availability>, stop: CancellationToken) -> Result<(), ServerError> {
        let stop = stop.child_token();
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = reflection::add(Routes::new(health)).map_err(ServerError::Descriptors)?;
        let routes = generated::bound(routes, self.shared.clone())
            .add_service(Secrets(self.shared.clone()))
            .add_service(Aggregated(self.shared.clone()));
        let routes = rest::add(routes, self.shared.clone()).prepare();
        let settings = &self.shared.settings;
        let connections = Connections::new(limits::connections(settings.limits()), self.connections, "xds");
        let hosts = Arc::new(Hosts { names: settings.now().config.hosts.clone(), any_address: false });
        let mut tasks = JoinSet::new();
        let files = self.shared.files.watch();
        tasks.spawn(self.publisher.run(states.clone(), self.tokens, files, settings.watch(), stop.clone()));
        tasks.spawn(health::judge(&self.readiness, states, stop.clone()));
        tasks.spawn(health::report(reporter, self.readiness.watch(), stop.clone()));
        for socket in self.sockets {
            let (settings, routes) = (settings.clone(), routes.clone());
            let metrics = self.shared.metrics.clone();
            let clients = Clients { settings, hosts: hosts.clone(), routes, drain: stop.clone(), metrics };
            tasks.spawn(accept(socket, clients, connections.clone(), stop.clone()));
        }
        let journal = self.shared.journal.clone();
        tasks.spawn(listen::follow(self.troubles, Some(self.listening), journal, stop.clone()));
        // One part less is no server: better restarted than half alive.
        Ok(lifecycle::together(tasks, &stop).await?)
    }
}
