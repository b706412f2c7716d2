//! An issuer, a client and bounded waits.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use spiffe_sds::{
    dev::{Config, DevIssuer, Rotation, Traffic},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
    workload_api_proto::{
        X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Uri},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// No wait is longer.
const BOUND: Duration = Duration::from_secs(60);

/// An issuer on a socket of its own, and a client that is connected to it.
pub(crate) struct Fixture {
    pub(crate) issuer: DevIssuer,
    pub(crate) api: SpiffeWorkloadApiClient<Channel>,
    _directory: TempDir,
}

impl Fixture {
    pub(crate) async fn start(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(td("example.org"), Endpoint::Unix(directory.path().join("api.sock")));
        config.rotation = Rotation::Never;
        configure(&mut config);
        let issuer = DevIssuer::start(config).await.unwrap();
        let api = connect(issuer.endpoint()).await;
        Self { issuer, api, _directory: directory }
    }

    pub(crate) async fn with(paths: &[&str]) -> Self {
        Self::start(|config| *config = paths.iter().fold(config.clone(), |it, path| it.identity(id(path), None))).await
    }

    pub(crate) async fn svids(&mut self) -> Result<Streaming<X509svidResponse>, Status> {
        bounded(self.api.fetch_x509svid(with_header(X509svidRequest {}))).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn bundles(&mut self) -> Result<Streaming<X509BundlesResponse>, Status> {
        bounded(self.api.fetch_x509_bundles(with_header(X509BundlesRequest {}))).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn until(&self, reached: impl FnMut(&Traffic) -> bool) {
        bounded(self.issuer.traffic().wait_for(reached)).await.unwrap();
    }
}

pub(crate) fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap()
}

pub(crate) async fn bounded<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, waiting).await.expect("nothing came in time")
}

pub(crate) async fn next<M>(stream: &mut Streaming<M>) -> Result<M, Status> {
    bounded(stream.message()).await.map(|message| message.expect("the stream ended"))
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

pub(crate) async fn connect(endpoint: &Endpoint) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel(endpoint).await)
}

pub(crate) async fn channel(endpoint: &Endpoint) -> Channel {
    let channel = tonic::transport::Endpoint::from_static("http://localhost");
    let channel = match endpoint.clone() {
        Endpoint::Unix(path) => {
            let dial = move |_: Uri| unix(path.clone());
            bounded(channel.connect_with_connector(tower::service_fn(dial))).await
        }
        Endpoint::Tcp(address) => {
            let dial = move |_: Uri| async move { TcpStream::connect(address).await.map(TokioIo::new) };
            bounded(channel.connect_with_connector(tower::service_fn(dial))).await
        }
    };
    channel.unwrap()
}

async fn unix(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(path).await.map(TokioIo::new)
}

/// SPIFFE ID and hint of each SVID.
pub(crate) fn ids(message: &X509svidResponse) -> Vec<(&str, &str)> {
    message.svids.iter().map(|it| (it.spiffe_id.as_str(), it.hint.as_str())).collect()
}

/// The serial of one SVID's leaf, as the issuer spells it.
pub(crate) fn serial(message: &X509svidResponse, index: usize) -> String {
    let (_, leaf) = X509Certificate::from_der(&message.svids[index].x509_svid).unwrap();
    format!("{:x}", leaf.tbs_certificate.serial)
}

/// How many certificates are concatenated.
pub(crate) fn certificates(mut der: &[u8]) -> usize {
    let mut count = 0;
    while !der.is_empty() {
        (der, _) = X509Certificate::from_der(der).unwrap();
        count += 1;
    }
    count
}
