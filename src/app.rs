//! Wires the parts together: a validated configuration in, bound sockets and a running server out.

mod notices;
pub mod reload;
mod run;
mod service;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::sync::{broadcast, watch};

use crate::{
    admin::{Admin, actions::Actions, view::Sight},
    config::{Config, Sources},
    hooks::{HookEvent, Hooks},
    identity::{Availability, IdentityStore, JwtSnapshot, Workload},
    lifecycle::{PartError, Readiness},
    output::{OutputEvent, Outputs},
    server::{Bound, BundleEndpoint, ListenError, Server, ServerError, StreamEvent},
    source::{self, JwtSupervisor, RenewalEvent, SourceError, SourceStatus, Supervisor, WarmStart, failover},
    systemd::{self, Handed, Notifier},
    telemetry::{
        logs,
        metrics::{self, Exposition},
        traces::{TraceError, Traces},
    },
};
use reload::Reload;

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
    Bundles(#[source] PartError),
    /// The admin listener failed.
    #[error("the admin listener failed")]
    Admin(#[source] PartError),
    /// Traces cannot be sent as configured.
    #[error("cannot send traces")]
    Traces(#[from] TraceError),
    /// A task beside the server failed.
    #[error("a part of the program failed; this is a bug, please report it with the log")]
    Task(#[source] tokio::task::JoinError),
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
    notifier: Notifier,
    systemd: systemd::Config,
    warm: Option<WarmStart>,
    denied_grace: Duration,
    hooks: Hooks,
    outputs: Outputs,
    logs: Option<logs::Control>,
    traces: Traces,
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
    /// [`AppError::Listen`], [`AppError::Traces`].
    pub async fn bind_handed(config: &Config, handed: &Handed, notifier: Notifier) -> Result<Self, AppError> {
        let deadline = config.server().drain_deadline;
        let traces = Traces::configured(config.traces())?;
        let server = Server::bind_handed(config.server().clone(), config.secrets().clone(), handed).await?;
        let bundles = BundleEndpoint::bind_handed(config.bundles().clone(), deadline, handed).await?;
        let admin = Admin::bind_handed(config.admin().clone(), handed).await?;
        handed.close_rest();
        server.stream_metrics().starved_after(config.admin().starved_after);
        let store = Arc::new(IdentityStore::new());
        let sources: Vec<_> = config.sources().iter().map(source::Config::source).collect();
        let names = sources.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ");
        let (failover, policy) = (*config.failover(), *config.supervisor());
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), policy);
        let supervisor = supervisor.with_traces(traces.clone());
        let tokens = config.sources().iter().map(source::Config::jwt_source).collect();
        let tokens = failover::ActiveJwt::new(tokens, supervisor.active());
        let jwt = JwtSupervisor::new(tokens, Workload::Own, store.clone(), config.jwt(), policy).beside(&supervisor);
        let jwt = jwt.with_traces(traces.clone());
        let warm = config.warm_start().map(|warm| WarmStart::new(warm.clone(), &supervisor));
        let server = server.with_tokens(store.watch_jwt(&Workload::Own)).with_traces(&traces);
        let (hooks, outputs) = (Hooks::new(config.hooks().to_vec()), Outputs::new(config.outputs().to_vec()));
        Ok(Self {
            server,
            bundles,
            admin,
            supervisor,
            jwt,
            source: names,
            store,
            notifier,
            systemd: *config.systemd(),
            warm,
            denied_grace: policy.denied_grace,
            hooks,
            outputs,
            logs: None,
            traces,
        })
    }

    /// Lets operators, and new configurations, change what this process logs.
    #[must_use]
    pub fn with_logs(mut self, logs: logs::Control) -> Self {
        self.logs = Some(logs);
        self
    }

    /// What applies new configurations while the program runs; `sources` are those that it was bound with.
    #[must_use]
    pub fn reload(&self, sources: Sources) -> Reload {
        Reload::new(sources, self.server.steering(), self.logs.clone(), self.notifier.clone())
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
            actions: Actions { logs: self.logs.clone(), refresh_tokens: None },
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
}
