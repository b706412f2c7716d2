//! Wires the parts together: a validated configuration in, bound sockets and a running server out.

mod conditions;
mod notices;
pub mod reload;
mod run;
mod service;
mod standing;

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
    listen::{Bound, ListenError},
    output::{OutputEvent, Outputs},
    secret::CrlPolicy,
    server::{BundleEndpoint, Server, ServerError, StreamEvent, still_held},
    source::{AskedFiles, JwtRefresh, JwtSupervisor, RenewalEvent, SourceError, SourceStatus, Supervisor, WarmStart},
    systemd::{self, Handed, Notifier},
    telemetry::{
        logs,
        metrics::{self, ConnectionMetrics, Exposition, HttpMetrics, MissedEvents, Outcomes},
        traces::{TraceError, Traces},
    },
};
use reload::Reload;
use standing::{Shown, Standing};

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
    asked: AskedFiles,
    store: Arc<IdentityStore>,
    notifier: Notifier,
    systemd: systemd::Config,
    warm: Option<WarmStart>,
    denied_grace: Duration,
    crls: CrlPolicy,
    hooks: Hooks,
    outputs: Outputs,
    logs: Option<logs::Control>,
    configuration: Shown,
    traces: Traces,
    http: HttpMetrics,
    connections: ConnectionMetrics,
    reloads: Outcomes,
    missed: MissedEvents,
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
        let (http, connections) = (HttpMetrics::default(), ConnectionMetrics::default());
        let server = server.with_connection_metrics(connections.clone());
        let bundles = bundles.with_metrics(http.clone(), connections.clone());
        let bundles = bundles.with_readiness(server.readiness(), server.journal());
        let admin = admin.with_metrics(http.clone(), connections.clone()).with_journal(server.journal());
        handed.close_rest();
        server.stream_metrics().starved_after(config.admin().starved_after);
        server.readiness().require(&config.admin().ready_requires);
        let store = Arc::new(IdentityStore::new());
        let (limits, default) = (config.source_limits(), &config.secrets().default_identity);
        let (sources, tokens) = config.sources().iter().map(|source| source.open(limits, default)).unzip();
        let (failover, policy) = (*config.failover(), *config.supervisor());
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), policy);
        let supervisor = supervisor.with_traces(traces.clone()).serving(default.clone(), config.secrets().crls);
        let (active, own) = (supervisor.active(), Workload::Own);
        let jwt = JwtSupervisor::of_several(tokens, active, own, store.clone(), config.jwt(), policy);
        let jwt = jwt.beside(&supervisor).with_traces(traces.clone()).with_default(default.clone());
        let warm = config.warm_start().map(|warm| WarmStart::new(warm.clone(), &supervisor));
        let server = server.with_tokens(store.watch_jwt(&Workload::Own)).with_traces(&traces);
        let asked = AskedFiles::new(config.secrets().files.clone(), server.files()).with_limits(*limits);
        let (hooks, outputs) = (Hooks::new(config.hooks().to_vec()), Outputs::new(config.outputs().to_vec()));
        Ok(Self {
            server,
            bundles,
            admin,
            supervisor,
            jwt,
            asked,
            store,
            notifier,
            systemd: *config.systemd(),
            warm,
            denied_grace: policy.denied_grace,
            crls: config.secrets().crls,
            hooks,
            outputs,
            logs: None,
            configuration: Shown::default(),
            traces,
            http,
            connections,
            reloads: standing::metrics(),
            missed: MissedEvents::default(),
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
        let (shown, journal) = (self.configuration.clone(), self.server.journal().clone());
        let standing = Standing::new(shown, journal, self.reloads.clone(), &sources);
        Reload::new(sources, self.server.steering(), self.logs.clone(), self.notifier.clone(), standing)
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
            withdrawn: {
                let (withdrawn, streams) = (self.store.watch_withdrawn(&Workload::Own), self.server.streams().clone());
                Box::new(move || still_held(&withdrawn.borrow().clone(), &streams))
            },
            readiness: self.readiness().clone(),
            callbacks: self.hooks.metrics().clone(),
            outputs: self.outputs.metrics().clone(),
            reloads: self.reloads.clone(),
            http: self.http.clone(),
            connections: self.connections.clone(),
            missed: self.missed.clone(),
            logs: self.logs.clone(),
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
            sources: self.supervisor.each(),
            refused: self.supervisor.refused(),
            source: self.source(),
            configuration: self.configuration.subscribe(),
            identities: self.identities(),
            tokens: self.store.watch_jwt(&Workload::Own),
            withdrawn: self.store.watch_withdrawn(&Workload::Own),
            streams: self.server.streams().clone(),
            journal: self.server.journal().clone(),
            actions: Actions { logs: self.logs.clone(), refresh_tokens: self.token_refresh() },
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

    /// The same for the admin pages, if any token is served.
    fn token_refresh(&self) -> Option<Arc<dyn Fn() -> usize + Send + Sync>> {
        let refresh = self.jwt.refresh();
        if refresh.tokens().is_empty() { None } else { Some(Arc::new(move || refresh.all())) }
    }

    /// What makes tokens due before their time, while the program runs.
    #[must_use]
    pub fn jwt_refresh(&self) -> JwtRefresh {
        self.jwt.refresh()
    }
}
