//! A development issuer, and a server that follows it, on sockets of their own.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use spiffe_sds::{
    dev::{self, DevIssuer, Issued, Rotation},
    identity::{
        Availability, IdentityStore, JwtRequest, JwtSnapshot, JwtState, JwtSubject, SpiffeId, TrustDomain, Workload,
    },
    listen::{self, Bound},
    secret::{
        self, NameTable, Naming,
        table::{Entry, Wanted},
    },
    server::{self, Server, ServerError, StreamEvent},
    source::{Endpoint, RenewalEvent, SourceError, Supervisor, WorkloadApi, backoff, supervisor, workload_api},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::xds::{SENTINEL, SENTINEL_TOKEN};

/// No wait is longer.
pub const BOUND: Duration = Duration::from_secs(60);
/// The trust domain of SPIRE's own tests.
pub const DOMAIN: &str = "domain.test";

/// What a [`World`] is made of; change it before it starts.
#[derive(Clone)]
pub struct Setup {
    pub issuer: dev::Config,
    pub secrets: secret::Config,
    pub server: server::Config,
    pub supervisor: supervisor::Config,
}

/// An issuer and a server.
pub struct World {
    pub issuer: Arc<DevIssuer>,
    pub setup: Setup,
    pub directory: TempDir,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    served: JoinHandle<Result<(), ServerError>>,
    renewed: JoinHandle<Result<(), SourceError>>,
    bound: Vec<Bound>,
    events: broadcast::Receiver<StreamEvent>,
    states: watch::Receiver<Availability>,
    renewals: broadcast::Receiver<RenewalEvent>,
}

impl World {
    /// One identity, `spiffe://domain.test/workload`, on a Unix socket and on TCP; ready.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The same, changed. Ready if there is an identity.
    pub async fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut world = Self::prepare(change).await;
        world.serve().await;
        if !world.setup.issuer.identities.is_empty() {
            world.until_ready().await;
        }
        world
    }

    /// The issuer accepts calls and says nothing until `issuer.recover()`.
    pub async fn pending() -> Self {
        let mut world = Self::prepare(|_| {}).await;
        world.issuer.hang();
        world.serve().await;
        world
    }

    /// An issuer, and no server yet.
    pub async fn prepare(change: impl FnOnce(&mut Setup)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut issuer = dev::Config::new(td(DOMAIN), Endpoint::Unix(directory.path().join("api.sock")));
        issuer.rotation = Rotation::Never;
        issuer = issuer.identity(id("workload"), None);
        let unix =
            listen::UnixConfig { path: directory.path().join("sds.sock"), mode: 0o600, owner: None, group: None };
        let tcp = "127.0.0.1:0".parse().unwrap();
        let server = server::Config {
            listeners: vec![listen::Config::Unix(unix), listen::Config::Tcp(tcp)],
            ..server::Config::default()
        };
        let backoff = backoff::Config { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        let supervisor = supervisor::Config { backoff, denied_grace: Duration::ZERO };
        let mut setup = Setup { issuer, secrets: secrets(), server, supervisor };
        change(&mut setup);
        if setup.secrets.wildcard {
            // Tokens are listed; an identity that is there anyway does as well where none of them expires.
            setup.secrets.names = sentinel(Wanted::Svid("default".parse().unwrap()));
            setup.secrets.jwt_svids.clear();
        }
        let issuer = Arc::new(DevIssuer::start(setup.issuer.clone()).await.unwrap());
        Self { issuer, setup, directory, running: None }
    }

    /// Another server on sockets of its own that follows the same issuer; ready.
    pub async fn replica(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut setup = self.setup.clone();
        for listener in &mut setup.server.listeners {
            if let listen::Config::Unix(unix) = listener {
                unix.path = directory.path().join("sds.sock");
            }
        }
        let mut replica = Self { issuer: self.issuer.clone(), setup, directory, running: None };
        replica.serve().await;
        replica.until_ready().await;
        replica
    }

    /// Starts the server.
    pub async fn serve(&mut self) {
        let store = Arc::new(IdentityStore::new());
        let endpoint = self.issuer.endpoint().clone();
        let deadlines = workload_api::Deadlines { denied_recheck: Duration::from_millis(50), ..Default::default() };
        let source = WorkloadApi::new(workload_api::Config { endpoint, trust_domain: None }).with_deadlines(deadlines);
        let supervisor = Supervisor::new(source, Workload::Own, store.clone(), self.setup.supervisor);
        let server = Server::bind(self.setup.server.clone(), self.setup.secrets.clone()).await.unwrap();
        let server = server.with_tokens(gone(&self.setup.secrets));
        let (bound, events, states) = (server.bound(), server.events(), store.watch(&Workload::Own));
        let renewals = supervisor.events();
        let stop = CancellationToken::new();
        let served = tokio::spawn(server.run(states.clone(), stop.clone()));
        let renewed = tokio::spawn(supervisor.run(stop.clone()));
        self.running = Some(Running { stop, served, renewed, bound, events, states, renewals });
    }

    /// Stops the server; says how long that took.
    pub async fn stop(&mut self) -> Duration {
        let running = self.running.take().expect("the server does not run");
        let started = Instant::now();
        running.stop.cancel();
        bounded(running.served).await.unwrap().unwrap();
        let took = started.elapsed();
        bounded(running.renewed).await.unwrap().unwrap();
        took
    }

    /// Tells the server to stop and does not wait.
    pub fn tell_to_stop(&self) {
        self.running().stop.cancel();
    }

    /// Another server, which knows nothing of the one before.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.serve().await;
        self.until_ready().await;
    }

    pub async fn until_ready(&self) {
        self.until(|state| matches!(state, Availability::Ready(_))).await;
    }

    /// Until what the supervisor holds is so.
    pub async fn until(&self, reached: impl FnMut(&Availability) -> bool) {
        let mut states = self.running().states.clone();
        bounded(states.wait_for(reached)).await.unwrap();
    }

    /// Until `grpc.health.v1` says so of the whole server.
    pub async fn until_health(&self, wanted: ServingStatus) {
        let mut client = HealthClient::new(self.unix().await);
        let watch = HealthCheckRequest { service: String::new() };
        let mut states = bounded(client.watch(watch)).await.unwrap().into_inner();
        bounded(async { while states.message().await.unwrap().expect("the watch ended").status() != wanted {} }).await;
    }

    /// What happens on streams from now on.
    pub fn events(&self) -> Events {
        Events(self.running().events.resubscribe())
    }

    /// What the supervisor reports from now on.
    pub fn renewals(&self) -> broadcast::Receiver<RenewalEvent> {
        self.running().renewals.resubscribe()
    }

    /// A connection of its own to the Unix socket.
    pub async fn unix(&self) -> Channel {
        unix_channel(self.socket()).await
    }

    /// A connection of its own over TCP.
    pub async fn tcp(&self) -> Channel {
        let address = self.address();
        let dial = move |_: Uri| async move { TcpStream::connect(address).await.map(TokioIo::new) };
        bounded(endpoint().connect_with_connector(tower::service_fn(dial))).await.unwrap()
    }

    /// The path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sds.sock")
    }

    /// The TCP address.
    pub fn address(&self) -> std::net::SocketAddr {
        let tcp = self.running().bound.iter().find_map(|bound| match bound {
            Bound::Tcp(address) => Some(*address),
            Bound::Unix(_) => None,
        });
        tcp.expect("no TCP listener")
    }

    /// The present leaf of `spiffe://domain.test/<path>`.
    pub fn svid(&self, path: &str) -> Issued {
        self.issuer.svid(&id(path)).expect("not issued")
    }

    /// The roots of a trust domain, PEM.
    pub fn roots(&self, domain: &str) -> String {
        self.issuer.bundle_pem(&td(domain)).expect("not federated")
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the server does not run")
    }
}

/// What happens on streams.
pub struct Events(broadcast::Receiver<StreamEvent>);

impl Events {
    /// The next event for which `pick` has a value; the others are passed over.
    pub async fn find<T>(&mut self, mut pick: impl FnMut(StreamEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = pick(self.0.recv().await.expect("events were missed")) {
                    return found;
                }
            }
        };
        bounded(found).await
    }

    /// What has happened so far.
    pub fn now(&mut self) -> Vec<StreamEvent> {
        std::iter::from_fn(|| self.0.try_recv().ok()).collect()
    }

    /// Until `count` streams have said their first word, which the server has then answered, if it has an answer.
    pub async fn opened(&mut self, count: usize) {
        for _ in 0..count {
            self.find(|event| matches!(event, StreamEvent::Opened { .. }).then_some(())).await;
        }
    }

    /// How the next stream to end ends.
    pub async fn closed(&mut self) -> Option<tonic::Code> {
        self.find(|event| match event {
            StreamEvent::Closed { code, .. } => Some(code),
            _ => None,
        })
        .await
    }
}

/// The defaults and [`SENTINEL`].
fn secrets() -> secret::Config {
    let audience = ["silence".to_owned()].into();
    let jwt_svids = [JwtRequest { subject: JwtSubject::Default, audience }].into();
    let names = sentinel(Wanted::Jwt(SENTINEL_TOKEN.parse().unwrap()));
    secret::Config { names, jwt_svids, ..secret::Config::default() }
}

fn sentinel(wanted: Wanted) -> NameTable {
    NameTable::new(vec![Entry { name: SENTINEL.parse().unwrap(), wanted }], &Naming::default()).unwrap()
}

/// Every token that is configured is gone, which makes it an empty secret.
fn gone(secrets: &secret::Config) -> watch::Receiver<Arc<JwtSnapshot>> {
    let tokens = secrets.jwt_svids.iter().map(|token| (token.clone(), JwtState::Gone(SystemTime::UNIX_EPOCH)));
    watch::Sender::new(Arc::new(JwtSnapshot { svids: tokens.collect(), ..JwtSnapshot::default() })).subscribe()
}

pub fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// `spiffe://domain.test/<path>`.
pub fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://{DOMAIN}/{path}")).unwrap()
}

pub async fn bounded<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, waiting).await.expect("nothing came in time")
}

/// Tries until it holds. For what only the file system or the kernel can tell.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let polled = async {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            pace.tick().await;
        }
    };
    tokio::time::timeout(BOUND, polled).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A connection of its own to the socket at `path`.
pub async fn unix_channel(path: PathBuf) -> Channel {
    let dial = move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    };
    bounded(endpoint().connect_with_connector(tower::service_fn(dial))).await.unwrap()
}

fn endpoint() -> tonic::transport::Endpoint {
    tonic::transport::Endpoint::from_static("http://localhost")
}
