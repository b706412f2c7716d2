//! Connections of the bundle endpoint: HTTP/1.1 and HTTP/2 (with prior knowledge) on the same socket, none for ever.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{answer::answer, pages::Pages};
use crate::server::{
    connection::{ACCEPT_PAUSE, Io, accept},
    listen::Socket,
    peer::Peer,
};

/// How long a connection may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long it may stay without another one. Also ends a client that never reads its answers: as long as one is stuck
/// no further request is taken in.
const IDLE: Duration = Duration::from_secs(75);
/// How long what is under way may take once a connection is to end. Answers take no time, only reading them does.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of a request's head.
const HEAD: usize = 16 << 10;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Concurrent requests on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// What every connection needs.
pub(super) struct Acceptor {
    pub(super) pages: watch::Receiver<Arc<Pages>>,
    pub(super) slots: Arc<Semaphore>,
    /// Stop accepting and tell connections to finish.
    pub(super) drain: CancellationToken,
    /// How long they may take for that.
    pub(super) deadline: Duration,
}

impl Acceptor {
    /// Accepts until the drain begins, then waits for the connections, the deadline at the latest.
    pub(super) async fn run(self, mut socket: Socket) {
        let mut connections = JoinSet::new();
        loop {
            // A finished connection must not stay in the set.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = self.drain.cancelled() => break,
                accepted = accept(&mut socket) => accepted,
            };
            match accepted {
                Ok((io, peer)) => {
                    // Asked for only now: a listener that waits for clients must not keep a place from the others.
                    let slot = tokio::select! {
                        () = self.drain.cancelled() => break,
                        slot = self.slots.clone().acquire_owned() => slot.ok(),
                    };
                    let (pages, drain) = (self.pages.clone(), self.drain.clone());
                    connections.spawn(async move {
                        match io {
                            Io::Unix(stream) => serve(stream, peer, pages, drain).await,
                            Io::Tcp(stream) => serve(stream, peer, pages, drain).await,
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
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(self.deadline, all).await.is_err() {
            tracing::warn!("connections did not finish before the drain deadline, closing them");
        }
    }
}

async fn serve<I>(io: I, peer: Peer, pages: watch::Receiver<Arc<Pages>>, drain: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = Arc::new(Notify::new());
    let service = service_fn({
        let asked = asked.clone();
        move |request| {
            asked.notify_one();
            let pages = pages.borrow().clone();
            let response = answer(&pages, &request);
            tracing::debug!(%peer, path = request.uri().path(), status = response.status().as_u16(), "bundle request");
            std::future::ready(Ok::<_, Infallible>(response))
        }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let mut patience = FIRST_REQUEST;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return finished(peer, ended),
            () = drain.cancelled() => break,
            () = asked.notified() => patience = IDLE,
            () = sleep(patience) => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    match timeout(GRACE, connection).await {
        Ok(ended) => finished(peer, ended),
        Err(_) => tracing::debug!(%peer, "connection closed, its last answer was not read"),
    }
}

fn finished(peer: Peer, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "connection ended");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // How long a head may take is bounded with everything else, in `serve`.
        .header_read_timeout(None)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32);
    builder
}
