//! One stream of either kind: how to ask, to read and to answer.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::{
    envoy::service::{
        discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
    google::{protobuf::Any, rpc},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{Config, SECRET, Variant, secret::Secret};

/// The code Envoy gives for whatever it refuses (`INTERNAL`).
const REFUSED: i32 = 13;

/// What was acknowledged, to be named when a stream is opened again.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// SotW.
    version: String,
    /// Delta: by name.
    versions: BTreeMap<String, String>,
}

/// One response of either kind.
#[derive(Debug)]
pub(super) struct Response {
    /// With their versions.
    resources: Vec<(String, Any)>,
    pub(super) removed: Vec<String>,
    version: String,
    nonce: String,
    type_url: String,
}

pub(super) enum Call {
    Sotw { requests: mpsc::UnboundedSender<DiscoveryRequest>, responses: Streaming<DiscoveryResponse> },
    Delta { requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>, responses: Streaming<DeltaDiscoveryResponse> },
}

impl Call {
    /// Opens a stream and asks. Some servers say nothing, not even that they accept, before they have an answer.
    pub(super) async fn open(
        channel: &Channel,
        config: &Config,
        variant: Variant,
        held: &Held,
    ) -> Result<Self, Status> {
        match variant {
            Variant::Sotw | Variant::AdsSotw => {
                let (requests, outbound) = mpsc::unbounded_channel();
                let first = DiscoveryRequest { node: Some(config.node()), ..sotw(config, &held.version) };
                // The receiver is at hand, so this cannot fail.
                let _ = requests.send(first);
                let outbound = UnboundedReceiverStream::new(outbound);
                let responses = if variant == Variant::Sotw {
                    SecretDiscoveryServiceClient::new(channel.clone()).stream_secrets(outbound).await?
                } else {
                    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
                    client.stream_aggregated_resources(outbound).await?
                };
                Ok(Self::Sotw { requests, responses: responses.into_inner() })
            }
            Variant::Delta | Variant::AdsDelta => {
                let (requests, outbound) = mpsc::unbounded_channel();
                let first = DeltaDiscoveryRequest {
                    node: Some(config.node()),
                    type_url: SECRET.into(),
                    resource_names_subscribe: config.names.clone(),
                    initial_resource_versions: held.versions.clone().into_iter().collect::<HashMap<_, _>>(),
                    ..DeltaDiscoveryRequest::default()
                };
                let _ = requests.send(first);
                let outbound = UnboundedReceiverStream::new(outbound);
                let responses = if variant == Variant::Delta {
                    SecretDiscoveryServiceClient::new(channel.clone()).delta_secrets(outbound).await?
                } else {
                    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
                    client.delta_aggregated_resources(outbound).await?
                };
                Ok(Self::Delta { requests, responses: responses.into_inner() })
            }
        }
    }

    /// The next response; `None` when the server is done.
    pub(super) async fn next(&mut self) -> Result<Option<Response>, Status> {
        Ok(match self {
            Self::Sotw { responses, .. } => responses.message().await?.map(Into::into),
            Self::Delta { responses, .. } => responses.message().await?.map(Into::into),
        })
    }

    /// Has nothing more to say, and hears the server out.
    pub(super) async fn end(self) -> Result<(), Status> {
        match self {
            Self::Sotw { requests, mut responses } => {
                drop(requests);
                while responses.message().await?.is_some() {}
            }
            Self::Delta { requests, mut responses } => {
                drop(requests);
                while responses.message().await?.is_some() {}
            }
        }
        Ok(())
    }

    /// Acknowledges a response, or refuses it with these words. A stream that is gone says so on its next read.
    pub(super) fn answer(&self, config: &Config, held: &mut Held, response: &Response, refusal: Option<String>) {
        if refusal.is_none() {
            held.version.clone_from(&response.version);
            held.versions.retain(|name, _| !response.removed.contains(name));
            held.versions.extend(response.secrets().into_iter().map(|secret| (secret.name, secret.version)));
        }
        let error_detail = refusal.map(|message| rpc::Status { code: REFUSED, message, details: Vec::new() });
        let response_nonce = response.nonce.clone();
        match self {
            Self::Sotw { requests, .. } => {
                let answer = DiscoveryRequest { response_nonce, error_detail, ..sotw(config, &held.version) };
                let _ = requests.send(answer);
            }
            Self::Delta { requests, .. } => {
                let type_url = SECRET.into();
                let _ = requests.send(DeltaDiscoveryRequest {
                    type_url,
                    response_nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                });
            }
        }
    }
}

/// All that each SotW request says.
fn sotw(config: &Config, version: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: version.to_owned(),
        resource_names: config.names.clone(),
        type_url: SECRET.into(),
        ..DiscoveryRequest::default()
    }
}

impl Response {
    /// What of it are secrets, decoded.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        if !matches!(self.type_url.as_str(), "" | SECRET) {
            return Vec::new();
        }
        self.resources.iter().map(|(version, any)| Secret::decode(version, &any.value)).collect()
    }
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Self {
        let version = response.version_info;
        Self {
            resources: response.resources.into_iter().map(|any| (version.clone(), any)).collect(),
            removed: Vec::new(),
            version,
            nonce: response.nonce,
            type_url: response.type_url,
        }
    }
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let resources = response.resources.into_iter();
        Self {
            resources: resources.filter_map(|resource| Some((resource.version, resource.resource?))).collect(),
            removed: response.removed_resources,
            version: response.system_version_info,
            nonce: response.nonce,
            type_url: response.type_url,
        }
    }
}
