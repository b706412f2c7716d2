//! Requests: the few fields of a `DiscoveryRequest` that decide anything.
//!
//! Envoy's first request carries about 61 KB of `Node`, 516 extension descriptors among it. The messages here declare
//! only what is used, so the rest is skipped while decoding and never allocated.

use prost_types::Struct;

use super::{AgentVersion, EnvoyVersion, Node, ResourceName, UserAgent, Variant, Version};
use crate::printable::is_hidden;

/// `envoy.service.discovery.v3.DiscoveryRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireSotw {
    /// The last accepted version.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Guaranteed on the first message of a stream only.
    #[prost(message, optional, tag = "2")]
    pub node: Option<WireNode>,
    /// The whole list, each time.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// May be absent on the secret discovery service.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Which response this answers.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Present in a rejection.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<WireStatus>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireDelta {
    /// Guaranteed on the first message of a stream only; Envoy before 1.38 repeats it in every one.
    #[prost(message, optional, tag = "1")]
    pub node: Option<WireNode>,
    /// May be absent on the secret discovery service.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to add.
    #[prost(string, repeated, tag = "3")]
    pub subscribe: Vec<String>,
    /// Names to forget.
    #[prost(string, repeated, tag = "4")]
    pub unsubscribe: Vec<String>,
    /// What a reconnecting client holds: name to version.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_versions: std::collections::BTreeMap<String, String>,
    /// Which response this answers; empty when it answers none.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Present in a rejection.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<WireStatus>,
}

/// `envoy.config.core.v3.Node`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireNode {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Struct>,
    #[prost(string, tag = "6")]
    agent: String,
    #[prost(string, tag = "7")]
    agent_version: String,
    #[prost(message, optional, tag = "8")]
    build: Option<WireBuild>,
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, prost::Message)]
struct WireBuild {
    #[prost(message, optional, tag = "1")]
    version: Option<WireVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct WireVersion {
    #[prost(uint32, tag = "1")]
    major: u32,
    #[prost(uint32, tag = "2")]
    minor: u32,
    #[prost(uint32, tag = "3")]
    patch: u32,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WireStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl From<WireNode> for Node {
    fn from(wire: WireNode) -> Self {
        let version = wire.build.and_then(|build| build.version);
        let build = version.map(|WireVersion { major, minor, patch }| AgentVersion::Build { major, minor, patch });
        let text = Some(wire.agent_version).filter(|text| !text.is_empty()).map(AgentVersion::Text);
        Self {
            id: wire.id,
            cluster: wire.cluster,
            version: version.map(|v| EnvoyVersion { major: v.major, minor: v.minor }),
            metadata: wire.metadata,
            agent: UserAgent { name: wire.agent, version: build.or(text) },
        }
    }
}

/// Why a client refused a response, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `google.rpc.Code`; Envoy always says 13.
    pub code: i32,
    /// The client's text: bounded, and control characters escaped, because it ends up in logs.
    pub message: String,
}

impl From<WireStatus> for Rejection {
    fn from(wire: WireStatus) -> Self {
        const KEPT: usize = 512;
        let mut message = String::new();
        for c in wire.message.chars().take(KEPT) {
            if is_hidden(c) { message.extend(c.escape_default()) } else { message.push(c) }
        }
        Self { code: wire.code, message }
    }
}

/// What a state-of-the-world request says about its subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SotwRequest {
    /// Empty, or the last version the client accepted.
    pub version_info: String,
    /// The whole list of names.
    pub names: Vec<ResourceName>,
    /// Empty, or the response that this answers.
    pub nonce: String,
    /// Present in a rejection.
    pub rejection: Option<Rejection>,
}

/// What an incremental request says about its subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaRequest {
    /// Names to add.
    pub subscribe: Vec<ResourceName>,
    /// Names to forget.
    pub unsubscribe: Vec<ResourceName>,
    /// What the client holds from an earlier stream.
    pub initial_versions: Vec<(ResourceName, Version)>,
    /// Empty, or the response that this answers.
    pub nonce: String,
    /// Present in a rejection.
    pub rejection: Option<Rejection>,
}

/// A request as decoded from the wire, of either variant.
pub trait Wire: prost::Message + Default + 'static {
    /// The protocol that this is a request of.
    const VARIANT: Variant;
    /// The number of the field that holds the node.
    const NODE_FIELD: u32;
    /// The numbers of the other fields that are used.
    const FIELDS: &'static [u32];
    /// Takes the node out, if the message carries one.
    fn take_node(&mut self) -> Option<WireNode>;
    /// The type URL as sent; may be empty.
    fn type_url(&self) -> &str;
    /// The request that it makes of its subscription.
    fn into_request(self) -> Request;
}

/// A request of either variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// State of the world.
    Sotw(SotwRequest),
    /// Incremental.
    Delta(DeltaRequest),
}

impl Wire for WireSotw {
    const VARIANT: Variant = Variant::Sotw;
    const NODE_FIELD: u32 = 2;
    const FIELDS: &'static [u32] = &[1, 3, 4, 5, 6];

    fn take_node(&mut self) -> Option<WireNode> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        Request::Sotw(SotwRequest {
            version_info: self.version_info,
            names: names(self.resource_names),
            nonce: self.response_nonce,
            rejection: self.error_detail.map(Rejection::from),
        })
    }
}

impl Wire for WireDelta {
    const VARIANT: Variant = Variant::Delta;
    const NODE_FIELD: u32 = 1;
    const FIELDS: &'static [u32] = &[2, 3, 4, 5, 6, 7];

    fn take_node(&mut self) -> Option<WireNode> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn into_request(self) -> Request {
        let initial = self.initial_versions.into_iter();
        Request::Delta(DeltaRequest {
            subscribe: names(self.subscribe),
            unsubscribe: names(self.unsubscribe),
            initial_versions: initial.map(|(name, version)| (name.into(), Version::claimed(&version))).collect(),
            nonce: self.response_nonce,
            rejection: self.error_detail.map(Rejection::from),
        })
    }
}

fn names(wire: Vec<String>) -> Vec<ResourceName> {
    wire.into_iter().map(ResourceName::from).collect()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{BuildVersion, Extension, Node as EnvoyNode, node::UserAgentVersionType},
            service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
            r#type::v3::SemanticVersion,
        },
        google::{
            protobuf::{Struct, Value, value::Kind},
            rpc::Status,
        },
    };
    use prost::Message as _;

    use super::*;

    fn envoy_node(flag: Kind) -> EnvoyNode {
        let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 0 };
        EnvoyNode {
            id: "n".into(),
            cluster: "c".into(),
            extensions: vec![Extension { name: "x".repeat(1000), ..Default::default() }; 3],
            metadata: Some(Struct { fields: [("flag".to_owned(), Value { kind: Some(flag) })].into() }),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
                version: Some(version),
                metadata: None,
            })),
            ..Default::default()
        }
    }

    #[test]
    fn reads_what_envoy_writes() {
        let request = DiscoveryRequest {
            version_info: "v".into(),
            node: Some(envoy_node(Kind::BoolValue(true))),
            resource_names: vec!["a".into(), "b".into()],
            type_url: "t".into(),
            response_nonce: "n".into(),
            error_detail: Some(Status { code: 13, message: "no\nway".into(), details: vec![] }),
            ..Default::default()
        };
        let mut wire = WireSotw::decode(request.encode_to_vec().as_slice()).unwrap();
        let node = Node::from(wire.take_node().unwrap());
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("n", "c"));
        assert_eq!(node.version, Some(EnvoyVersion { major: 1, minor: 40 }));
        assert_eq!(node.metadata_flag("flag"), Some(true));
        let Request::Sotw(request) = wire.into_request() else { panic!("not sotw") };
        assert_eq!(request.rejection.unwrap().message, "no\\nway");
        assert_eq!((request.version_info.as_str(), request.nonce.as_str()), ("v", "n"));
        assert_eq!(request.names, ["a".into(), "b".into()]);
    }

    #[test]
    fn reads_what_envoy_writes_in_delta() {
        let request = DeltaDiscoveryRequest {
            node: Some(envoy_node(Kind::StringValue("true".into()))),
            resource_names_subscribe: vec!["a".into()],
            resource_names_unsubscribe: vec!["b".into()],
            initial_resource_versions: [("a".to_owned(), "v".to_owned())].into(),
            response_nonce: "n".into(),
            ..Default::default()
        };
        let wire = WireDelta::decode(request.encode_to_vec().as_slice()).unwrap();
        let Request::Delta(request) = wire.into_request() else { panic!("not delta") };
        assert_eq!(request.subscribe, ["a".into()]);
        assert_eq!(request.unsubscribe, ["b".into()]);
        assert_eq!(request.initial_versions, [("a".into(), Version::claimed("v"))]);
        assert_eq!(request.nonce, "n");
    }

    #[test]
    fn a_flag_is_a_boolean_or_spells_one() {
        let flag = |kind: Kind| {
            let bytes = envoy_node(kind).encode_to_vec();
            Node::from(WireNode::decode(bytes.as_slice()).unwrap()).metadata_flag("flag")
        };
        assert_eq!(flag(Kind::StringValue("f".into())), Some(false));
        assert_eq!(flag(Kind::StringValue("test".into())), None);
        assert_eq!(flag(Kind::NumberValue(5.0)), None);
        assert_eq!(Node::default().metadata_flag("flag"), None);
    }

    #[test]
    fn a_rejection_is_bounded() {
        let wire = WireStatus { code: 13, message: "x".repeat(100_000) };
        assert_eq!(Rejection::from(wire).message.len(), 512);
    }
}
