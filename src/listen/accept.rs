//! The one way to accept: for ever, within bounds, and with an end in time.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Peer, Socket};

/// A pause after an accept failed for lack of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection of either kind.
pub(crate) enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// What is done with connections.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves one connection to its end, which it is told of by the token of [`accept`].
    fn serve(&self, io: Io, peer: Peer) -> impl Future<Output = ()> + Send + 'static;

    /// How long connections may take to end once they have been told to.
    fn drain_deadline(&self) -> Duration;
}

/// Accepts on `socket` until `drain`, as many at a time as there are `slots`; then waits for the connections, the
/// deadline at the latest.
pub(crate) async fn accept(mut socket: Socket, serve: impl Serve, slots: Arc<Semaphore>, drain: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut crowded = false;
    loop {
        // A finished connection must not stay in the set.
        while let Some(ended) = connections.try_join_next() {
            failed(ended);
        }
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            accepted = next(&mut socket) => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                // Asked for only now: a listener that waits for clients must not keep a place from the others.
                let Some(slot) = slot(&slots, &drain, &mut crowded, &socket).await else { break };
                let served = serve.serve(io, peer);
                connections.spawn(async move {
                    served.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::error!(%error, listener = %socket.bound(), "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The file goes first: who connects from now on is refused at once instead of waiting for nobody.
    drop(socket);
    let all = async {
        while let Some(ended) = connections.join_next().await {
            failed(ended);
        }
    };
    if timeout(serve.drain_deadline(), all).await.is_err() {
        tracing::warn!("connections did not finish before the drain deadline, closing them");
    }
}

fn failed(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection failed");
    }
}

/// A place for one more connection, when there is one; `None` when the drain begins first. That there is none is said
/// once, until there is one again without waiting.
async fn slot(
    slots: &Arc<Semaphore>,
    drain: &CancellationToken,
    crowded: &mut bool,
    socket: &Socket,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = slots.clone().try_acquire_owned() {
        *crowded = false;
        return Some(slot);
    }
    if !std::mem::replace(crowded, true) {
        tracing::warn!(listener = %socket.bound(), "connection waits, there are as many as there may be");
    }
    tokio::select! {
        () = drain.cancelled() => None,
        slot = slots.clone().acquire_owned() => slot.ok(),
    }
}

/// The next connection, and who is on its other end.
async fn next(socket: &mut Socket) -> io::Result<(Io, Peer)> {
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
