//! A client that says the whole list each time.

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        extensions::transport_sockets::tls::v3::Secret,
        service::{
            discovery::v3::{
                DiscoveryRequest, DiscoveryResponse,
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

use super::{SECRET, SENTINEL, envoy, owned};
use crate::support::{secrets, world::bounded};

/// One SotW stream.
pub struct Sotw {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    node: Option<Node>,
    names: Vec<String>,
    /// The last version that was acknowledged, here or on an earlier stream.
    pub version: String,
    /// The last nonce that came.
    pub nonce: String,
    /// What came and was not answered yet: version and nonce.
    unanswered: Vec<(String, String)>,
}

impl Sotw {
    /// `StreamSecrets`.
    pub async fn secrets(channel: &Channel) -> Self {
        let (requests, outbound) = mpsc::unbounded_channel();
        let call = async {
            SecretDiscoveryServiceClient::new(channel.clone())
                .stream_secrets(UnboundedReceiverStream::new(outbound))
                .await
        };
        Self::new(requests, bounded(call).await.unwrap().into_inner())
    }

    /// `StreamAggregatedResources`.
    pub async fn aggregated(channel: &Channel) -> Self {
        let (requests, outbound) = mpsc::unbounded_channel();
        let call = async {
            AggregatedDiscoveryServiceClient::new(channel.clone())
                .stream_aggregated_resources(UnboundedReceiverStream::new(outbound))
                .await
        };
        Self::new(requests, bounded(call).await.unwrap().into_inner())
    }

    fn new(requests: mpsc::UnboundedSender<DiscoveryRequest>, responses: Streaming<DiscoveryResponse>) -> Self {
        Self {
            requests,
            responses,
            node: Some(envoy(40)),
            names: Vec::new(),
            version: String::new(),
            nonce: String::new(),
            unanswered: Vec::new(),
        }
    }

    /// Says who it is, with the first request.
    pub fn node(mut self, node: Option<Node>) -> Self {
        self.node = node;
        self
    }

    /// Says what it holds from an earlier stream, with the first request.
    pub fn holding(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// Anything at all.
    pub fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).expect("the call is over");
    }

    /// The whole list, spontaneously: with the last version and nonce.
    pub async fn subscribe<const N: usize>(&mut self, names: [&str; N]) {
        self.names = owned(names);
        let (version, nonce) = (self.version.clone(), self.nonce.clone());
        self.say(version, nonce, None);
    }

    /// The same as the last time, word for word.
    pub async fn repeat(&mut self) {
        let (version, nonce) = (self.version.clone(), self.nonce.clone());
        self.say(version, nonce, None);
    }

    /// Takes what came.
    pub async fn ack(&mut self) {
        for (version, nonce) in std::mem::take(&mut self.unanswered) {
            self.version.clone_from(&version);
            self.say(version, nonce, None);
        }
    }

    /// Refuses the last of what came, and takes the rest.
    pub async fn nack(&mut self, message: &str) {
        let (_, nonce) = self.unanswered.pop().expect("nothing to refuse");
        self.ack().await;
        let detail = Detail { code: 13, message: message.into(), details: Vec::new() };
        self.say(self.version.clone(), nonce, Some(detail));
    }

    fn say(&mut self, version_info: String, response_nonce: String, error_detail: Option<Detail>) {
        let node = self.node.take();
        self.send(DiscoveryRequest {
            version_info,
            node,
            resource_names: self.names.clone(),
            type_url: SECRET.into(),
            response_nonce,
            error_detail,
            ..DiscoveryRequest::default()
        });
    }

    /// The next response.
    pub async fn response(&mut self) -> DiscoveryResponse {
        bounded(self.responses.message()).await.unwrap().expect("the stream ended")
    }

    /// Exactly these secrets next, one a response.
    pub async fn expect<const N: usize>(&mut self, names: [&str; N]) -> Vec<Secret> {
        let mut found = Vec::new();
        for _ in 0..N {
            let response = self.response().await;
            assert_eq!(response.type_url, SECRET);
            assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
            let control_plane = response.control_plane.expect("nobody says who sent it").identifier;
            assert!(control_plane.starts_with("spiffe-sds/"), "{control_plane}");
            let [resource] = response.resources.as_slice() else { panic!("not one resource") };
            found.push(secrets::decode(resource));
            self.nonce.clone_from(&response.nonce);
            self.unanswered.push((response.version_info, response.nonce));
        }
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), names);
        found
    }

    /// Nothing is owed: what comes next is the answer to a question that is asked now and would be answered last.
    pub async fn expect_silence(&mut self) {
        let names = self.names.clone();
        self.names.push(SENTINEL.to_owned());
        self.repeat().await;
        self.expect([SENTINEL]).await;
        self.names = names;
        self.ack().await;
    }

    /// How the stream ends; nothing comes before that.
    pub async fn end(mut self) -> Result<(), Status> {
        let end = bounded(self.responses.message()).await;
        end.map(|response| assert!(response.is_none(), "something came"))
    }

    /// Says that it has nothing more to say, and hears the end.
    pub async fn hang_up(self) -> Result<(), Status> {
        let Self { requests, mut responses, .. } = self;
        drop(requests);
        while bounded(responses.message()).await?.is_some() {}
        Ok(())
    }
}
