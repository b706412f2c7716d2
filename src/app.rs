//! Wires the parts together: a validated configuration in, bound sockets and a running server out.

mod notices;
pub mod reload;
mod service;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin, AdminError},
    config::{Config, Sources},
    hooks::{HookEvent, Hooks},
    identity::{Availability, IdentityStore, JwtSnapshot, Workload},
    lifecycle::Readiness,
    output::{OutputEvent, Outputs},
    server::{Bound, BundleEndpoint, ListenError, Server, ServerError, StreamEvent},
    source::{self, JwtSupervisor, RenewalEvent, SourceError, SourceStatus, Supervisor, WarmStart, failover},
    systemd::{self, Handed, Notifier},
    telemetry::{
        logs,
        metrics::{self, Exposition},
    },
};
use reload::Reload;
use service::Service;

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
    /// A task beside the server failed.
    #[error("a part of the program failed; this is a bug, please report it with the log")]
    Task(#[source] tokio::task::JoinError),
    /// Callbacks or file outputs failed.
    #[error("callbacks or file outputs ended unexpectedly; this is a bug, please report it with the log")]
    Callbacks(#[source] tokio::task::JoinError),
}

/// Events between where they happen and the callbacks' planning, which never takes long.
const NOTICES: usize = 64;

/// The whole program with its sockets open, ready to run.
pub struct App {
    server: Server,
    bundles: BundleEndpoint,
    admin: Admin,
    supervisor: Supervisor,
    jwt: JwtSupervisor,
    store: Arc<IdentityStore>,
    notifier: Notifier,
    systemd: systemd::Config,
    warm: Option<WarmStart>,
    denied_grace: Duration,
    hooks: Hooks,
    outputs: Outputs,
}

impl App {
    /// Opens the listeners. Clients may connect from here on; they wait until the first identity is there.
    ///
    /// # Errors
    /// [`AppError::Listen`].
    pub async fn bind(config: &Config) -> Result<Self, AppError> {
        Self::bind_handed(config, &Handed::default(), Notifier::default()).await
    }

    /// The same under a service manager: listeners that `handed` has are taken over with the clients that wait there, and
    /// the manager hears from us by `notifier`.
    ///
    /// # Errors
    /// [`AppError::Listen`].
    pub async fn bind_handed(config: &Config, handed: &Handed, notifier: Notifier) -> Result<Self, AppError> {
        let deadline = config.server().drain_deadline;
        let server = Server::bind_handed(config.server().clone(), config.secrets().clone(), handed).await?;
        let bundles = BundleEndpoint::bind_handed(config.bundles().clone(), deadline, handed).await?;
        let admin = Admin::bind_handed(config.admin().clone(), handed).await?;
        handed.close_rest();
        server.stream_metrics().starved_after(config.admin().starved_after);
        let store = Arc::new(IdentityStore::new());
        let sources = config.sources().iter().map(source::Config::source).collect();
        let (failover, policy) = (*config.failover(), *config.supervisor());
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), policy);
        let tokens = config.sources().iter().map(source::Config::jwt_source).collect();
        let tokens = failover::ActiveJwt::new(tokens, supervisor.active());
        let jwt = JwtSupervisor::new(tokens, Workload::Own, store.clone(), config.jwt(), policy).beside(&supervisor);
        let warm = config.warm_start().map(|warm| WarmStart::new(warm.clone(), &supervisor));
        let server = server.with_tokens(store.watch_jwt(&Workload::Own));
        let (hooks, outputs) = (Hooks::new(config.hooks().to_vec()), Outputs::new(config.outputs().to_vec()));
        Ok(Self {
            server,
            bundles,
            admin,
            supervisor,
            jwt,
            store,
            notifier,
            systemd: *config.systemd(),
            warm,
            denied_grace: policy.denied_grace,
            hooks,
            outputs,
        })
    }

    /// What applies new configurations while the program runs; `sources` are those that it was bound with.
    #[must_use]
    pub fn reload(&self, sources: Sources, logs: Option<logs::Handle>) -> Reload {
        Reload::new(sources, self.server.steering(), logs, self.notifier.clone())
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

    /// What becomes of callbacks from now on.
    #[must_use]
    pub fn callbacks(&self) -> broadcast::Receiver<HookEvent> {
        self.hooks.events()
    }

    /// What becomes of file outputs from now on.
    #[must_use]
    pub fn files(&self) -> broadcast::Receiver<OutputEvent> {
        self.outputs.events()
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

    fn announce(&self) {
        for listener in self.server.bound() {
            tracing::info!(%listener, "serving");
        }
        for listener in self.bundles_bound() {
            tracing::info!(%listener, "serving bundles");
        }
        for listener in self.admin_bound() {
            tracing::info!(%listener, "serving the admin pages");
        }
    }

    /// Runs until `stop`, then drains.
    ///
    /// # Errors
    /// Whatever ended the program though nobody asked for it; clients were drained all the same.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let stop = stop.child_token();
        let states = self.store.watch(&Workload::Own);
        self.announce();
        let metrics = Arc::new(self.metrics());
        let pages = admin::router(admin::Parts { readiness: self.readiness().clone(), metrics });
        let contact = guarded(&stop, first_contact(self.source(), self.readiness().clone(), stop.clone()));
        let service = Service {
            notifier: self.notifier.clone(),
            ready: self.systemd.ready,
            states: states.clone(),
            source: self.source(),
            pulse: self.server.pulse(),
        };
        let service = guarded(&stop, service.accompany(stop.clone()));
        let callbacks = {
            // Before the first event can happen.
            let (renewals, outputs) = (self.supervisor.events(), self.outputs.events());
            let tokens = self.store.watch_jwt(&Workload::Own);
            beside(self.hooks, self.outputs, (renewals, outputs), (states.clone(), tokens), &stop)
        };
        let warm = self.warm.map(|mut warm| {
            warm.begin(&self.store, SystemTime::now());
            guarded(&stop, warm.run(self.store.clone(), self.supervisor.status(), self.denied_grace, stop.clone()))
        });
        let renewal = guarded(&stop, {
            let stop = stop.clone();
            async move {
                let ended = self.supervisor.run(stop.clone()).await;
                // Without renewal the rest would only look alive.
                stop.cancel();
                ended
            }
        });
        let tokens = guarded(&stop, self.jwt.run(stop.clone()));
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
        renewal.await.map_err(AppError::Task)??;
        tokens.await.map_err(AppError::Task)?;
        service.await.map_err(AppError::Task)?;
        contact.await.map_err(AppError::Task)?;
        if let Some(warm) = warm {
            warm.await.map_err(AppError::Task)?;
        }
        for task in callbacks {
            task.await.map_err(AppError::Callbacks)?;
        }
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

/// Files and callbacks, in tasks that nothing waits for before the end. One that breaks ends the program: somebody counts
/// on it, and a restart costs Envoy nothing.
fn beside(
    hooks: Hooks,
    outputs: Outputs,
    (renewals, files): (broadcast::Receiver<RenewalEvent>, broadcast::Receiver<OutputEvent>),
    (states, tokens): (watch::Receiver<Availability>, watch::Receiver<Arc<JwtSnapshot>>),
    stop: &CancellationToken,
) -> [JoinHandle<()>; 3] {
    let (sender, receiver) = mpsc::channel(NOTICES);
    let until_stop = stop.clone();
    [
        guarded(stop, outputs.run(states, tokens, stop.clone())),
        guarded(stop, hooks.run(receiver, stop.clone())),
        guarded(stop, async move {
            tokio::select! {
                () = until_stop.cancelled() => {}
                () = notices::forward(renewals, files, sender) => {}
            }
        }),
    ]
}

/// A task whose panic stops everything.
fn guarded<T: Send + 'static>(
    stop: &CancellationToken,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let guard = stop.drop_guard();
        let done = task.await;
        guard.disarm();
        done
    })
}
