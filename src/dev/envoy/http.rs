//! One HTTP/1.1 connection over loopback, as small as it gets.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::AbortHandle};

/// A connection that serves one request after the other. Closed when dropped.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
    host: String,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("could not connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    #[error("the request is malformed")]
    Request(#[from] http::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // Its error is also the request's.
            let _ = connection.await;
        });
        Ok(Self { sender, driver: driver.abort_handle(), host: address.to_string() })
    }

    /// Whether another request can be sent on it.
    pub(super) async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request without a body and reads the whole answer.
    pub(super) async fn send(&mut self, method: &str, path: &str) -> Result<Response<Bytes>, Error> {
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, &self.host);
        let request = request.body(Empty::new())?;
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One request on a connection of its own.
pub(super) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    bound: Duration,
) -> Result<Response<Bytes>, Error> {
    let exchange = async { Connection::open(address).await?.send(method, path).await };
    tokio::time::timeout(bound, exchange).await.map_err(|_| Error::Timeout(bound))?
}
