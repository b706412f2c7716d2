//! The whole program, a development issuer and a delta client.

use std::{collections::VecDeque, future::Future, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::{Node, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret::Type},
    service::{
        discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use spiffe_sds::{
    app::{App, AppError},
    config::{Config, File, Flag, Sources},
    dev::{self, CaStep, DevIssuer, Rotation},
    identity::{JwtSnapshot, SpiffeId, TrustDomain},
    source::{Endpoint, JwtRefresh, RenewalEvent},
};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Endpoint as Transport};

pub(crate) const ID: &str = "spiffe://example.org/web";
const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) issuer: DevIssuer,
    /// One with other keys that takes over when the first is away.
    pub(crate) standby: DevIssuer,
    directory: TempDir,
    app: Option<App>,
    renewals: broadcast::Receiver<RenewalEvent>,
    tokens: watch::Receiver<Arc<JwtSnapshot>>,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), AppError>>>,
}

impl World {
    /// `web` (the default) and `api` with the hint `internal`; serves `svids`, as the variable would say it.
    pub(crate) async fn prepare(svids: &str, change: impl FnOnce(&mut dev::Config)) -> Self {
        Self::with(svids, "", change).await
    }

    /// The same with `more` in the configuration file.
    pub(crate) async fn with(svids: &str, more: &str, change: impl FnOnce(&mut dev::Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [agent, standby] = ["agent.sock", "standby.sock"].map(|name| Endpoint::Unix(directory.path().join(name)));
        let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), agent)
            .identity(SpiffeId::new(ID).unwrap(), None)
            .identity(SpiffeId::new("spiffe://example.org/api").unwrap(), Some("internal"));
        config.rotation = Rotation::Never;
        change(&mut config);
        let issuer = DevIssuer::start(config.clone()).await.unwrap();
        let standby = DevIssuer::start(dev::Config { listen: vec![standby], ..config }).await.unwrap();
        let text = format!(
            "source: {{backoff: {{initial: 20ms, max: 200ms}}, denied_grace: 300ms, \
             failover: {{lost_after: 200ms, failback_after: 300ms}}}}\n{more}"
        );
        let flag = |key: &str, value: String| Flag { flag: "--set", key: key.to_owned(), value };
        let flags = vec![
            flag("source.workload_api.endpoints", format!("{},{}", issuer.endpoint(), standby.endpoint())),
            flag("listeners", format!("unix://{}", directory.path().join("sds.sock").display())),
            flag("jwt.svids", svids.to_owned()),
        ];
        let file = Some(File { path: "test.yaml".into(), text });
        let config = Config::new(&Sources { file, flags, ..Sources::default() });
        let app = App::bind(&config.unwrap_or_else(|problems| panic!("{problems}"))).await.unwrap();
        let (renewals, tokens) = (app.renewals(), app.tokens());
        Self {
            issuer,
            standby,
            directory,
            app: Some(app),
            renewals,
            tokens,
            stop: CancellationToken::new(),
            running: None,
        }
    }

    pub(crate) async fn run(mut self) -> Self {
        let app = self.app.take().unwrap();
        self.running = Some(tokio::spawn(app.run(self.stop.clone())));
        self
    }

    pub(crate) async fn start(svids: &str, change: impl FnOnce(&mut dev::Config)) -> Self {
        Self::prepare(svids, change).await.run().await
    }

    /// What makes tokens due; before the program runs.
    pub(crate) fn refresh(&self) -> JwtRefresh {
        self.app.as_ref().unwrap().jwt_refresh()
    }

    /// From now on.
    pub(crate) fn renewals(&self) -> broadcast::Receiver<RenewalEvent> {
        self.renewals.resubscribe()
    }

    pub(crate) fn tokens(&self) -> watch::Receiver<Arc<JwtSnapshot>> {
        self.tokens.clone()
    }

    /// A whole roll-over of the JWT keys at once.
    pub(crate) fn roll_jwt_keys(&self) {
        for step in [CaStep::Prepare, CaStep::Activate, CaStep::Retire] {
            self.issuer.jwt_key_step(&TrustDomain::new("example.org").unwrap(), step).unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One delta stream that acknowledges everything.
pub(crate) struct Client {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    came: VecDeque<Secret>,
    removed: VecDeque<String>,
}

impl Client {
    pub(crate) async fn connect(world: &World) -> Self {
        let path = world.directory.path().join("sds.sock");
        let dial = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        let transport = Transport::from_static("http://localhost");
        let channel = transport.connect_with_connector(tower::service_fn(dial));
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut client = SecretDiscoveryServiceClient::new(bounded(channel).await.unwrap());
        let call = client.delta_secrets(UnboundedReceiverStream::new(outbound));
        let node = Node { id: "test".into(), cluster: "test".into(), ..Node::default() };
        requests.send(DeltaDiscoveryRequest { node: Some(node), ..DeltaDiscoveryRequest::default() }).unwrap();
        let responses = bounded(call).await.unwrap().into_inner();
        Self { requests, responses, came: VecDeque::new(), removed: VecDeque::new() }
    }

    pub(crate) async fn subscribe(&self, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(|&name| name.to_owned()).collect();
        self.requests.send(DeltaDiscoveryRequest { resource_names_subscribe, ..Default::default() }).unwrap();
    }

    /// What `name` holds next: the token, or the PEM of a chain.
    pub(crate) async fn next(&mut self, name: &str) -> String {
        bounded(self.receive_until(name)).await
    }

    async fn receive_until(&mut self, name: &str) -> String {
        loop {
            if let Some(at) = self.came.iter().position(|secret| secret.name == name) {
                return content(self.came.remove(at).unwrap());
            }
            self.receive().await;
        }
    }

    /// The same, not empty.
    pub(crate) async fn token(&mut self, name: &str) -> String {
        loop {
            let token = self.next(name).await;
            if !token.is_empty() {
                return token;
            }
        }
    }

    pub(crate) async fn expect_removed(&mut self, name: &str) {
        while !self.removed.iter().any(|removed| removed == name) {
            self.receive().await;
        }
    }

    async fn receive(&mut self) {
        let response = bounded(self.responses.message()).await.unwrap().expect("the stream goes on");
        let secrets =
            response.resources.iter().map(|it| Secret::decode(&*it.resource.as_ref().unwrap().value).unwrap());
        self.came.extend(secrets);
        self.removed.extend(response.removed_resources);
        let response_nonce = response.nonce;
        self.requests.send(DeltaDiscoveryRequest { response_nonce, ..Default::default() }).unwrap();
    }
}

fn content(secret: Secret) -> String {
    let source = match secret.r#type.unwrap() {
        Type::GenericSecret(generic) => generic.secret,
        Type::TlsCertificate(certificate) => certificate.certificate_chain,
        other => panic!("{other:?}"),
    };
    match source.unwrap().specifier.unwrap() {
        Specifier::InlineBytes(bytes) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// No wait is longer than the bound.
pub(crate) async fn bounded<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, wait).await.expect("within the bound")
}

/// The next event that is as wanted.
pub(crate) async fn event(
    renewals: &mut broadcast::Receiver<RenewalEvent>,
    wanted: impl Fn(&RenewalEvent) -> bool,
) -> RenewalEvent {
    bounded(async {
        loop {
            let event = renewals.recv().await.unwrap();
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// The next state of the tokens and keys that is as wanted.
pub(crate) async fn until(
    tokens: &mut watch::Receiver<Arc<JwtSnapshot>>,
    wanted: impl Fn(&JwtSnapshot) -> bool,
) -> Arc<JwtSnapshot> {
    bounded(tokens.wait_for(|snapshot| wanted(snapshot))).await.unwrap().clone()
}
