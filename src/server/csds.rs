//! `envoy.service.status.v3.ClientStatusDiscoveryService`, the control plane's side: which client holds which version of
//! what, and who refused what in which words.
//!
//! Contents are never attached, so there is nothing to redact. One client has many streams; they are put together by
//! peer and `node.id`.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::middleware::Next;
use envoy_types::pb::{
    envoy::{
        admin::v3::UpdateFailureState,
        config::core::v3::{BuildVersion, Node, node::UserAgentVersionType},
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
            client_config::GenericXdsConfig,
            client_status_discovery_service_server::{
                ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
            },
        },
        r#type::{
            matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
            v3::SemanticVersion,
        },
    },
    google::protobuf::{Struct, Timestamp},
};
use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tonic::{Request, Response, Status, Streaming};

use super::registry::{NameView, State, StreamView, Streams};
use crate::{
    listen::{
        Peer,
        messages::{Bounds, Messages},
    },
    xds::{AgentVersion, Details, SECRET_TYPE_URL},
};

/// Bytes of one request; it holds matchers and nothing else of use.
const REQUEST: usize = 8 << 10;
/// From the first byte of a request to its last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The method that is asked more than once.
const STREAMING: &str = "/StreamClientStatus";

/// The service, for the admin listener.
#[must_use]
pub fn service(streams: Streams) -> ClientStatusDiscoveryServiceServer<impl ClientStatusDiscoveryService> {
    ClientStatusDiscoveryServiceServer::new(Csds { streams, turn: Arc::new(Semaphore::new(1)) })
}

/// Stands before the service: no request is too large, and none takes for ever.
pub async fn bounded(request: axum::extract::Request, next: Next) -> axum::response::Response {
    let unary = !request.uri().path().ends_with(STREAMING);
    let bounds = Bounds { bytes: REQUEST, patience: PATIENCE, unary };
    next.run(request.map(|body| axum::body::Body::new(Messages::new(body, bounds)))).await
}

#[derive(Clone)]
struct Csds {
    streams: Streams,
    /// One answer is made at a time, aside from the threads that serve proxies.
    turn: Arc<Semaphore>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = Answers;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let csds = self.clone();
        let answers = request.into_inner().then(move |request| {
            let csds = csds.clone();
            async move { csds.answer(request?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.into_inner()).await.map(Response::new)
    }
}

impl Csds {
    /// The answer to a request that is here as a whole.
    async fn answer(&self, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let (streams, turn) = (self.streams.clone(), self.turn.clone());
        let turn = turn.acquire_owned().await.map_err(|_| Status::unavailable("the server is going away"))?;
        let made = spawn_blocking(move || {
            let answer = answer(&streams, &request);
            drop(turn);
            answer
        });
        made.await.map_err(|_| Status::internal("the answer cannot be made"))?
    }
}

/// One client: who it is by the kernel's word, and who it says it is.
type Key = (String, String);

fn answer(streams: &Streams, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
    let matchers: Vec<_> = request.node_matchers.iter().map(matcher).collect::<Result<_, _>>()?;
    let mut clients: BTreeMap<Key, (Node, BTreeMap<String, NameView>)> = BTreeMap::new();
    for stream in streams.all() {
        let node = &stream.client.node;
        if !matchers.is_empty() && !matchers.iter().any(|matches| matches(node)) {
            continue;
        }
        let (_, names) =
            clients.entry((scope(&stream), node.clone())).or_insert_with(|| (told(&stream), BTreeMap::new()));
        for name in stream.names {
            let key = name.name.to_string();
            match names.get(&key) {
                Some(other) if other.state >= name.state => {}
                _ => {
                    names.insert(key, name);
                }
            }
        }
    }
    let client = |((scope, _), (node, names)): (Key, (Node, BTreeMap<String, NameView>))| ClientConfig {
        node: Some(node),
        generic_xds_configs: names.into_iter().map(|(name, view)| config(name, &view)).collect(),
        client_scope: scope,
        ..ClientConfig::default()
    };
    Ok(ClientStatusResponse { config: clients.into_iter().map(client).collect() })
}

/// The node as the client told it, as far as that is remembered.
fn told(stream: &StreamView) -> Node {
    let Details { agent, metadata } = &*stream.details;
    let version = agent.version.clone().map(|version| match version {
        AgentVersion::Text(text) => UserAgentVersionType::UserAgentVersion(text),
        AgentVersion::Build { major: major_number, minor: minor_number, patch } => {
            let version = Some(SemanticVersion { major_number, minor_number, patch });
            UserAgentVersionType::UserAgentBuildVersion(BuildVersion { version, metadata: None })
        }
    });
    Node {
        id: stream.client.node.clone(),
        cluster: stream.client.cluster.clone(),
        user_agent_name: agent.name.clone(),
        user_agent_version_type: version,
        // It was encoded here.
        metadata: Some(metadata).filter(|it| !it.is_empty()).and_then(|it| Struct::decode(it.as_slice()).ok()),
        ..Node::default()
    }
}

/// The peer without what differs between its connections.
fn scope(stream: &StreamView) -> String {
    match stream.client.peer {
        Peer::Address(address) => address.ip().to_string(),
        process @ Peer::Process { .. } => process.to_string(),
    }
}

fn config(name: String, view: &NameView) -> GenericXdsConfig {
    let status = match view.state {
        State::Synced => ConfigStatus::Synced,
        State::NotSent | State::Never => ConfigStatus::NotSent,
        State::Stale => ConfigStatus::Stale,
        State::Error => ConfigStatus::Error,
    };
    // What the client uses; what it refused stands in the error.
    let version = view.held.as_ref().map(ToString::to_string).unwrap_or_default();
    let error = view.rejection.as_ref().map(|words| UpdateFailureState {
        details: words.to_string(),
        version_info: view.rejected.as_ref().map(ToString::to_string).unwrap_or_default(),
        last_update_attempt: view.sent.map(timestamp),
        ..UpdateFailureState::default()
    });
    GenericXdsConfig {
        type_url: SECRET_TYPE_URL.to_owned(),
        name,
        version_info: version,
        last_updated: view.acked.or(view.sent).map(timestamp),
        config_status: status.into(),
        error_state: error,
        ..GenericXdsConfig::default()
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

type Matches = Box<dyn Fn(&str) -> bool>;

/// What a matcher of nodes says of a `node.id`.
fn matcher(matcher: &NodeMatcher) -> Result<Matches, Status> {
    if !matcher.node_metadatas.is_empty() {
        return Err(Status::invalid_argument("node metadata is not kept; match node_id instead"));
    }
    let Some(StringMatcher { ignore_case, match_pattern: Some(pattern) }) = matcher.node_id.clone() else {
        return Ok(Box::new(|_| true));
    };
    let fold = move |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    Ok(match pattern {
        MatchPattern::Exact(text) => Box::new(move |node| fold(node) == fold(&text)),
        MatchPattern::Prefix(text) => Box::new(move |node| fold(node).starts_with(&fold(&text))),
        MatchPattern::Suffix(text) => Box::new(move |node| fold(node).ends_with(&fold(&text))),
        MatchPattern::Contains(text) => Box::new(move |node| fold(node).contains(&fold(&text))),
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => {
            return Err(Status::invalid_argument("node_id can be matched by exact, prefix, suffix and contains only"));
        }
    })
}
