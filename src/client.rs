//! An xDS client for secrets: what a server, ours or any other, would give to Envoy.
//!
//! [`subscribe`] opens streams as Envoy would and hands out what comes, decoded and checked; [`fetch`] makes the one
//! unary call. A secret that Envoy would refuse is refused with Envoy's kind of answer, everything else acknowledged.

mod call;
mod certificate;
mod channel;
pub mod secret;
mod token;

use std::{error::Error as StdError, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::{
            discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    google::protobuf::{Struct, Value},
};
use thiserror::Error;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};

pub use crate::source::Endpoint;
use call::{Call, Response};
pub use secret::Secret;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Between a stream's end and the next attempt.
const REOPEN: Duration = Duration::from_secs(1);
/// How long a server may take to end a stream that the client has ended.
const PARTING: Duration = Duration::from_secs(1);
/// Updates that wait for a slow reader before streams wait too.
const WAITING: usize = 64;

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `StreamSecrets`, a stream for each name, as Envoy opens them.
    Sotw,
    /// `DeltaSecrets`, a stream for each name.
    Delta,
    /// `StreamAggregatedResources`, one stream.
    AdsSotw,
    /// `DeltaAggregatedResources`, one stream.
    AdsDelta,
}

/// What a client asks, and as whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// The secrets wanted.
    pub names: Vec<String>,
    /// `node.id`.
    pub node: String,
    /// `node.cluster`.
    pub cluster: String,
    /// Fields of `node.metadata`.
    pub metadata: Vec<(String, serde_json::Value)>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Refuses everything, with these words.
    pub refuse: Option<String>,
}

/// Something that came from the server.
#[derive(Debug)]
pub enum Update {
    /// A secret, new or changed.
    Secret(Box<Secret>),
    /// The server has no such secret (delta only).
    Removed(String),
    /// The stream of these names ended; it is opened again in a second.
    Ended {
        /// Its names.
        names: Vec<String>,
        /// Why.
        error: ClientError,
    },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("cannot connect to {endpoint}; is the server running, and may this user open it?")]
    Connect {
        /// The address.
        endpoint: Endpoint,
        /// What happened.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server ended a call with an error.
    #[error("the server refused {names}: {code:?}: {message}{hint}")]
    Refused {
        /// The names asked for.
        names: String,
        /// The gRPC status.
        code: Code,
        /// The server's words.
        message: String,
        /// What this often means.
        hint: &'static str,
    },
    /// The server ended a stream without an error.
    #[error("the server ended the stream of {names}; it may be restarting")]
    Closed {
        /// The names asked for.
        names: String,
    },
}

/// Open streams; cut when dropped.
#[derive(Debug)]
pub struct Subscription {
    updates: mpsc::Receiver<Update>,
    streams: JoinSet<()>,
    stop: CancellationToken,
}

impl Subscription {
    /// The next update. Never ends by itself: streams that end are opened again.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// Ends the streams in good order, so that the last answers reach the server; takes a second at most.
    pub async fn close(mut self) {
        self.stop.cancel();
        self.updates.close();
        let ended = async { while self.streams.join_next().await.is_some() {} };
        // A server that does not end its half in time is left alone.
        let _ = tokio::time::timeout(PARTING, ended).await;
    }
}

/// Connects and subscribes.
///
/// # Errors
/// [`ClientError::Connect`]. What happens later comes as [`Update::Ended`].
pub async fn subscribe(config: &Config, variant: Variant) -> Result<Subscription, ClientError> {
    let channel = connect(config).await?;
    let (sender, updates) = mpsc::channel(WAITING);
    let (mut streams, stop) = (JoinSet::new(), CancellationToken::new());
    let groups = match variant {
        Variant::Sotw | Variant::Delta => config.names.iter().map(|name| vec![name.clone()]).collect(),
        Variant::AdsSotw | Variant::AdsDelta => vec![config.names.clone()],
    };
    for names in groups {
        let config = Config { names, ..config.clone() };
        streams.spawn(follow(channel.clone(), config, variant, sender.clone(), stop.clone()));
    }
    Ok(Subscription { updates, streams, stop })
}

/// Asks once (`FetchSecrets`). Names that the server does not have are absent.
///
/// # Errors
/// [`ClientError::Connect`] and [`ClientError::Refused`].
pub async fn fetch(config: &Config) -> Result<Vec<Secret>, ClientError> {
    let mut client = SecretDiscoveryServiceClient::new(connect(config).await?);
    let request = DiscoveryRequest {
        node: Some(config.node()),
        resource_names: config.names.clone(),
        type_url: SECRET.into(),
        ..DiscoveryRequest::default()
    };
    match client.fetch_secrets(request).await {
        Ok(response) => Ok(Response::from(response.into_inner()).secrets()),
        Err(status) if status.code() == Code::NotFound => Ok(Vec::new()),
        Err(status) => Err(refused(&config.names, &status)),
    }
}

async fn connect(config: &Config) -> Result<Channel, ClientError> {
    channel::connect(&config.endpoint, config.connect_timeout)
        .await
        .map_err(|source| ClientError::Connect { endpoint: config.endpoint.clone(), source })
}

/// Keeps one stream open until told to stop.
async fn follow(
    channel: Channel,
    config: Config,
    variant: Variant,
    updates: mpsc::Sender<Update>,
    stop: CancellationToken,
) {
    let mut held = call::Held::default();
    loop {
        let error = match exchange(&channel, &config, variant, &mut held, &updates, &stop).await {
            Ok(()) => ClientError::Closed { names: config.names.join(", ") },
            Err(status) => refused(&config.names, &status),
        };
        if updates.send(Update::Ended { names: config.names.clone(), error }).await.is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REOPEN) => {}
        }
    }
}

/// One stream from its first request to its end.
async fn exchange(
    channel: &Channel,
    config: &Config,
    variant: Variant,
    held: &mut call::Held,
    updates: &mpsc::Sender<Update>,
    stop: &CancellationToken,
) -> Result<(), Status> {
    let mut call = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        call = Call::open(channel, config, variant, held) => call?,
    };
    loop {
        let response = tokio::select! {
            () = stop.cancelled() => return call.end().await,
            response = call.next() => response?,
        };
        let Some(response) = response else { return Ok(()) };
        let secrets = response.secrets();
        let problem = secrets.iter().find_map(|secret| secret.problems.first().cloned());
        call.answer(config, held, &response, config.refuse.clone().or(problem));
        let secrets = secrets.into_iter().map(|secret| Update::Secret(Box::new(secret)));
        for update in secrets.chain(response.removed.into_iter().map(Update::Removed)) {
            // Nobody listens: the stop is on its way.
            let _ = updates.send(update).await;
        }
    }
}

fn refused(names: &[String], status: &Status) -> ClientError {
    let hint = match status.code() {
        Code::InvalidArgument | Code::NotFound => " (SPIRE ends a stream for a name it does not know)",
        Code::PermissionDenied => " (is this process registered as a workload?)",
        Code::Unimplemented => " (the server does not have this method; try another --variant)",
        _ => "",
    };
    let message = secret::printable(status.message());
    ClientError::Refused { names: names.join(", "), code: status.code(), message, hint }
}

impl Config {
    fn node(&self) -> Node {
        let fields = self.metadata.iter().map(|(key, value)| (key.clone(), proto(value))).collect();
        let metadata = (!self.metadata.is_empty()).then_some(Struct { fields });
        Node {
            id: self.node.clone(),
            cluster: self.cluster.clone(),
            metadata,
            user_agent_name: "spiffe-sds".into(),
            ..Node::default()
        }
    }
}

/// JSON as `google.protobuf.Value`.
fn proto(value: &serde_json::Value) -> Value {
    use envoy_types::pb::google::protobuf::{ListValue, value::Kind};
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value.clone()),
        serde_json::Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(proto).collect() }),
        serde_json::Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), proto(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
