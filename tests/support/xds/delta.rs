//! A client that says what changes.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        extensions::transport_sockets::tls::v3::Secret,
        service::{
            discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
    },
    google::rpc::Status as Detail,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{NEVER, SECRET, envoy, owned};
use crate::support::{secrets, world::bounded};

/// One delta stream.
pub struct Delta {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
    /// What it holds: name and version.
    pub held: BTreeMap<String, String>,
    /// What came and was not answered yet.
    unanswered: Vec<String>,
    initial: BTreeMap<String, String>,
}

impl Delta {
    /// `DeltaSecrets`.
    pub async fn secrets(channel: &Channel) -> Self {
        let (requests, outbound) = mpsc::unbounded_channel();
        let call = async {
            SecretDiscoveryServiceClient::new(channel.clone())
                .delta_secrets(UnboundedReceiverStream::new(outbound))
                .await
        };
        Self::new(requests, bounded(call).await.unwrap().into_inner())
    }

    /// `DeltaAggregatedResources`.
    pub async fn aggregated(channel: &Channel) -> Self {
        let (requests, outbound) = mpsc::unbounded_channel();
        let call = async {
            AggregatedDiscoveryServiceClient::new(channel.clone())
                .delta_aggregated_resources(UnboundedReceiverStream::new(outbound))
                .await
        };
        Self::new(requests, bounded(call).await.unwrap().into_inner())
    }

    fn new(
        requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
        responses: Streaming<DeltaDiscoveryResponse>,
    ) -> Self {
        let (held, initial) = (BTreeMap::new(), BTreeMap::new());
        Self { requests, responses, node: Some(envoy(40)), held, unanswered: Vec::new(), initial }
    }

    /// Says who it is, with the first request.
    pub fn node(mut self, node: Option<Node>) -> Self {
        self.node = node;
        self
    }

    /// Says what it holds from an earlier stream, with the first request.
    pub fn holding(mut self, held: &BTreeMap<String, String>) -> Self {
        self.initial.clone_from(held);
        self.held.clone_from(held);
        self
    }

    /// Anything at all.
    pub fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).expect("the call is over");
    }

    pub async fn subscribe<const N: usize>(&mut self, names: [&str; N]) {
        self.say(DeltaDiscoveryRequest { resource_names_subscribe: owned(names), ..Default::default() });
    }

    pub async fn unsubscribe<const N: usize>(&mut self, names: [&str; N]) {
        for name in names {
            self.held.remove(name);
        }
        self.say(DeltaDiscoveryRequest { resource_names_unsubscribe: owned(names), ..Default::default() });
    }

    /// Takes what came.
    pub async fn ack(&mut self) {
        for response_nonce in std::mem::take(&mut self.unanswered) {
            self.say(DeltaDiscoveryRequest { response_nonce, ..Default::default() });
        }
    }

    /// Refuses the last of what came, and takes the rest.
    pub async fn nack(&mut self, message: &str) {
        let response_nonce = self.unanswered.pop().expect("nothing to refuse");
        self.ack().await;
        let detail = Detail { code: 13, message: message.into(), details: Vec::new() };
        self.say(DeltaDiscoveryRequest { response_nonce, error_detail: Some(detail), ..Default::default() });
    }

    fn say(&mut self, request: DeltaDiscoveryRequest) {
        let initial_resource_versions = std::mem::take(&mut self.initial).into_iter().collect();
        let node = self.node.take();
        self.send(DeltaDiscoveryRequest { node, type_url: SECRET.into(), initial_resource_versions, ..request });
    }

    /// The next response.
    pub async fn response(&mut self) -> DeltaDiscoveryResponse {
        bounded(self.responses.message()).await.unwrap().expect("the stream ended")
    }

    /// Exactly these secrets next, one a response.
    pub async fn expect<const N: usize>(&mut self, names: [&str; N]) -> Vec<Secret> {
        let mut found = Vec::new();
        for _ in 0..N {
            let response = self.response().await;
            assert_eq!(response.type_url, SECRET);
            assert!(!response.nonce.is_empty() && response.removed_resources.is_empty());
            let control_plane = response.control_plane.expect("nobody says who sent it").identifier;
            assert!(control_plane.starts_with("spiffe-sds/"), "{control_plane}");
            let [resource] = response.resources.as_slice() else { panic!("not one resource") };
            assert_eq!(response.system_version_info, resource.version);
            let secret = secrets::decode(resource.resource.as_ref().unwrap());
            assert_eq!(secret.name, resource.name);
            self.held.insert(resource.name.clone(), resource.version.clone());
            self.unanswered.push(response.nonce);
            found.push(secret);
        }
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), names);
        found
    }

    /// Next the client hears that these are not to be had.
    pub async fn expect_removed<const N: usize>(&mut self, names: [&str; N]) {
        let response = self.response().await;
        assert_eq!(response.type_url, SECRET);
        assert!(!response.nonce.is_empty() && response.resources.is_empty());
        assert_eq!(response.removed_resources, names);
        for name in names {
            self.held.remove(name);
        }
        self.unanswered.push(response.nonce);
    }

    /// Nothing is owed, neither a resource nor word that one is gone: what comes next is the answer to a question that is
    /// asked now and would be answered last.
    pub async fn expect_silence(&mut self) {
        self.subscribe([NEVER]).await;
        self.expect_removed([NEVER]).await;
        self.ack().await;
        self.unsubscribe([NEVER]).await;
    }

    /// How the stream ends; nothing comes before that.
    pub async fn end(mut self) -> Result<(), Status> {
        let end = bounded(self.responses.message()).await;
        end.map(|response| assert!(response.is_none(), "something came"))
    }
}
