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

use super::{
    Peer,
    accept::{Connection, Io},
    authority::Authority,
    body::Held,
    stall::Stall,
};
use crate::telemetry::metrics::HttpMetrics;

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
    /// Between requests.
    pub(crate) idle: Duration,
    /// For a client that does not read what it is sent.
    pub(crate) stall: Duration,
    /// For what is under way once the connection is to end.
    pub(crate) grace: Duration,
    /// From the first byte of a request's head to the last, between requests too; bounded by the others if `None`.
    pub(crate) head: Option<Duration>,
}

/// What is counted of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    metrics: HttpMetrics,
    endpoint: &'static str,
}

impl Meter {
    /// Counts that begin at zero.
    pub(crate) fn new(metrics: HttpMetrics, endpoint: &'static str) -> Self {
        metrics.begin(endpoint);
        Self { metrics, endpoint }
    }

    fn answered(&self, status: u16) {
        self.metrics.answered(self.endpoint, status);
    }

    fn broken(&self) {
        self.metrics.broken(self.endpoint);
    }
}

/// Serves one connection until it ends, has been silent for too long, or `drain`.
pub(crate) async fn serve<S, B>(
    io: Io,
    connection: Connection,
    service: S,
    patience: Patience,
    meter: Meter,
    drain: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match io {
        Io::Unix(stream) => speak(stream, connection, service, patience, meter, drain).await,
        Io::Tcp(stream) => speak(stream, connection, service, patience, meter, drain).await,
    }
}

async fn speak<I, S, B>(
    io: I,
    connection: Connection,
    service: S,
    patience: Patience,
    meter: Meter,
    drain: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let asked = Arc::new(Notify::new());
    let Connection { peer, transport, activity } = connection;
    let service = service_fn({
        let (asked, meter) = (asked.clone(), meter.clone());
        move |mut request: Request<Incoming>| {
            asked.notify_one();
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(transport);
            let (busy, answer, meter) = (activity.begin(), service.call(request), meter.clone());
            async move {
                let answer = answer.await?;
                meter.answered(answer.status().as_u16());
                Ok::<_, S::Error>(answer.map(|body| Held::new(body, busy)))
            }
        }
    });
    let builder = builder(patience.head);
    let io = Authority::new(Stall::new(io, patience.stall));
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let (mut limit, mut said) = (patience.first, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return finished(peer, ended, &meter),
            () = drain.cancelled() => break,
            () = asked.notified() => (limit, said) = (patience.idle, true),
            () = sleep(limit) => {
                if !said {
                    meter.broken();
                }
                break;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    match timeout(patience.grace, connection).await {
        Ok(ended) => finished(peer, ended, &meter),
        Err(_) => tracing::debug!(%peer, "connection closed, its last answer was not read"),
    }
}

fn finished(peer: Peer, ended: Result<(), Box<dyn Error + Send + Sync>>, meter: &Meter) {
    if let Err(error) = ended {
        meter.broken();
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
