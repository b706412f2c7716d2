//! Connections of xDS clients.

use std::{
    convert::Infallible,
    io::{self, Cursor},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, service::Routes};
use tower::ServiceExt as _;

use super::{Config, live::Settings, rest};
use crate::{
    listen::{
        accept::{Connection, Io, Serve},
        authority::Authority,
        body::Held,
        guard::{Hosts, Refusal},
        stall::Stall,
    },
    telemetry::metrics::StreamMetrics,
};

/// How a client of HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How a client of REST begins.
const POST: &[u8] = b"POST ";
/// How long a new connection may take to say that much. Until it has, `hyper` neither pings it nor drains it, so a
/// client that never speaks would hold its place for ever and every shutdown until the deadline.
const PREFACE_PATIENCE: Duration = Duration::from_secs(10);
/// Requests are tiny, but every unread acknowledgement counts against half of this in `h2`'s budget for small frames.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What one client can make us buffer on one stream before it is read.
const STREAM_WINDOW: u32 = 64 << 10;

/// How long an HTTP/1.1 client may leave an answer unread; on HTTP/2 it is the PING that is not answered then.
const STALL: Duration = Duration::from_secs(10);
/// Header fields of one HTTP/1.1 request.
const HTTP1_HEADERS: usize = 64;

/// Serves xDS clients.
pub(super) struct Clients {
    pub(super) settings: Settings,
    pub(super) hosts: Arc<Hosts>,
    pub(super) routes: Routes,
    pub(super) drain: CancellationToken,
    pub(super) metrics: StreamMetrics,
}

impl Serve for Clients {
    fn serve(&self, io: Io, connection: Connection) -> impl Future<Output = ()> + Send + 'static {
        let (live, drain, peer) = (self.settings.now(), self.drain.clone(), connection.peer);
        let requests = Requests { routes: self.routes.clone(), hosts: self.hosts.clone(), connection };
        let meter = self.metrics.connect(peer.class());
        async move {
            let _meter = meter;
            let result = match io {
                Io::Unix(stream) => {
                    let (reader, writer) = stream.into_split();
                    greet_and_speak(reader, writer, &live.config, requests, drain).await
                }
                Io::Tcp(stream) => {
                    let (reader, writer) = stream.into_split();
                    greet_and_speak(reader, writer, &live.config, requests, drain).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }

    fn drain_deadline(&self) -> Duration {
        self.settings.now().config.drain_deadline
    }
}

/// What is done with the requests of one connection.
struct Requests {
    routes: Routes,
    hosts: Arc<Hosts>,
    connection: Connection,
}

impl Requests {
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Held<Body>>, Infallible>> + use<> {
        let Connection { peer, transport, activity } = &self.connection;
        let busy = activity.begin();
        let refusal = self.hosts.refuse(&request, *transport).or_else(|| is_out_of_place(&request));
        if let Some((status, reason)) = refusal {
            tracing::debug!(%peer, status = status.as_u16(), path = request.uri().path(), reason, "request refused");
        }
        request.extensions_mut().insert(*peer);
        let routes = self.routes.clone();
        async move {
            let response = match refusal {
                Some(refusal) => refused(refusal),
                None => routes.oneshot(request).await?,
            };
            Ok(response.map(|body| Held::new(body, busy)))
        }
    }
}

/// gRPC is served over HTTP/2 only: what comes by HTTP/1.1 comes from no gRPC client.
fn is_out_of_place(request: &Request<Incoming>) -> Option<Refusal> {
    let out_of_place = request.version() != Version::HTTP_2 && request.uri().path() != rest::PATH;
    out_of_place.then_some((StatusCode::NOT_FOUND, "over HTTP/1.1 only POST /v3/discovery:secrets is served here"))
}

fn refused((status, reason): Refusal) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(format!("{reason}\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Serves a client once it has shown what it speaks: HTTP/2, or HTTP/1.1 with something to ask of REST.
async fn greet_and_speak<R, W>(
    mut reader: R,
    writer: W,
    config: &Config,
    requests: Requests,
    drain: CancellationToken,
) -> hyper::Result<()>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let peer = requests.connection.peer;
    let greeted = tokio::select! {
        // Nothing was asked, so nothing is lost.
        () = drain.cancelled() => return Ok(()),
        greeted = timeout(PREFACE_PATIENCE, preface(&mut reader)) => greeted,
    };
    match greeted {
        Ok(Ok(Greeting::Http2)) => {
            speak(join(Cursor::new(PREFACE).chain(reader), writer), config, requests, drain).await
        }
        Ok(Ok(Greeting::Http1(said))) => {
            speak_http1(join(Cursor::new(said).chain(reader), writer), requests, drain).await
        }
        Ok(Ok(Greeting::Neither)) => {
            tracing::warn!(%peer, "connection closed, the client speaks neither HTTP/2 nor REST");
            Ok(())
        }
        Ok(Err(_)) | Err(_) => {
            tracing::debug!(%peer, "connection closed before it said anything");
            Ok(())
        }
    }
}

/// How a client begins.
enum Greeting {
    Http2,
    /// With these bytes, the first of a request.
    Http1(Vec<u8>),
    Neither,
}

/// Reads the preface, or as much of a request's first line as it takes.
async fn preface(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Greeting> {
    let mut said = Vec::with_capacity(PREFACE.len());
    loop {
        if said == PREFACE {
            return Ok(Greeting::Http2);
        }
        if said.starts_with(POST) {
            return Ok(Greeting::Http1(said));
        }
        if !PREFACE.starts_with(&said) && !POST.starts_with(&said) {
            return Ok(Greeting::Neither);
        }
        let missing = (PREFACE.len() - said.len()) as u64;
        if (&mut *reader).take(missing).read_buf(&mut said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// HTTP/1.1: REST. A client that takes its time over a request is cut by `hyper`'s own timeout.
async fn speak_http1<I>(io: I, requests: Requests, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| requests.answer(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_headers(HTTP1_HEADERS)
        .max_buf_size(STREAM_WINDOW as usize)
        .serve_connection(TokioIo::new(Stall::new(io, STALL)), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn speak<I>(io: I, config: &Config, requests: Requests, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| requests.answer(request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .max_concurrent_streams(config.limits.streams_per_connection)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_header_list_size(16 << 10)
        .serve_connection(TokioIo::new(Authority::new(io)), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
