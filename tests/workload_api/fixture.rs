//! A supervisor on the real Workload API of a development issuer, and bounded waits for what it makes of it.

use std::{sync::Arc, time::Duration};

use spiffe_sds::{
    dev::{self, DevIssuer, Rotation},
    identity::{Availability, IdentitySnapshot, IdentityStore, SpiffeId, TrustDomain, Workload},
    source::{
        Endpoint, RenewalEvent, SourceError, SourceStatus, Supervisor, WorkloadApi, backoff, supervisor,
        workload_api::{Config, Deadlines},
    },
};
use tempfile::TempDir;
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// No wait is longer.
const BOUND: Duration = Duration::from_secs(60);

/// A socket's path in a directory of its own, and the issuer that may listen there.
pub(crate) struct Agent {
    directory: TempDir,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.directory.path().join("agent.sock"))
    }

    /// Starts an issuer for `spiffe://example.org` that changes nothing by itself.
    pub(crate) async fn start(&self, configure: impl FnOnce(dev::Config) -> dev::Config) -> DevIssuer {
        let mut config = dev::Config::new(td("example.org"), self.endpoint());
        config.rotation = Rotation::Never;
        DevIssuer::start(configure(config)).await.unwrap()
    }

    /// The same with one identity for each path.
    pub(crate) async fn with(&self, paths: &[&str]) -> DevIssuer {
        self.start(|config| paths.iter().fold(config, |it, path| it.identity(id(path), None))).await
    }
}

/// A supervisor at work, with delays short enough for tests.
pub(crate) struct Client {
    pub(crate) events: broadcast::Receiver<RenewalEvent>,
    pub(crate) status: watch::Receiver<SourceStatus>,
    pub(crate) state: watch::Receiver<Availability>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), SourceError>>,
}

impl Client {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self::configured(endpoint, |api| api, Duration::from_secs(60))
    }

    pub(crate) fn with_backoff(endpoint: &Endpoint, backoff: backoff::Config) -> Self {
        let policy = supervisor::Config { backoff, denied_grace: Duration::from_secs(60) };
        Self::supervised(endpoint, |api| api, policy)
    }

    pub(crate) fn configured(
        endpoint: &Endpoint,
        configure: impl FnOnce(WorkloadApi) -> WorkloadApi,
        denied_grace: Duration,
    ) -> Self {
        let backoff = backoff::Config { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        Self::supervised(endpoint, configure, supervisor::Config { backoff, denied_grace })
    }

    fn supervised(
        endpoint: &Endpoint,
        configure: impl FnOnce(WorkloadApi) -> WorkloadApi,
        policy: supervisor::Config,
    ) -> Self {
        let api = WorkloadApi::new(Config { endpoint: endpoint.clone(), trust_domain: None })
            .with_deadlines(Deadlines { denied_recheck: Duration::from_millis(100), ..Deadlines::default() });
        let store = Arc::new(IdentityStore::new());
        let supervisor = Supervisor::new(configure(api), Workload::Own, store.clone(), policy);
        let (events, status) = (supervisor.events(), supervisor.status());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(supervisor.run(shutdown.clone()));
        Self { events, status, state: store.watch(&Workload::Own), shutdown, task }
    }

    /// The state, once it is as wanted.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&Availability) -> bool) -> Availability {
        bounded(self.state.wait_for(|state| wanted(state))).await.unwrap().clone()
    }

    /// The identities in service, once they are as wanted.
    pub(crate) async fn ready(&mut self, mut wanted: impl FnMut(&IdentitySnapshot) -> bool) -> Arc<IdentitySnapshot> {
        match self.until(|state| matches!(state, Availability::Ready(snapshot) if wanted(snapshot))).await {
            Availability::Ready(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// The next event of this name; what comes before is skipped.
    pub(crate) async fn event(&mut self, name: &str) -> RenewalEvent {
        assert!(RenewalEvent::NAMES.contains(&name));
        loop {
            let event = bounded(self.events.recv()).await.unwrap();
            if event.name() == name {
                return event;
            }
        }
    }

    /// The names of the events so far.
    pub(crate) fn event_names(&mut self) -> Vec<&'static str> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| event.name()).collect()
    }
}

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap()
}

pub(crate) async fn bounded<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, waiting).await.expect("nothing came in time")
}

/// Whether the snapshot holds exactly what the issuer would say now.
pub(crate) fn is_from(issuer: &DevIssuer, snapshot: &IdentitySnapshot) -> bool {
    let issued = issuer.svids();
    issued.len() == snapshot.svids.len()
        && issued.iter().zip(&snapshot.svids).all(|(issued, held)| {
            issued.svid.chain == held.chain && issued.svid.key.pkcs8_der() == held.key.pkcs8_der()
        })
        && snapshot.bundles.iter().all(|(domain, bundle)| issuer.bundle(domain).as_ref() == Some(&**bundle))
}
