//! The usual way: a generated handler, a task and a channel a stream, every response encoded anew for each.

use std::{path::Path, pin::Pin, sync::Arc};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret::Type},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_server::{SecretDiscoveryService, SecretDiscoveryServiceServer},
        },
    },
    google::protobuf::Any,
};
use prost::{Message as _, Name as _};
use spiffe_sds::{
    identity::{Availability, IdentityStore, Svid, Workload},
    source::{Supervisor, WorkloadApi, supervisor, workload_api},
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, watch},
};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub(super) async fn serve(socket: &Path, endpoint: &str) {
    let store = Arc::new(IdentityStore::new());
    let source = WorkloadApi::new(workload_api::Config { endpoint: endpoint.parse().unwrap(), trust_domain: None });
    let states = store.watch(&Workload::Own);
    let supervisor = Supervisor::new(source, Workload::Own, store, supervisor::Config::default());
    tokio::spawn(supervisor.run(CancellationToken::new()));
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    Server::builder()
        .initial_connection_window_size(super::WINDOW)
        .max_concurrent_streams(100_000)
        .add_service(SecretDiscoveryServiceServer::new(Usual(states)))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

struct Usual(watch::Receiver<Availability>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Usual {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (mut requests, mut states) = (request.into_inner(), self.0.clone());
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let Some(Ok(first)) = requests.next().await else { return };
            states.mark_changed();
            for version in 0_u64.. {
                loop {
                    tokio::select! {
                        _ = states.changed() => break,
                        acknowledged = requests.next() => if acknowledged.is_none() { return },
                    }
                }
                let response = match &*states.borrow_and_update() {
                    Availability::Ready(now) => encode(now.default_svid().unwrap(), &first, version),
                    _ => continue,
                };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

fn encode(svid: &Svid, request: &DiscoveryRequest, version: u64) -> DiscoveryResponse {
    let pem = |label, der: &[u8]| pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap();
    let inline = |text: String| DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..DataSource::default()
    };
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(svid.chain.iter().map(|it| pem("CERTIFICATE", it.der())).collect())),
        private_key: Some(inline(pem("PRIVATE KEY", svid.key.pkcs8_der()))),
        ..TlsCertificate::default()
    };
    let secret = Secret { name: request.resource_names[0].clone(), r#type: Some(Type::TlsCertificate(certificate)) };
    DiscoveryResponse {
        version_info: version.to_string(),
        nonce: version.to_string(),
        type_url: Secret::type_url(),
        resources: vec![Any { type_url: Secret::type_url(), value: secret.encode_to_vec() }],
        ..DiscoveryResponse::default()
    }
}
