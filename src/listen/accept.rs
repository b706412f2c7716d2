//! The one way to accept: for ever, within bounds, and with an end in time.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    task::{JoinError, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Bound, Peer, Socket, Transport,
    connections::{Activity, Connections},
    peer::Owner,
};

/// A pause after an accept failed for lack of file descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// That accepting fails is said this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// A connection of either kind.
pub(crate) enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// Who is on the other end, how it reached us, and where is noted what it does.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) transport: Transport,
    pub(crate) activity: Activity,
}

/// What is done with connections.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves one connection to its end, which it is told of by the token of [`accept`].
    fn serve(&self, io: Io, connection: Connection) -> impl Future<Output = ()> + Send + 'static;

    /// How long connections may take to end once they have been told to.
    fn drain_deadline(&self) -> Duration;
}

/// Accepts on `socket` until `drain`, as many at a time as `connections` has room for; then waits for the connections,
/// the deadline at the latest.
pub(crate) async fn accept(mut socket: Socket, serve: impl Serve, connections: Connections, drain: CancellationToken) {
    let serve = Arc::new(serve);
    let mut tasks = JoinSet::new();
    let mut failures = Failures::default();
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            // What a connection held is given back when it ends, and not when the next one comes.
            Some(ended) = tasks.join_next() => {
                failed(ended);
                continue;
            }
            accepted = next(&mut socket) => accepted,
        };
        match accepted {
            Ok((io, peer)) => {
                let connection = (io, peer, socket.transport());
                tasks.spawn(one(connection, serve.clone(), connections.clone(), socket.bound(), drain.clone()));
            }
            Err(error) => {
                failures.note(&error, &socket.bound());
                // One that nobody uses has a descriptor that the next one needs.
                connections.relieve();
                tokio::select! {
                    () = drain.cancelled() => break,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    // The file goes first: who connects from now on is refused at once instead of waiting for nobody.
    drop(socket);
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            failed(ended);
        }
    };
    if timeout(serve.drain_deadline(), all).await.is_err() {
        tracing::warn!("connections did not finish before the drain deadline, closing them");
    }
}

/// One connection, once there is room for it, until it ends or has to make room.
async fn one(
    (io, peer, transport): (Io, Peer, Transport),
    serve: Arc<impl Serve>,
    connections: Connections,
    listener: Bound,
    drain: CancellationToken,
) {
    let place = tokio::select! {
        // Nothing was asked, so nothing is lost.
        () = drain.cancelled() => return,
        place = connections.enter_soon(Owner::from(peer)) => place,
    };
    if let Some(crowd) = connections.crowd() {
        let (refused, closed) = (crowd.refused, crowd.closed);
        tracing::warn!(%listener, %peer, refused, closed, "as many connections as there may be, idle ones are closed for new ones");
    }
    let Ok(place) = place else { return };
    let connection = Connection { peer, transport, activity: place.activity.clone() };
    tokio::select! {
        () = serve.serve(io, connection) => {}
        () = place.taken() => tracing::debug!(%peer, "connection closed to make room for another"),
    }
}

fn failed(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection failed");
    }
}

/// Accepts that failed; said once in a while.
#[derive(Default)]
struct Failures {
    said: Option<Instant>,
    unsaid: u64,
}

impl Failures {
    fn note(&mut self, error: &io::Error, listener: &Bound) {
        self.unsaid += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            tracing::error!(%error, %listener, times = self.unsaid, "cannot accept a connection");
            (self.said, self.unsaid) = (Some(Instant::now()), 0);
        }
    }
}

/// The next connection, and who is on its other end. One that is gone already is no failure of ours.
async fn next(socket: &mut Socket) -> io::Result<(Io, Peer)> {
    loop {
        match socket {
            Socket::Unix(unix) => {
                let stream = unix.accept().await?;
                let Ok(credentials) = stream.peer_cred() else { continue };
                let peer = Peer::Process {
                    pid: credentials.pid().unwrap_or_default(),
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                };
                return Ok((Io::Unix(stream), peer));
            }
            Socket::Tcp(listener, _) => match listener.accept().await {
                Ok((stream, address)) if stream.set_nodelay(true).is_ok() => {
                    return Ok((Io::Tcp(stream), Peer::Address(address)));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            },
        }
    }
}
