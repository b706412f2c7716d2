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
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{Availability, JwtSnapshot},
    lifecycle::{self, PartError},
    listen::{self, Bound, ListenError, Socket, accept::accept, http::Meter},
    systemd::Handed,
    telemetry::metrics::HttpMetrics,
};
use connection::Verifiers;
use pages::{Known, Pages, Renderer};

/// How long the X.509 part of a SPIFFE bundle waits for the JWT keys after a start: without them the bundle says that
/// every JWT-SVID is untrusted, and a consumer believes it until its next refresh. Not for ever, because a source need
/// not have any.
const JWT_KEYS_PATIENCE: Duration = Duration::from_secs(5);
/// Concurrent connections, all peers together; idle ones are closed.
const CONNECTIONS: usize = 1024;

/// Where the documents are served, and how long they are good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None: the endpoint is off.
    pub listeners: Vec<listen::Config>,
    /// How often consumers shall look again: `Cache-Control: max-age` and `spiffe_refresh_hint`, in whole seconds.
    pub refresh_hint: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { listeners: Vec::new(), refresh_hint: Duration::from_secs(60) }
    }
}

/// A bundle endpoint whose listeners are open.
pub struct BundleEndpoint {
    config: Config,
    drain_deadline: Duration,
    sockets: Vec<Socket>,
    metrics: HttpMetrics,
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
        let mut sockets = Vec::new();
        for listener in &config.listeners {
            sockets.push(Socket::open(listener, handed).await?);
        }
        Ok(Self { config, drain_deadline, sockets, metrics: HttpMetrics::default() })
    }

    /// Counts with these.
    #[must_use]
    pub fn with_metrics(mut self, metrics: HttpMetrics) -> Self {
        self.metrics = metrics;
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
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let meter = Meter::new(self.metrics, "bundles");
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(Renderer::new(self.config.refresh_hint), x509, jwt, publish, stop.clone()));
        for socket in self.sockets {
            let (pages, slots, drain) = (pages.clone(), slots.clone(), stop.clone());
            let (meter, deadline) = (meter.clone(), self.drain_deadline);
            let verifiers = Verifiers { pages, meter, drain: drain.clone(), drain_deadline: deadline };
            tasks.spawn(accept(socket, verifiers, slots, drain));
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
