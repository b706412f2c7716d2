//! Listeners: Unix domain sockets and loopback TCP.

use std::{net::SocketAddr, path::PathBuf};

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
