//! Where identities come from.

pub mod backoff;
pub mod supervisor;
pub mod workload_api;

use std::{net::SocketAddr, path::PathBuf};

/// Where a SPIFFE endpoint listens: `unix:///absolute/path` or `tcp://IP:port` (SPIFFE Workload Endpoint, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix domain socket.
    Unix(PathBuf),
    /// A TCP address; the specification allows IP literals only.
    Tcp(SocketAddr),
}
