//! What every listener shares: sockets, one way to accept, who is on the other end, and HTTP as all of them speak it.
//!
//! What is served there is for the modules above: `server`, `admin` and `dev`.

pub(crate) mod accept;
pub(crate) mod authority;
pub(crate) mod body;
pub(crate) mod connections;
pub mod descriptors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod guard;
pub(crate) mod http;
pub(crate) mod messages;
pub(crate) mod peer;
pub(crate) mod stall;
mod troubles;
pub(crate) mod unix;

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;
use tokio::net::TcpListener;

use crate::systemd::Handed;
pub use peer::Peer;
pub(crate) use troubles::{Troubles, follow};
use unix::UnixSocket;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// A Unix domain socket.
    Unix(UnixConfig),
    /// A TCP address; loopback only, because the peer is not authenticated.
    Tcp(SocketAddr),
}

/// A Unix domain socket and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixConfig {
    /// The socket file; its directory must exist.
    pub path: PathBuf,
    /// Permission bits of the socket file.
    pub mode: u32,
    /// The owner of the socket file; ours if absent.
    pub owner: Option<u32>,
    /// The group of the socket file; ours if absent.
    pub group: Option<u32>,
}

/// How a request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A Unix domain socket, whose file mode says who may connect.
    Unix,
    /// Loopback TCP, where any program and any browser on the machine can connect.
    Loopback,
    /// TCP on an address that others can reach.
    Public,
}

/// Where a listener really listens, after ports were chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A Unix domain socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody answers on the socket.
    #[error("{} is served by another process; stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The path is taken by something that is not a socket.
    #[error("{} exists and is not a socket; move it away or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The directory of the socket does not exist.
    #[error("the directory of {} does not exist; create it (systemd: RuntimeDirectory=)", .0.display())]
    NoDirectory(PathBuf),
    /// An address that anybody on the network could reach.
    #[error(
        "{0} is not a loopback address: clients on TCP are not authenticated, so anybody who reaches it would be handed private keys, and keys that verify others could be forged on the way; use a Unix socket or 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// The operating system said no.
    #[error("cannot {action} {what}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// An open listener of either kind.
pub(crate) enum Socket {
    Unix(UnixSocket),
    Tcp(TcpListener, SocketAddr),
}

impl Socket {
    /// Opens the listener, or takes over the one that waits for us already.
    pub(crate) async fn open(config: &Config, handed: &Handed, troubles: &Troubles) -> Result<Self, ListenError> {
        match config {
            Config::Tcp(address) if !address.ip().is_loopback() => Err(ListenError::NotLoopback(*address)),
            _ => Self::open_anywhere(config, handed, troubles).await,
        }
    }

    /// Opens the listener, on an address that others can reach if that is what it says: never for private keys.
    pub(crate) async fn open_anywhere(
        config: &Config,
        handed: &Handed,
        troubles: &Troubles,
    ) -> Result<Self, ListenError> {
        match config {
            Config::Unix(unix) => UnixSocket::open(unix, handed, troubles.clone()).map(Self::Unix),
            Config::Tcp(address) => {
                let os = |source| ListenError::Os { action: "listen on", what: address.to_string(), source };
                let listener = match handed.take_tcp(*address) {
                    Some(listener) => TcpListener::from_std(listener).map_err(os)?,
                    None => {
                        let listener = TcpListener::bind(address).await.map_err(os)?;
                        // One whose port the kernel chose would not be found again.
                        if address.port() != 0 {
                            handed.keep_tcp(&listener);
                        }
                        listener
                    }
                };
                let bound = listener.local_addr().map_err(os)?;
                Ok(Self::Tcp(listener, bound))
            }
        }
    }

    /// How requests reach it.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Unix(_) => Transport::Unix,
            Self::Tcp(_, bound) if bound.ip().to_canonical().is_loopback() => Transport::Loopback,
            Self::Tcp(..) => Transport::Public,
        }
    }

    /// Where it listens.
    pub(crate) fn bound(&self) -> Bound {
        match self {
            Self::Unix(socket) => Bound::Unix(socket.path().to_owned()),
            Self::Tcp(_, bound) => Bound::Tcp(*bound),
        }
    }
}
