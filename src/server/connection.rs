//! Connections of xDS clients.

use std::{
    io::{self, Cursor},
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, join},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{Config, live::Settings};
use crate::{
    listen::{
        Peer,
        accept::{Io, Serve},
        authority::Authority,
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

/// Header fields of one HTTP/1.1 request.
const HTTP1_HEADERS: usize = 64;

/// Serves xDS clients.
pub(super) struct Clients {
    pub(super) settings: Settings,
    pub(super) routes: Routes,
    pub(super) drain: CancellationToken,
    pub(super) metrics: StreamMetrics,
}

impl Serve for Clients {
    fn serve(&self, io: Io, peer: Peer) -> impl Future<Output = ()> + Send + 'static {
        let (live, routes, drain) = (self.settings.now(), self.routes.clone(), self.drain.clone());
        let meter = self.metrics.connect(peer.class());
        async move {
            let _meter = meter;
            let result = match io {
                Io::Unix(stream) => {
                    let (reader, writer) = stream.into_split();
                    greet_and_speak(reader, writer, peer, &live.config, routes, drain).await
                }
                Io::Tcp(stream) => {
                    let (reader, writer) = stream.into_split();
                    greet_and_speak(reader, writer, peer, &live.config, routes, drain).await
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

/// Serves a client once it has shown what it speaks: HTTP/2, or HTTP/1.1 with something to ask of REST.
async fn greet_and_speak<R, W>(
    mut reader: R,
    writer: W,
    peer: Peer,
    config: &Config,
    routes: Routes,
    drain: CancellationToken,
) -> hyper::Result<()>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let greeted = tokio::select! {
        // Nothing was asked, so nothing is lost.
        () = drain.cancelled() => return Ok(()),
        greeted = timeout(PREFACE_PATIENCE, preface(&mut reader)) => greeted,
    };
    match greeted {
        Ok(Ok(Greeting::Http2)) => {
            speak(join(Cursor::new(PREFACE).chain(reader), writer), peer, config, routes, drain).await
        }
        Ok(Ok(Greeting::Http1(said))) => {
            speak_http1(join(Cursor::new(said).chain(reader), writer), peer, routes, drain).await
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
async fn speak_http1<I>(io: I, peer: Peer, routes: Routes, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = routes.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_headers(HTTP1_HEADERS)
        .max_buf_size(STREAM_WINDOW as usize)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn speak<I>(io: I, peer: Peer, config: &Config, routes: Routes, drain: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = routes.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        request
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .max_concurrent_streams(config.limits.streams_per_connection)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_header_list_size(16 << 10)
        .serve_connection(TokioIo::new(Authority::new(io)), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
