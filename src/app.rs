//! Wires the parts together: a validated configuration in, bound sockets and a running server out.

use std::{sync::Arc, time::SystemTime};

use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, AdminError, actions::Actions, note_renewals, view::Sight},
    config::Config,
    identity::{Availability, IdentityStore, JwtSnapshot, Workload},
    lifecycle::Readiness,
    server::{Bound, BundleEndpoint, ListenError, Server, ServerError, StreamEvent},
    source::{self, JwtSupervisor, RenewalEvent, SourceError, SourceStatus, Supervisor, failover},
    telemetry::{
        logs,
        metrics::{self, Exposition},
    },
};

/// Why the program cannot start or go on.
#[derive(Debug, Error)]
pub enum AppError {
    /// A listener cannot be opened.
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    /// The source refuses us in a way that only a change of the configuration can mend.
    #[error("the identity source cannot be used as configured")]
    Source(#[from] SourceError),
    /// The server failed.
    #[error("the server failed")]
    Server(#[from] ServerError),
    /// The bundle endpoint failed.
    #[error("the bundle endpoint failed")]
    Bundles(#[source] ServerError),
    /// The admin listener failed.
    #[error("the admin listener failed")]
    Admin(#[from] AdminError),
    /// The supervisor failed.
    #[error("the renewal of identities failed; this is a bug, please report it with the log")]
    Supervisor(#[source] tokio::task::JoinError),
}

/// The whole program with its sockets open, ready to run.
pub struct App {
    server: Server,
    bundles: BundleEndpoint,
    admin: Admin,
    supervisor: Supervisor,
    jwt: JwtSupervisor,
    /// The sources, the preferred one first, as people know them.
    source: String,
    store: Arc<IdentityStore>,
}

impl App {
    /// Opens the listeners. Clients may connect from here on; they wait until the first identity is there.
    ///
    /// # Errors
    /// [`AppError::Listen`].
    pub async fn bind(config: &Config) -> Result<Self, AppError> {
        let server = Server::bind(config.server().clone(), config.secrets().clone()).await?;
        let bundles = BundleEndpoint::bind(config.bundles().clone(), config.server().drain_deadline).await?;
        let admin = Admin::bind(config.admin().clone()).await?;
        server.stream_metrics().starved_after(config.admin().starved_after);
        let store = Arc::new(IdentityStore::new());
        let sources: Vec<_> = config.sources().iter().map(source::Config::source).collect();
        let names = sources.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ");
        let (failover, policy) = (*config.failover(), *config.supervisor());
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), policy);
        let tokens = config.sources().iter().map(source::Config::jwt_source).collect();
        let tokens = failover::ActiveJwt::new(tokens, supervisor.active());
        let jwt = JwtSupervisor::new(tokens, Workload::Own, store.clone(), config.jwt(), policy).beside(&supervisor);
        let server = server.with_tokens(store.watch_jwt(&Workload::Own));
        Ok(Self { server, bundles, admin, supervisor, jwt, source: names, store })
    }

    /// Where the listeners really listen, in the configuration's order.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.server.bound()
    }

    /// Where the bundle endpoint really listens, in the configuration's order; nowhere if it is off.
    #[must_use]
    pub fn bundles_bound(&self) -> Vec<Bound> {
        self.bundles.bound()
    }

    /// Where the admin listener really is; nowhere if it is off.
    #[must_use]
    pub fn admin_bound(&self) -> Vec<Bound> {
        self.admin.bound()
    }

    /// What must hold before the program counts as ready, and what of it does not.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        self.server.readiness()
    }

    /// Everything that is counted, ready to be rendered at any time.
    #[must_use]
    pub fn metrics(&self) -> Exposition {
        let parts = metrics::Parts {
            streams: self.server.stream_metrics().clone(),
            rollout: self.server.rollout_metrics().clone(),
            source: self.supervisor.metrics().clone(),
            identities: self.store.watch(&Workload::Own),
            tokens: self.store.watch_jwt(&Workload::Own),
            readiness: self.readiness().clone(),
            queues: vec![("stream", self.server.events_queued()), ("renewal", self.supervisor.events_queued())],
        };
        parts.exposition()
    }

    /// What the admin pages look at.
    #[must_use]
    pub fn sight(&self) -> Sight {
        Sight {
            started: SystemTime::now(),
            readiness: self.readiness().clone(),
            sources: vec![(self.source.clone(), self.source())],
            identities: self.identities(),
            tokens: self.store.watch_jwt(&Workload::Own),
            streams: self.server.streams().clone(),
            journal: self.server.journal().clone(),
            actions: Actions { logs: logs::Control::of_process(), refresh_tokens: None },
        }
    }

    /// Every outcome of renewal from now on.
    #[must_use]
    pub fn renewals(&self) -> broadcast::Receiver<RenewalEvent> {
        self.supervisor.events()
    }

    /// What happens on clients' streams from now on.
    #[must_use]
    pub fn streams(&self) -> broadcast::Receiver<StreamEvent> {
        self.server.events()
    }

    /// How the source does, now and as it changes.
    #[must_use]
    pub fn source(&self) -> watch::Receiver<SourceStatus> {
        self.supervisor.status()
    }

    /// The identities held, now and as they change.
    #[must_use]
    pub fn identities(&self) -> watch::Receiver<Availability> {
        self.store.watch(&Workload::Own)
    }

    /// The tokens and JWT keys held, now and as they change.
    #[must_use]
    pub fn tokens(&self) -> watch::Receiver<Arc<JwtSnapshot>> {
        self.store.watch_jwt(&Workload::Own)
    }

    /// Runs until `stop`, then drains.
    ///
    /// # Errors
    /// Whatever ended the program though nobody asked for it; clients were drained all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let stop = stop.child_token();
        let states = self.store.watch(&Workload::Own);
        for listener in self.server.bound() {
            tracing::info!(%listener, "serving");
        }
        for listener in self.bundles_bound() {
            tracing::info!(%listener, "serving bundles");
        }
        for listener in self.admin_bound() {
            tracing::info!(%listener, "serving the admin pages");
        }
        let metrics = Arc::new(self.metrics());
        let readiness = self.readiness().clone();
        let pages = admin::router(admin::Parts { readiness, metrics, sight: Arc::new(self.sight()) });
        let journal = tokio::spawn(note_renewals(self.renewals(), self.server.journal().clone(), stop.clone()));
        let contact = tokio::spawn(first_contact(self.source(), self.readiness().clone(), stop.clone()));
        let renewal = tokio::spawn({
            let stop = stop.clone();
            async move {
                let ended = self.supervisor.run(stop.clone()).await;
                // Without renewal the rest would only look alive.
                stop.cancel();
                ended
            }
        });
        let tokens = tokio::spawn({
            let stop = stop.clone();
            async move {
                // Also when it panics.
                let _stop_all = stop.clone().drop_guard();
                self.jwt.run(stop).await;
            }
        });
        let keys = self.store.watch_jwt(&Workload::Own);
        // Half a server is none: whichever part ends takes the others along.
        let served = async {
            let ended = self.server.run(states.clone(), stop.clone()).await;
            stop.cancel();
            ended
        };
        let bundles = async {
            let ended = self.bundles.run(states.clone(), keys, stop.clone()).await;
            stop.cancel();
            ended
        };
        let administered = async {
            let ended = self.admin.run(pages, stop.clone()).await;
            stop.cancel();
            ended
        };
        let (served, bundles, administered) = tokio::join!(served, bundles, administered);
        renewal.await.map_err(AppError::Supervisor)??;
        tokens.await.map_err(AppError::Supervisor)?;
        contact.await.map_err(AppError::Supervisor)?;
        journal.await.map_err(AppError::Supervisor)?;
        served?;
        bundles.map_err(AppError::Bundles)?;
        administered?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The condition `source`: the source has been reached once. That it is down later is no reason to take us out of
/// service, as long as what it gave is valid.
async fn first_contact(mut status: watch::Receiver<SourceStatus>, readiness: Readiness, stop: CancellationToken) {
    let latch = readiness.latch("source", "the source has not given anything usable yet");
    loop {
        let status_now = status.borrow_and_update().clone();
        if status_now.last_update.is_some() {
            latch.ready();
            // Kept, because a latch that is dropped is pending.
            return stop.cancelled().await;
        }
        if let Some(error) = status_now.last_error {
            latch.pending(error.to_string());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
