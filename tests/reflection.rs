//! Reflection as `grpcurl` uses it: over a real socket, services listed, files fetched, and messages of Envoy's own API read
//! through the descriptors that were fetched.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            BuildVersion, ControlPlane, DataSource, Node, TypedExtensionConfig, data_source::Specifier,
            node::UserAgentVersionType,
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
            spiffe_cert_validator_config::TrustDomain,
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
        },
        r#type::v3::SemanticVersion,
    },
    google::{
        protobuf::{Any, Struct, Value, value::Kind},
        rpc::Status,
    },
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _};
use spiffe_sds::{
    identity::Availability,
    listen,
    secret::Config as Secrets,
    server::{Config, Server},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::{v1, v1alpha};

const SDS: &str = "envoy.service.secret.v3.SecretDiscoveryService";
const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
/// Ends a test that would hang.
const BOUND: Duration = Duration::from_secs(60);

/// A server with nothing to serve yet, and a client of it.
struct Fixture {
    channel: Channel,
    stop: CancellationToken,
    running: JoinHandle<()>,
    _states: watch::Sender<Availability>,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("sds.sock");
        let unix = listen::UnixConfig { path: path.clone(), mode: 0o600, owner: None, group: None };
        let config = Config { listeners: vec![listen::Config::Unix(unix)], ..Config::default() };
        let server = Server::bind(config, Secrets::default()).await.unwrap();
        let (states, watched) = watch::channel(Availability::Pending);
        let stop = CancellationToken::new();
        let run = server.run(watched, stop.clone());
        let running = tokio::spawn(async move { run.await.unwrap() });
        let channel = Endpoint::try_from(format!("unix://{}", path.display())).unwrap().connect().await.unwrap();
        Self { channel, stop, running, _states: states, _directory: directory }
    }

    async fn ask(&self, question: v1::server_reflection_request::MessageRequest) -> Answer {
        let request = v1::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(self.channel.clone());
        let stream = bounded(client.server_reflection_info(tokio_stream::once(request))).await;
        let mut answers = stream.unwrap().into_inner();
        bounded(answers.message()).await.unwrap().unwrap().message_response.unwrap()
    }

    /// The file with `symbol` and all that it imports, as a client collects them.
    async fn descriptors(&self, symbols: &[&str]) -> DescriptorPool {
        let mut files = BTreeMap::new();
        let mut wanted: Vec<_> =
            symbols.iter().map(|symbol| Question::FileContainingSymbol((*symbol).to_owned())).collect();
        while let Some(question) = wanted.pop() {
            let Answer::FileDescriptorResponse(answer) = self.ask(question.clone()).await else {
                panic!("no answer to {question:?}")
            };
            for encoded in answer.file_descriptor_proto {
                let file = prost_types::FileDescriptorProto::decode(encoded.as_slice()).unwrap();
                let imports = file.dependency.iter().filter(|import| !files.contains_key(*import));
                wanted.extend(imports.cloned().map(Question::FileByFilename));
                files.insert(file.name().to_owned(), file);
            }
        }
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files.into_values()).unwrap();
        pool
    }

    async fn end(self) {
        drop(self.channel);
        self.stop.cancel();
        bounded(self.running).await.unwrap();
    }
}

async fn bounded<T>(waiting: impl Future<Output = T>) -> T {
    timeout(BOUND, waiting).await.expect("nothing came in time")
}

type Question = v1::server_reflection_request::MessageRequest;
type Answer = v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn both_versions_list_every_service() {
    let fixture = Fixture::start().await;
    let all = BTreeSet::from([
        SDS,
        ADS,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]);
    let Answer::ListServicesResponse(listed) = fixture.ask(Question::ListServices(String::new())).await else {
        panic!("not a list")
    };
    assert_eq!(listed.service.iter().map(|service| service.name.as_str()).collect::<BTreeSet<_>>(), all);

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(fixture.channel.clone());
    let mut answers = bounded(client.server_reflection_info(tokio_stream::once(request))).await.unwrap().into_inner();
    let answer = bounded(answers.message()).await.unwrap().unwrap().message_response.unwrap();
    let v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(listed) = answer else {
        panic!("not a list: {answer:?}")
    };
    assert_eq!(listed.service.iter().map(|service| service.name.as_str()).collect::<BTreeSet<_>>(), all);
    fixture.end().await;
}

#[tokio::test]
async fn the_discovery_services_are_described_whole() {
    let fixture = Fixture::start().await;
    let pool = fixture.descriptors(&[SDS, ADS]).await;
    let methods = |service: &str| {
        let service = pool.get_service_by_name(service).unwrap();
        let shape = |method: prost_reflect::MethodDescriptor| {
            (method.name().to_owned(), method.is_client_streaming(), method.is_server_streaming())
        };
        service.methods().map(shape).collect::<BTreeSet<_>>()
    };
    let method = |name: &str, streaming| (name.to_owned(), streaming, streaming);
    assert_eq!(
        methods(SDS),
        [method("StreamSecrets", true), method("DeltaSecrets", true), method("FetchSecrets", false)].into()
    );
    assert_eq!(
        methods(ADS),
        [method("StreamAggregatedResources", true), method("DeltaAggregatedResources", true)].into()
    );
    fixture.end().await;
}

#[tokio::test]
async fn an_unknown_symbol_is_not_found_and_the_server_goes_on() {
    let fixture = Fixture::start().await;
    for _ in 0..2 {
        let request = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(Question::FileContainingSymbol("envoy.service.cluster.v3".into())),
        };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(fixture.channel.clone());
        let mut answers =
            bounded(client.server_reflection_info(tokio_stream::once(request))).await.unwrap().into_inner();
        assert_eq!(bounded(answers.message()).await.unwrap_err().code(), tonic::Code::NotFound);
    }
    fixture.end().await;
}

/// What Envoy's own API writes is read in full through the trimmed descriptors: a wrong number or type would leave
/// unknown fields or change the bytes.
#[tokio::test]
async fn the_descriptors_are_envoys() {
    let fixture = Fixture::start().await;
    let tls = "envoy.extensions.transport_sockets.tls.v3";
    let (secret, validator) = (format!("{tls}.Secret"), format!("{tls}.SPIFFECertValidatorConfig"));
    let pool = fixture.descriptors(&[SDS, ADS, &secret, &validator]).await;
    let read = |name: &str, written: Vec<u8>, shown: &[&str]| {
        let message = DynamicMessage::decode(pool.get_message_by_name(name).unwrap(), written.as_slice()).unwrap();
        assert_known(&message);
        assert_eq!(message.encoded_len(), written.len(), "{name}");
        let text = message.to_text_format();
        shown.iter().for_each(|part| assert!(text.contains(part), "{name}: no {part} in {text}"));
    };
    let discovery = "envoy.service.discovery.v3";
    read(
        &format!("{discovery}.DiscoveryRequest"),
        sotw_request().encode_to_vec(),
        &["version_info:\"v\"", "id:\"n\"", "major_number:1", "minor_number:40", "response_nonce:\"o\"", "code:13"],
    );
    read(
        &format!("{discovery}.DeltaDiscoveryRequest"),
        delta_request().encode_to_vec(),
        &["resource_names_subscribe:[\"a\"]", "resource_names_unsubscribe:[\"b\"]", "initial_resource_versions:"],
    );
    read(
        &format!("{discovery}.DiscoveryResponse"),
        sotw_response().encode_to_vec(),
        &["nonce:\"o\"", "type_url:\"t\"", "identifier:\"c\""],
    );
    read(
        &format!("{discovery}.DeltaDiscoveryResponse"),
        delta_response().encode_to_vec(),
        &["removed_resources:[\"r\"]", "identifier:\"c\"", "name:\"a\"", "version:\"1\""],
    );
    for (kind, shown) in secrets() {
        let secret = Secret { name: "s".into(), r#type: Some(kind) };
        read(&format!("{tls}.Secret"), secret.encode_to_vec(), &["name:\"s\"", shown]);
    }
    read(&validator, spiffe_validator().encode_to_vec(), &["name:\"example.org\"", "inline_bytes:\"pem\""]);
    fixture.end().await;
}

fn assert_known(message: &DynamicMessage) {
    let unknown: Vec<_> = message.unknown_fields().map(prost_reflect::UnknownField::number).collect();
    assert!(unknown.is_empty(), "{} does not know {unknown:?}", message.descriptor().full_name());
    for (_, value) in message.fields() {
        let values = value.as_list().map_or_else(|| vec![value], |list| list.iter().collect());
        values.into_iter().filter_map(prost_reflect::Value::as_message).for_each(assert_known);
    }
}

fn inline() -> Option<DataSource> {
    Some(DataSource { watched_directory: None, specifier: Some(Specifier::InlineBytes(b"pem".to_vec())) })
}

fn node() -> Option<Node> {
    let version = Some(SemanticVersion { major_number: 1, minor_number: 40, patch: 2 });
    let flag = Value { kind: Some(Kind::BoolValue(true)) };
    Some(Node {
        id: "n".into(),
        cluster: "c".into(),
        metadata: Some(Struct { fields: [("flag".to_owned(), flag)].into() }),
        user_agent_name: "envoy".into(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
            version,
            metadata: Some(Struct::default()),
        })),
        ..Default::default()
    })
}

fn any() -> Any {
    Any { type_url: String::new(), value: b"v".to_vec() }
}

fn status() -> Option<Status> {
    Some(Status { code: 13, message: "no".into(), details: vec![any()] })
}

fn sotw_request() -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: "v".into(),
        node: node(),
        resource_names: vec!["a".into()],
        type_url: "t".into(),
        response_nonce: "o".into(),
        error_detail: status(),
        ..Default::default()
    }
}

fn delta_request() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node(),
        type_url: "t".into(),
        resource_names_subscribe: vec!["a".into()],
        resource_names_unsubscribe: vec!["b".into()],
        initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
        response_nonce: "o".into(),
        error_detail: status(),
        ..Default::default()
    }
}

fn sotw_response() -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: "v".into(),
        resources: vec![any()],
        type_url: "t".into(),
        nonce: "o".into(),
        control_plane: Some(ControlPlane { identifier: "c".into() }),
        ..Default::default()
    }
}

fn delta_response() -> DeltaDiscoveryResponse {
    let resource = Resource { name: "a".into(), version: "1".into(), resource: Some(any()), ..Default::default() };
    DeltaDiscoveryResponse {
        system_version_info: "v".into(),
        resources: vec![resource],
        type_url: "t".into(),
        removed_resources: vec!["r".into()],
        nonce: "o".into(),
        control_plane: Some(ControlPlane { identifier: "c".into() }),
        ..Default::default()
    }
}

fn secrets() -> Vec<(secret::Type, &'static str)> {
    let certificate = TlsCertificate { certificate_chain: inline(), private_key: inline(), ..Default::default() };
    let validator = TypedExtensionConfig { name: "validator".into(), typed_config: Some(any()) };
    let context = CertificateValidationContext {
        trusted_ca: inline(),
        custom_validator_config: Some(validator),
        ..Default::default()
    };
    let generic = GenericSecret { secret: inline(), ..Default::default() };
    vec![
        (secret::Type::TlsCertificate(certificate), "private_key{inline_bytes:\"pem\"}"),
        (secret::Type::ValidationContext(context), "custom_validator_config{name:\"validator\""),
        (secret::Type::GenericSecret(generic), "generic_secret{secret{inline_bytes:\"pem\"}}"),
    ]
}

fn spiffe_validator() -> SpiffeCertValidatorConfig {
    let domain = TrustDomain { name: "example.org".into(), trust_bundle: inline(), ..Default::default() };
    SpiffeCertValidatorConfig { trust_domains: vec![domain], ..Default::default() }
}
