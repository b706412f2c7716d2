//! Serves the Workload API on sockets: <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>.

mod bind;
mod jwt;
mod services;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};
use tonic::{Code, Request, Response, Status, service::Routes};

use super::{JwtFault, shared::Shared};
use crate::{
    listen::authority::Authority,
    workload_api_proto::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::SpiffeWorkloadApi,
    },
};

pub(super) use bind::{Bound, SocketFile, bind};
pub(super) use services::services;

/// Workload Endpoint, section 6: proof that a request was not forged through a confused client.
const SECURITY_HEADER: &str = "workload.spiffe.io";
/// SPIRE's words for "nothing is registered for this caller"; clients match on them.
const NO_IDENTITY: &str = "no identity issued";
/// Between two tries to accept when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const STREAMS_PER_CONNECTION: u32 = 16_384;
/// A client that is gone without a word is noticed after this and `hyper`'s patience.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The newest state, as every stream sees it.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) mode: Mode,
    pub(super) svids: Offer<X509svidResponse>,
    pub(super) bundles: Offer<X509BundlesResponse>,
    pub(super) jwt_bundles: Offer<JwtBundlesResponse>,
    /// What is wrong with the answers to `FetchJWTSVID`.
    pub(super) jwt_fault: Option<JwtFault>,
}

/// How the issuer behaves.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Serving,
    /// Every stream ends with this, and every new one begins with it.
    Failing(Status),
    /// Nobody hears anything.
    Hanging,
}

/// What one method says. `None` means that the caller is not entitled.
pub(super) struct Offer<M> {
    /// Counts what is to be said; a stream that has said this much waits.
    pub(super) version: u64,
    pub(super) message: Option<Arc<M>>,
}

/// What the issuer's clients have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Connections accepted since the start.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Calls of either method with the security header since the start, also those that failed or hang.
    pub streams: u64,
    /// Calls open now.
    pub streams_open: u64,
    /// Messages handed to streams since the start.
    pub messages: u64,
    /// `FetchJWTSVID` calls since the start, whatever became of them.
    pub jwt_fetches: u64,
    /// Calls refused for want of the security header since the start.
    pub refused: u64,
}

/// The service; cheap to clone.
#[derive(Clone)]
pub(super) struct WorkloadApi {
    pub(super) served: watch::Receiver<Served>,
    pub(super) traffic: watch::Sender<Traffic>,
    pub(super) shared: Arc<Shared>,
}

/// One call, and what it has said.
struct Call<M> {
    served: watch::Receiver<Served>,
    offer: fn(&Served) -> &Offer<M>,
    said: Option<u64>,
    open: Open,
}

/// Counts a connection or a call as open for as long as it lives.
struct Open {
    traffic: watch::Sender<Traffic>,
    closed: fn(&mut Traffic),
}

/// Accepts until it is dropped, and takes its connections with it.
pub(super) async fn accept(bound: Bound, traffic: watch::Sender<Traffic>, services: Routes) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = bound.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(io) => drop(connections.spawn(serve(io, traffic.clone(), services.clone()))),
            Err(error) => {
                tracing::warn!(%error, "development issuer cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(io: Box<dyn Io>, traffic: watch::Sender<Traffic>, services: Routes) {
    traffic.send_modify(|traffic| {
        traffic.connections += 1;
        traffic.connections_open += 1;
    });
    let _open = Open { traffic, closed: |traffic| traffic.connections_open -= 1 };
    let service = TowerToHyperService::new(services);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .keep_alive_interval(KEEPALIVE)
        .serve_connection(TokioIo::new(Authority::new(io)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "development issuer lost a connection");
    }
}

/// Either kind of socket.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl WorkloadApi {
    fn admit(&self, metadata: &tonic::metadata::MetadataMap) -> Result<(), Status> {
        if metadata.get(SECURITY_HEADER).is_some_and(|value| value == "true") {
            return Ok(());
        }
        self.traffic.send_modify(|traffic| traffic.refused += 1);
        let why = "security header missing from request: send workload.spiffe.io: true";
        Err(Status::new(Code::InvalidArgument, why))
    }

    async fn open<M: Clone + Send + Sync + 'static>(
        &self,
        metadata: &tonic::metadata::MetadataMap,
        offer: fn(&Served) -> &Offer<M>,
    ) -> Result<Response<BoxStream<'static, Result<M, Status>>>, Status> {
        self.admit(metadata)?;
        self.traffic.send_modify(|traffic| {
            traffic.streams += 1;
            traffic.streams_open += 1;
        });
        let open = Open { traffic: self.traffic.clone(), closed: |traffic| traffic.streams_open -= 1 };
        let mut call = Call { served: self.served.clone(), offer, said: None, open };
        let first = call.next().await?;
        let rest = stream::unfold(Some(call), |call| async {
            let mut call = call?;
            match call.next().await {
                Ok(message) => Some((Ok(message), Some(call))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(stream::iter([Ok(first)]).chain(rest).boxed()))
    }
}

impl<M: Clone> Call<M> {
    /// Waits for something that this call has not said, or for the reason why it ends.
    async fn next(&mut self) -> Result<M, Status> {
        loop {
            if let Some(outcome) = self.due() {
                return outcome;
            }
            if self.served.changed().await.is_err() {
                return Err(Status::unavailable("the development issuer has stopped"));
            }
        }
    }

    fn due(&mut self) -> Option<Result<M, Status>> {
        let served = self.served.borrow_and_update();
        match &served.mode {
            Mode::Hanging => None,
            Mode::Failing(status) => Some(Err(status.clone())),
            Mode::Serving => {
                let offer = (self.offer)(&served);
                if self.said == Some(offer.version) {
                    return None;
                }
                self.said = Some(offer.version);
                let Some(message) = &offer.message else {
                    return Some(Err(Status::permission_denied(NO_IDENTITY)));
                };
                self.open.traffic.send_modify(|traffic| traffic.messages += 1);
                Some(Ok(message.as_ref().clone()))
            }
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.open(request.metadata(), |served| &served.svids).await
    }

    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.open(request.metadata(), |served| &served.bundles).await
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        self.admit(request.metadata())?;
        self.jwt_svids(request.get_ref()).await.map(Response::new)
    }

    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.open(request.metadata(), |served| &served.jwt_bundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.admit(request.metadata())?;
        self.validated(request.get_ref()).map(Response::new)
    }
}

impl<M: PartialEq> Offer<M> {
    pub(super) fn new(message: Option<M>) -> Self {
        Self { version: 0, message: message.map(Arc::new) }
    }

    /// Offers `message` if it is news, or anyway if it is to be `repeated`.
    pub(super) fn update(&mut self, message: Option<M>, repeated: bool) {
        if repeated || self.message.as_deref() != message.as_ref() {
            self.version += 1;
            self.message = message.map(Arc::new);
        }
    }
}

// By hand, because deriving would ask for `M: Clone`.
impl<M> Clone for Offer<M> {
    fn clone(&self) -> Self {
        Self { version: self.version, message: self.message.clone() }
    }
}

// The message holds private keys.
impl<M> std::fmt::Debug for Offer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.traffic.send_modify(self.closed);
    }
}
