//! Connections: accepting them for ever, serving each, and ending all of them in time.

use std::{io, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{Config, listen::Socket, peer::Peer};

/// How long a new connection may stay silent: a client that never speaks HTTP/2 would hold its place for ever.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// A pause after an accept failed for lack of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests are tiny, but every unread acknowledgement counts against half of this in `h2`'s budget for small frames.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What one client can make us buffer on one stream before it is read.
const STREAM_WINDOW: u32 = 64 << 10;

/// What every connection needs.
pub(super) struct Acceptor {
    pub(super) config: Arc<Config>,
    pub(super) routes: Routes,
    pub(super) slots: Arc<Semaphore>,
    /// Stop accepting and tell connections to finish.
    pub(super) drain: CancellationToken,
}

impl Acceptor {
    /// Accepts until the drain begins, then waits for the connections, the deadline at the latest.
    pub(super) async fn run(self, mut socket: Socket) {
        let mut connections = JoinSet::new();
        loop {
            // A finished connection must not stay in the set.
            while connections.try_join_next().is_some() {}
            let Ok(slot) = self.slots.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = self.drain.cancelled() => break,
                accepted = accept(&mut socket) => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    let serve = self.serve(io, peer);
                    connections.spawn(async move {
                        serve.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, listener = %socket.bound(), "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // The file goes first: who connects from now on is refused at once instead of waiting for nobody.
        drop(socket);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(self.config.drain_deadline, all).await.is_err() {
            tracing::warn!("connections did not finish before the drain deadline, closing them");
        }
    }

    fn serve(&self, io: Io, peer: Peer) -> impl Future<Output = ()> + Send + use<> {
        let (config, routes, drain) = (self.config.clone(), self.routes.clone(), self.drain.clone());
        async move {
            match timeout(FIRST_BYTES, io.readable()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return tracing::debug!(%peer, "connection closed before it said anything"),
            }
            let result = match io {
                Io::Unix(stream) => speak(stream, peer, &config, routes, drain).await,
                Io::Tcp(stream) => speak(stream, peer, &config, routes, drain).await,
            };
            if let Err(error) = result {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

/// A connection of either kind.
enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Io {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.readable().await,
            Self::Tcp(stream) => stream.readable().await,
        }
    }
}

async fn accept(socket: &mut Socket) -> io::Result<(Io, Peer)> {
    match socket {
        Socket::Unix(unix) => {
            let stream = unix.accept().await?;
            let credentials = stream.peer_cred()?;
            let peer = Peer::Process {
                pid: credentials.pid().unwrap_or_default(),
                uid: credentials.uid(),
                gid: credentials.gid(),
            };
            Ok((Io::Unix(stream), peer))
        }
        Socket::Tcp(listener, _) => {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Io::Tcp(stream), Peer::Address(address)))
        }
    }
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
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
