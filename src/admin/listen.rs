//! Sockets and connections of the admin listener: few, short-lived, and bounded in everything a client sends.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Config, guard};
use crate::{
    lifecycle::{self, PartError},
    listen::{
        self, Bound, ListenError, Socket, Troubles,
        accept::{Connection, Io, Serve, accept},
        connections::{Bounds, Connections},
        descriptors::Share,
        guard::Hosts,
        http::{Meter, Patience},
    },
    systemd::Handed,
    telemetry::{
        journal::Journal,
        metrics::{ConnectionMetrics, HttpMetrics},
    },
};

/// Concurrent connections of one listener. Each has its own places, so that whoever reaches the TCP port cannot keep
/// probes away from the Unix socket; and a newcomer, who may be a probe, always finds one.
const CONNECTIONS: usize = 64;
/// Those of one user, or of one address.
const CONNECTIONS_PER_PEER: usize = 32;
/// Bytes of a request's body.
const BODY: usize = 64 << 10;
/// Idle is long because a gRPC stream is one request; HTTP/1.1 without one ends by the patience for heads, and HTTP/2 by
/// unanswered pings.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(30),
    idle: Duration::from_secs(3600),
    stall: Duration::from_secs(10),
    grace: Duration::from_secs(1),
    head: Some(Duration::from_secs(30)),
};
/// The admin listener with its sockets open.
pub struct Admin {
    config: Config,
    sockets: Vec<Socket>,
    troubles: Troubles,
    journal: Journal,
    metrics: HttpMetrics,
    connections: ConnectionMetrics,
}

impl Admin {
    /// Opens the sockets. With none, [`Admin::run`] only waits.
    ///
    /// # Errors
    /// [`ListenError`] for the first that cannot be opened, when the configuration requires it.
    pub async fn bind(config: Config) -> Result<Self, ListenError> {
        Self::bind_handed(config, &Handed::default()).await
    }

    /// The same, but listeners that `handed` has are taken over, with the clients that wait there already.
    ///
    /// # Errors
    /// As of [`Admin::bind`].
    pub async fn bind_handed(config: Config, handed: &Handed) -> Result<Self, ListenError> {
        let (mut sockets, troubles) = (Vec::new(), Troubles::default());
        for listener in &config.listeners {
            let opened = if config.allow_public {
                Socket::open_anywhere(listener, handed, &troubles).await
            } else {
                Socket::open(listener, handed, &troubles).await
            };
            match opened {
                Ok(socket) => sockets.push(socket),
                Err(error) if config.required => return Err(error),
                // Where nobody made a place for it, nobody misses it.
                Err(error @ ListenError::NoDirectory(_)) => {
                    tracing::debug!(%error, "the default admin listener is off");
                }
                Err(error) => {
                    tracing::warn!(%error, "the default admin listener cannot be opened, going on without it")
                }
            }
        }
        let (metrics, connections) = (HttpMetrics::default(), ConnectionMetrics::default());
        Ok(Self { config, sockets, troubles, journal: Journal::default(), metrics, connections })
    }

    /// Counts with these.
    #[must_use]
    pub fn with_metrics(self, metrics: HttpMetrics, connections: ConnectionMetrics) -> Self {
        Self { metrics, connections, ..self }
    }

    /// Notes here when a socket can no longer be reached. It is no condition of readiness: nobody is served by it.
    #[must_use]
    pub fn with_journal(mut self, journal: &Journal) -> Self {
        self.journal = journal.clone();
        self
    }

    /// Where it really listens.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.sockets.iter().map(Socket::bound).collect()
    }

    /// Serves `router` until `stop`; answers under way get a moment to finish.
    ///
    /// # Errors
    /// [`PartError`] when it ended though nobody asked for it.
    pub async fn run(self, router: Router, stop: CancellationToken) -> Result<(), PartError> {
        if self.sockets.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        let stop = stop.child_token();
        let hosts = Arc::new(Hosts { names: self.config.hosts, any_address: self.config.allow_public });
        let router =
            router.layer(DefaultBodyLimit::max(BODY)).layer(middleware::from_fn_with_state(hosts, guard::guard));
        let meter = Meter::new(self.metrics, "admin");
        let mut tasks = JoinSet::new();
        tasks.spawn(listen::follow(self.troubles, None, self.journal, stop.clone()));
        let all = Share::Operators.at_most(CONNECTIONS * self.sockets.len()) / self.sockets.len();
        let bounds = Bounds { all: all.max(1), of_peer: CONNECTIONS_PER_PEER, interrupts: true };
        for socket in self.sockets {
            let (router, meter) = (router.clone(), meter.clone());
            let connections = Connections::new(bounds, self.connections.clone(), "admin");
            let visitors = Visitors { router, meter, drain: stop.clone() };
            tasks.spawn(accept(socket, visitors, connections, stop.clone()));
        }
        lifecycle::together(tasks, &stop).await
    }
}

/// Serves operators and monitoring.
struct Visitors {
    router: Router,
    meter: Meter,
    drain: CancellationToken,
}

impl Serve for Visitors {
    fn serve(&self, io: Io, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let service = TowerToHyperService::new(self.router.clone());
        listen::http::serve(io, connection, service, PATIENCE, self.meter.clone(), self.drain.clone())
    }

    fn drain_deadline(&self) -> Duration {
        PATIENCE.grace
    }
}
