//! The connection to a server.

use std::{error::Error as StdError, io, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};
use tonic::transport::{Channel, Endpoint as Transport, Uri};
use tower::service_fn;

use super::Endpoint;

/// Connects now, so that a failure names its reason.
pub(super) async fn connect(
    endpoint: &Endpoint,
    deadline: Duration,
) -> Result<Channel, Box<dyn StdError + Send + Sync>> {
    match timeout(deadline, open(endpoint)).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

async fn open(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    let agent = concat!("spiffe-sds/", env!("CARGO_PKG_VERSION"));
    match endpoint {
        Endpoint::Tcp(address) => {
            Transport::from_shared(format!("http://{address}"))?.user_agent(agent)?.tcp_nodelay(true).connect().await
        }
        Endpoint::Unix(path) => {
            let path = path.clone();
            let dial = move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            Transport::from_static("http://localhost").user_agent(agent)?.connect_with_connector(service_fn(dial)).await
        }
    }
}
