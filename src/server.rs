//! Serves xDS on sockets.

pub mod listen;

use std::time::Duration;

/// What is served where, and how much of it to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<listen::Config>,
    /// Bounds on what clients can make us hold.
    pub limits: Limits,
    /// HTTP/2 PING after this much silence on a connection.
    pub keepalive_interval: Duration,
    /// A connection whose PING is not answered for this long is closed.
    pub keepalive_timeout: Duration,
    /// Shutdown never takes longer than this.
    pub drain_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            limits: Limits::default(),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(5),
        }
    }
}

/// Bounds on what one client can make us hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Concurrent streams on one HTTP/2 connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub streams_per_connection: u32,
    /// Concurrent streams of one peer, all its connections together.
    pub streams_per_peer: u32,
    /// Concurrent connections, all peers together.
    pub connections: u32,
    /// Resource names one stream may subscribe to.
    pub names_per_stream: u32,
    /// Bytes of one request message; Envoy's first one is about 61 KB.
    pub request_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_connection: 16_384,
            streams_per_peer: 32_768,
            connections: 16_384,
            names_per_stream: 16_384,
            request_bytes: 1 << 20,
        }
    }
}
