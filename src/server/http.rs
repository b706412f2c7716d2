//! Connections of plain HTTP, 1.1 and 2 (with prior knowledge) on the same socket: bounded in everything that a client
//! sends, and none for ever.

use std::{error::Error, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{accept::Io, peer::Peer};

/// Bytes of a request's head.
const HEAD: usize = 16 << 10;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the accept to the first request. `hyper` has no patience of its own before it knows which HTTP is spoken.
    pub(crate) first: Duration,
    /// Between requests. Also ends a client that never reads its answers: as long as one is stuck no further request is
    /// taken in.
    pub(crate) idle: Duration,
    /// For what is under way once the connection is to end.
    pub(crate) grace: Duration,
    /// From the first byte of a request's head to the last, between requests too; bounded by the others if `None`.
    pub(crate) head: Option<Duration>,
}

/// Serves one connection until it ends, has been silent for too long, or `drain`.
pub(crate) async fn serve<S, B>(io: Io, peer: Peer, service: S, patience: Patience, drain: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match io {
        Io::Unix(stream) => speak(stream, peer, service, patience, drain).await,
        Io::Tcp(stream) => speak(stream, peer, service, patience, drain).await,
    }
}

async fn speak<I, S, B>(io: I, peer: Peer, service: S, patience: Patience, drain: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let asked = Arc::new(Notify::new());
    let service = service_fn({
        let asked = asked.clone();
        move |request| {
            asked.notify_one();
            service.call(request)
        }
    });
    let builder = builder(patience.head);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let mut limit = patience.first;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return finished(peer, ended),
            () = drain.cancelled() => break,
            () = asked.notified() => limit = patience.idle,
            () = sleep(limit) => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    match timeout(patience.grace, connection).await {
        Ok(ended) => finished(peer, ended),
        Err(_) => tracing::debug!(%peer, "connection closed, its last answer was not read"),
    }
}

fn finished(peer: Peer, ended: Result<(), Box<dyn Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "connection ended");
    }
}

fn builder(head: Option<Duration>) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(head)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32);
    builder
}
