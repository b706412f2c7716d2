//! Sockets and connections of the admin listener: few, short-lived, and bounded in everything a client sends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    AdminError, Config,
    guard::{self, Hosts},
};
use crate::{
    server::{self, ACCEPT_PAUSE, Bound, Io, ListenError, Peer, listen::Socket},
    systemd::Handed,
};

/// Concurrent connections; the next one waits in the kernel.
const CONNECTIONS: usize = 64;
/// Concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 32;
/// Bytes of a request's head, and header lines.
const HEAD: usize = 16 << 10;
const HEADERS: usize = 64;
/// Bytes of a request's body.
const BODY: usize = 64 << 10;
/// How long a request's head may take to arrive. Also ends a connection that is idle for that long.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// A connection older than this is told to go when its answer is done: pages and scrapers come back.
const AGE: Duration = Duration::from_secs(3600);
/// How long answers under way may take when the server stops.
const DRAIN: Duration = Duration::from_secs(1);

/// How a request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A Unix domain socket, whose file mode says who may connect.
    Unix,
    /// TCP, where any program and any browser on the machine can connect.
    Tcp,
}

/// The admin listener with its sockets open.
pub struct Admin {
    config: Config,
    sockets: Vec<Socket>,
}

impl Admin {
    /// Opens the sockets. With none, [`Admin::run`] only waits.
    ///
    /// # Errors
    /// [`ListenError`] for the first that cannot be opened, when the configuration requires it.
    pub async fn bind(config: Config) -> Result<Self, ListenError> {
        Self::bind_handed(config, &Handed::default()).await
    }

    /// The same, but listeners that `handed` has are taken over, with the clients that wait there already.
    ///
    /// # Errors
    /// As of [`Admin::bind`].
    pub async fn bind_handed(config: Config, handed: &Handed) -> Result<Self, ListenError> {
        let mut sockets = Vec::new();
        for listener in &config.listeners {
            let opened = if config.allow_public {
                Socket::open_anywhere(listener, handed).await
            } else {
                Socket::open(listener, handed).await
            };
            match opened {
                Ok(socket) => sockets.push(socket),
                Err(error) if config.required => return Err(error),
                // Where nobody made a place for it, nobody misses it.
                Err(error @ ListenError::NoDirectory(_)) => {
                    tracing::debug!(%error, "the default admin listener is off");
                }
                Err(error) => {
                    tracing::warn!(%error, "the default admin listener cannot be opened, going on without it")
                }
            }
        }
        Ok(Self { config, sockets })
    }

    /// Where it really listens.
    #[must_use]
    pub fn bound(&self) -> Vec<Bound> {
        self.sockets.iter().map(Socket::bound).collect()
    }

    /// Serves `router` until `stop`; answers under way get a moment to finish.
    ///
    /// # Errors
    /// [`AdminError`] when it ended though nobody asked for it.
    pub async fn run(self, router: Router, stop: CancellationToken) -> Result<(), AdminError> {
        if self.sockets.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        let stop = stop.child_token();
        let hosts = Arc::new(Hosts { names: self.config.hosts, any_address: self.config.allow_public });
        let router =
            router.layer(DefaultBodyLimit::max(BODY)).layer(middleware::from_fn_with_state(hosts, guard::guard));
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        for socket in self.sockets {
            tasks.spawn(accept(socket, router.clone(), slots.clone(), stop.clone()));
        }
        let mut failure = None;
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Err(error) => failure = Some(AdminError::Failed(error)),
                Ok(()) if !stop.is_cancelled() => failure = failure.or(Some(AdminError::Ended)),
                Ok(()) => {}
            }
            if failure.is_some() {
                stop.cancel();
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Accepts until `stop`.
async fn accept(mut socket: Socket, router: Router, slots: Arc<Semaphore>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        while let Some(ended) = connections.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "an admin page failed");
            }
        }
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = server::accept(&mut socket) => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                let slot = tokio::select! {
                    () = stop.cancelled() => break,
                    slot = slots.clone().acquire_owned() => slot,
                };
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    match io {
                        Io::Unix(stream) => serve(stream, peer, Via::Unix, router, stop).await,
                        Io::Tcp(stream) => serve(stream, peer, Via::Tcp, router, stop).await,
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::error!(%error, listener = %socket.bound(), "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(socket);
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn serve<I>(io: I, peer: Peer, via: Via, router: Router, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(AtomicBool::new(false));
    let service = router.map_request({
        let asked = asked.clone();
        move |mut request: http::Request<hyper::body::Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(via);
            request
        }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    tokio::pin!(connection);
    // `hyper` has no patience of its own before it knows which HTTP the client speaks.
    let silence = async {
        sleep(HEAD_PATIENCE).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = silence => return tracing::debug!(%peer, "connection closed before it said anything"),
        () = stop.cancelled() => None,
        () = sleep(AGE) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(HEAD_PATIENCE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "admin connection ended");
    }
}

/// HTTP/1.1, and HTTP/2 with prior knowledge (gRPC).
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_PATIENCE)
        .keep_alive_timeout(HEAD_PATIENCE)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32);
    builder
}
