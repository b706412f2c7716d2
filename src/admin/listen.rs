//! Sockets and connections of the admin listener: few, short-lived, and bounded in everything a client sends.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use hyper_util::service::TowerToHyperService;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    Config,
    guard::{self, Hosts},
};
use crate::{
    lifecycle::{self, PartError},
    listen::{
        self, Bound, ListenError, Peer, Socket,
        accept::{Io, Serve, accept},
        http::{Meter, Patience},
    },
    systemd::Handed,
    telemetry::metrics::HttpMetrics,
};

/// Concurrent connections of one listener; the next one waits in the kernel. Each listener has its own places, so that
/// whoever reaches the TCP port cannot keep probes away from the Unix socket.
const CONNECTIONS: usize = 64;
/// Bytes of a request's body.
const BODY: usize = 64 << 10;
/// Idle is long because a gRPC stream is one request; HTTP/1.1 without one ends by the patience for heads, and HTTP/2 by
/// unanswered pings.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(30),
    idle: Duration::from_secs(3600),
    grace: Duration::from_secs(1),
    head: Some(Duration::from_secs(30)),
};
/// The same for who comes when half of the places are taken: nobody keeps others waiting by saying nothing, or slowly.
const HURRY: Patience = Patience { first: Duration::from_secs(1), head: Some(Duration::from_secs(1)), ..PATIENCE };

/// How a request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A Unix domain socket, whose file mode says who may connect.
    Unix,
    /// TCP, where any program and any browser on the machine can connect.
    Tcp,
}

/// The admin listener with its sockets open.
pub struct Admin {
    config: Config,
    sockets: Vec<Socket>,
    metrics: HttpMetrics,
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
        let mut sockets = Vec::new();
        for listener in &config.listeners {
            let opened = if config.allow_public {
                Socket::open_anywhere(listener, handed).await
            } else {
                Socket::open(listener, handed).await
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
        Ok(Self { config, sockets, metrics: HttpMetrics::default() })
    }

    /// Counts with these.
    #[must_use]
    pub fn with_metrics(mut self, metrics: HttpMetrics) -> Self {
        self.metrics = metrics;
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
        for socket in self.sockets {
            let (router, meter) = (router.clone(), meter.clone());
            let slots = Arc::new(Semaphore::new(CONNECTIONS));
            let visitors = Visitors { router, meter, slots: slots.clone(), drain: stop.clone() };
            tasks.spawn(accept(socket, visitors, slots, stop.clone()));
        }
        lifecycle::together(tasks, &stop).await
    }
}

/// Serves operators and monitoring.
struct Visitors {
    router: Router,
    meter: Meter,
    /// Places for connections.
    slots: Arc<Semaphore>,
    drain: CancellationToken,
}

impl Serve for Visitors {
    fn serve(&self, io: Io, peer: Peer) -> impl Future<Output = ()> + Send + 'static {
        let via = match io {
            Io::Unix(_) => Via::Unix,
            Io::Tcp(_) => Via::Tcp,
        };
        let service = self.router.clone().map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(via);
            request
        });
        let patience = if self.slots.available_permits() < CONNECTIONS / 2 { HURRY } else { PATIENCE };
        let (service, meter, drain) = (TowerToHyperService::new(service), self.meter.clone(), self.drain.clone());
        listen::http::serve(io, peer, service, patience, meter, drain)
    }

    fn drain_deadline(&self) -> Duration {
        PATIENCE.grace
    }
}
