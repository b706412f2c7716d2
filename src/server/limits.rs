//! Bounds on what clients can make us hold, and how many connections the process can have.

use std::time::Duration;

use crate::listen::{
    connections::Bounds,
    descriptors::{self, Share},
};

/// Bounds on what one client can make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent streams on one HTTP/2 connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams_per_connection: u32,
    /// Concurrent streams of one user, over TCP of one address, all connections together.
    pub streams_per_peer: u32,
    /// Concurrent streams, all peers together.
    pub streams: u32,
    /// Concurrent connections of one user, over TCP of one address.
    pub connections_per_peer: u32,
    /// Concurrent connections, all peers together; fewer if the process may not open that many files.
    pub connections: u32,
    /// Resource names one stream may subscribe to.
    pub names_per_stream: u32,
    /// Bytes of these names.
    pub name_bytes_per_stream: u32,
    /// Bytes of one request message; Envoy's first one is about 61 KB.
    pub request_bytes: u32,
    /// From the first byte of a request to its last.
    pub request_timeout: Duration,
    /// Bytes that one peer can make us hold: a user, or an address.
    pub memory_per_peer: u64,
    /// Bytes that all peers together can make us hold.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_connection: 16_384,
            streams_per_peer: 32_768,
            streams: 65_536,
            connections_per_peer: 8_192,
            connections: 16_384,
            names_per_stream: 16_384,
            name_bytes_per_stream: 4 << 20,
            request_bytes: 1 << 20,
            request_timeout: Duration::from_secs(30),
            memory_per_peer: 64 << 20,
            memory: 128 << 20,
        }
    }
}

/// The connections that there may be, as wished for or as the process can have.
pub(super) fn connections(limits: Limits) -> Bounds {
    let wished = limits.connections as usize;
    let all = Share::Clients.at_most(wished);
    if all < wished {
        let open_files = descriptors::limit();
        tracing::warn!(
            connections = all,
            open_files,
            "the limit on open files allows fewer connections than are configured"
        );
    }
    Bounds { all, of_peer: limits.connections_per_peer as usize, interrupts: false }
}
