//! The bundle endpoint: each trust domain's public keys over plain HTTP, for verifiers that do not speak SDS.
//!
//! | Path | Document |
//! |---|---|
//! | `/jwks/<trust domain>` | JWK Set of its JWT keys, for Envoy's `jwt_authn` and JWT libraries |
//! | `/bundle/<trust domain>` | SPIFFE bundle: X.509 authorities and JWT keys |
//! | `/jwks`, `/bundle` | the same for our own trust domain |
//! | `/` | what there is |
//!
//! One document a trust domain, never several in one: a verifier that pools them lets each domain speak for all the
//! others. Documents are rendered once a change and shared by every answer; nothing secret passes through here.

mod answer;
mod connection;
mod pages;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{Availability, JwtSnapshot},
    lifecycle::{self, Latch, PartError, Readiness},
    listen::{
        self, Bound, ListenError, Socket, Troubles,
        accept::accept,
        connections::{Bounds, Connections},
        descriptors::Share,
        guard::Hosts,
        http::Meter,
    },
    systemd::Handed,
    telemetry::{
        journal::Journal,
        metrics::{ConnectionMetrics, HttpMetrics},
    },
};
use connection::Verifiers;
use pages::{Known, Pages, Renderer};

/// How long the X.509 part of a SPIFFE bundle waits for the JWT keys after a start: without them the bundle says that
/// every JWT-SVID is untrusted, and a consumer believes it until its next refresh. Not for ever, because a source need
/// not have any.
const JWT_KEYS_PATIENCE: Duration = Duration::from_secs(5);
/// Concurrent connections, all peers together; idle ones are closed.
const CONNECTIONS: usize = 1024;
/// Those of one user, or of one address.
const CONNECTIONS_PER_PEER: usize = 512;

/// Where the documents are served, and how long they are good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None: the endpoint is off.
    pub listeners: Vec<listen::Config>,
    /// Names besides `localhost` that requests over TCP may be addressed to, without port.
    pub hosts: Vec<String>,
    /// How often consumers shall look again: `Cache-Control: max-age` and `spiffe_refresh_hint`, in whole seconds.
    pub refresh_hint: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { listeners: Vec::new(), hosts: Vec::new(), refresh_hint: Duration::from_secs(60) }
    }
}

/// A bundle endpoint whose listeners are open.
pub struct BundleEndpoint {
    config: Config,
    drain_deadline: Duration,
    sockets: Vec<Socket>,
    troubles: Troubles,
    /// The condition that clients reach the sockets, for whoever has it.
    listening: Option<Latch>,
    journal: Journal,
    metrics: HttpMetrics,
    connections: ConnectionMetrics,
}

impl BundleEndpoint {
    /// Opens every listener. Nothing is accepted before [`BundleEndpoint::run`], but clients may already connect.
    ///
    /// # Errors
    /// [`ListenError`] for the first listener that cannot be opened; those opened before it are closed.
    pub async fn bind(config: Config, drain_deadline: Duration) -> Result<Self, ListenError> {
        Self::bind_handed(config, drain_deadline, &Handed::default()).await
    }

    /// The same, but listeners that `handed` has are taken over.
    ///
    /// # Errors
    /// As of [`BundleEndpoint::bind`].
    pub async fn bind_handed(config: Config, drain_deadline: Duration, handed: &Handed) -> Result<Self, ListenError> {
        let (mut sockets, troubles) = (Vec::new(), Troubles::default());
        for listener in &config.listeners {
            sockets.push(Socket::open(listener, handed, &troubles).await?);
        }
        let (metrics, connections) = (HttpMetrics::default(), ConnectionMetrics::default());
        let (listening, journal) = (None, Journal::default());
        Ok(Self { config, drain_deadline, sockets, troubles, listening, journal, metrics, connections })
    }

    /// Counts with these.
    #[must_use]
    pub fn with_metrics(self, metrics: HttpMetrics, connections: ConnectionMetrics) -> Self {
        Self { metrics, connections, ..self }
    }

    /// Makes it a condition of readiness that clients reach the listeners, if there are any, and notes when they do not.
    #[must_use]
    pub fn with_readiness(mut self, readiness: &Readiness, journal: &Journal) -> Self {
        if !self.sockets.is_empty() {
            self.listening = Some(readiness.latch("bundle_listeners", "not accepting yet"));
        }
        self.journal = journal.clone();
        self
    }

    /// Where the listeners really listen, in the configuration's order.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.sockets.iter().map(Socket::bound).collect()
    }

    /// Serves what the two channels hold until `stop`, then lets the answers under way finish. Without listeners it
    /// only waits.
    ///
    /// # Errors
    /// [`PartError`] when a part of the endpoint ended though nobody asked for it; the rest is drained first.
    pub async fn run(
        self,
        x509: watch::Receiver<Availability>,
        jwt: watch::Receiver<Arc<JwtSnapshot>>,
        stop: CancellationToken,
    ) -> Result<(), PartError> {
        if self.sockets.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        let stop = stop.child_token();
        let (publish, pages) = watch::channel(Arc::new(Pages::default()));
        let all = Share::Verifiers.at_most(CONNECTIONS);
        let bounds = Bounds { all, of_peer: CONNECTIONS_PER_PEER, interrupts: true };
        let connections = Connections::new(bounds, self.connections, "bundles");
        // What `bootstrap --verify-jwt` calls it.
        let names = self.config.hosts.into_iter().chain(["spiffe-sds".to_owned()]).collect();
        let hosts = Arc::new(Hosts { names, any_address: false });
        let meter = Meter::new(self.metrics, "bundles");
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Renderer::new(self.config.refresh_hint), x509, jwt, publish, stop.clone()));
        tasks.spawn(listen::follow(self.troubles, self.listening, self.journal, stop.clone()));
        for socket in self.sockets {
            let (pages, hosts, drain) = (pages.clone(), hosts.clone(), stop.clone());
            let (meter, deadline) = (meter.clone(), self.drain_deadline);
            let verifiers = Verifiers { pages, hosts, meter, drain: drain.clone(), drain_deadline: deadline };
            tasks.spawn(accept(socket, verifiers, connections.clone(), drain));
        }
        lifecycle::together(tasks, &stop).await
    }
}

/// Renders the documents anew whenever what they show has changed.
async fn follow(
    mut renderer: Renderer,
    mut x509: watch::Receiver<Availability>,
    mut jwt: watch::Receiver<Arc<JwtSnapshot>>,
    publish: watch::Sender<Arc<Pages>>,
    stop: CancellationToken,
) {
    let mut shown = None;
    let mut patience = None;
    loop {
        let mut known = Known::new(&x509.borrow_and_update(), &jwt.borrow_and_update());
        if known.x509.is_some() && known.jwt.is_none() {
            let until = *patience.get_or_insert_with(|| Instant::now() + JWT_KEYS_PATIENCE);
            known.waits_for_jwt = Instant::now() < until;
        }
        let wake = patience.filter(|_| known.waits_for_jwt);
        // Most changes of the JWT state are tokens, which nothing here shows.
        if shown.as_ref() != Some(&known) {
            publish.send_replace(Arc::new(renderer.render(&known, SystemTime::now())));
            shown = Some(known);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = x509.changed() => if changed.is_err() { return },
            changed = jwt.changed() => if changed.is_err() { return },
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests;
