//! xDS clients of every variant. A test reads like a transcript:
//!
//! ```text
//! client.subscribe(["default"]).await;
//! client.expect(["default"]).await;
//! client.ack().await;
//! client.expect_silence().await;
//! ```
//!
//! Responses come one resource each, so `expect` takes as many of them as it is given names, in this order.

mod delta;
mod raw;
mod sotw;

pub use delta::Delta;
pub use raw::{Call, Raw, framed};
pub use sotw::Sotw;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{BuildVersion, Node, node::UserAgentVersionType},
        service::{
            discovery::v3::{DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
        },
        r#type::v3::SemanticVersion,
    },
    google::protobuf::{Struct, Value, value::Kind},
};
use tonic::{Status, transport::Channel};

use super::world::bounded;

pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// What a silence is found out with: a credential, which comes after trust, under the last of all names. Whatever is
/// owed comes before it. It is a token that is gone, so that it is there even when no certificate is.
pub const SENTINEL: &str = "~";
/// What `SENTINEL` stands for, but where wildcards would list it.
pub const SENTINEL_TOKEN: &str = "jwt:silence";
/// The same for delta: a token that nobody has configured cannot be had, which is said when all else has been.
pub const NEVER: &str = "jwt:never";

/// The node of an Envoy.
pub fn envoy(minor: u32) -> Node {
    let version = SemanticVersion { major_number: 1, minor_number: minor, patch: 0 };
    let build = BuildVersion { version: Some(version), metadata: None };
    Node {
        id: "envoy-1".into(),
        cluster: "test".into(),
        user_agent_name: "envoy".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
        ..Node::default()
    }
}

/// The same with SPIRE's switch in its metadata.
pub fn with_switch(node: Node, value: Kind) -> Node {
    let fields = [("disable_spiffe_cert_validation".to_owned(), Value { kind: Some(value) })].into();
    Node { metadata: Some(Struct { fields }), ..node }
}

/// One `FetchSecrets` call.
pub async fn fetch(channel: &Channel, node: Node, names: &[&str]) -> Result<DiscoveryResponse, Status> {
    let request = DiscoveryRequest { node: Some(node), ..request(names) };
    bounded(SecretDiscoveryServiceClient::new(channel.clone()).fetch_secrets(request))
        .await
        .map(tonic::Response::into_inner)
}

/// The start of a request for secrets.
pub fn request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { resource_names: owned(names), type_url: SECRET.into(), ..DiscoveryRequest::default() }
}

pub fn owned<S: AsRef<str>>(names: impl AsRef<[S]>) -> Vec<String> {
    names.as_ref().iter().map(|name| name.as_ref().to_owned()).collect()
}
