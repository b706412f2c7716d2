//! The connection to a Workload API.

use std::{io, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint as Transport, Uri};
use tower::service_fn;

use crate::source::{Endpoint, SourceError};

/// HTTP/2 PINGs find an agent that froze. Not more often than every five minutes: servers built with grpc-go (SPIRE)
/// close connections that PING more often than that, whether they are idle or not.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(310);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel's own probes find a TCP peer that vanished, much sooner.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects now, so that a failure names its reason.
pub(super) async fn connect(endpoint: &Endpoint, deadline: Duration) -> Result<Channel, SourceError> {
    let unreachable = |source| SourceError::Unreachable { endpoint: endpoint.clone(), source };
    match timeout(deadline, open(endpoint)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(unreachable(error.into())),
        Err(_) => Err(unreachable(Box::new(io::Error::from(io::ErrorKind::TimedOut)))),
    }
}

async fn open(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let transport = Transport::from_shared(format!("http://{address}"))?;
            configured(transport)?.tcp_nodelay(true).tcp_keepalive(Some(TCP_KEEPALIVE)).connect().await
        }
        Endpoint::Unix(path) => {
            // The authority means nothing on a Unix socket, but HTTP/2 servers refuse a malformed one.
            let transport = configured(Transport::from_static("http://localhost"))?;
            transport.connect_with_connector(service_fn(connector(path.clone()))).await
        }
    }
}

fn configured(transport: Transport) -> Result<Transport, tonic::transport::Error> {
    Ok(transport
        .user_agent(concat!("spiffe-sds/", env!("CARGO_PKG_VERSION")))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT))
}

fn connector(
    path: PathBuf,
) -> impl Fn(Uri) -> futures_util::future::BoxFuture<'static, io::Result<TokioIo<UnixStream>>> + Clone + Send {
    move |_| {
        let path = path.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
