//! Bounds on clients and sources.

use schemars::JsonSchema;
use serde::Deserialize;

/// Bounds on what clients can make the server hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Limits {
    /// Concurrent streams on one connection. Envoy opens one stream for each secret it subscribes to.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 16_384))]
    pub(in crate::config) streams_per_connection: Option<u32>,
    /// Concurrent streams of one peer, all its connections together. A peer is a user; over TCP an address.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 32_768))]
    pub(in crate::config) streams_per_peer: Option<u32>,
    /// Concurrent streams, all peers together. The last eighth is for peers that have few.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 65_536))]
    pub(in crate::config) streams: Option<u32>,
    /// Concurrent connections of one peer: of a user; over TCP of an address.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 8_192))]
    pub(in crate::config) connections_per_peer: Option<u32>,
    /// Concurrent connections, all peers together. Of the files that the process may open five in eight are for these; if that
    /// is fewer, it counts. When there are as many, idle connections are closed for new ones.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 16_384))]
    pub(in crate::config) connections: Option<u32>,
    /// Names that one stream may subscribe to.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 16_384))]
    pub(in crate::config) names_per_stream: Option<u32>,
    /// Bytes of these names, all together. One name is at most 4096 bytes long; longer ones are no names.
    #[schemars(range(min = 4_096, max = 1_073_741_824), extend("default" = 4_194_304))]
    pub(in crate::config) name_bytes_per_stream: Option<u32>,
    /// Bytes of one request message. The first one of an Envoy has about 61 KB, so less than 64 KiB is refused.
    #[schemars(range(min = 65_536, max = 67_108_864), extend("default" = 1_048_576))]
    pub(in crate::config) request_bytes: Option<u32>,
    /// How long a request may take from its first byte to its last. From 1s to 10m.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) request_timeout: Option<String>,
    /// Bytes that one user of this machine (or one address, over TCP) can make the server hold, on all connections: requests
    /// under way, names, responses that were not answered or read. What is more is refused with `RESOURCE_EXHAUSTED`.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64), extend("default" = 67_108_864))]
    pub(in crate::config) memory_per_peer: Option<u64>,
    /// The same for all clients together.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64), extend("default" = 134_217_728))]
    pub(in crate::config) memory: Option<u64>,
    /// Bounds on what one message of a source, or its files, may hold. What is more is left out and reported; the default
    /// identity never is, and what is in service stays before what is new.
    pub(in crate::config) source: SourceLimits,
}

/// Bounds on what one message of a source may hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct SourceLimits {
    /// X.509-SVIDs.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) svids: Option<u32>,
    /// Trust domains, our own included.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) bundles: Option<u32>,
    /// Certificate revocation lists.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) crls: Option<u32>,
    /// Bytes of one trust bundle; a larger one is left out, and the last good one of its trust domain stays.
    #[schemars(range(min = 1024, max = 268_435_456), extend("default" = 4_194_304))]
    pub(in crate::config) bundle_bytes: Option<u32>,
    /// Certificates in the chain of one SVID, the leaf included. Envoy follows at most 100 intermediates.
    #[schemars(range(min = 1, max = 101), extend("default" = 32))]
    pub(in crate::config) chain_length: Option<u32>,
    /// Bytes of a whole message. The transport refuses a larger one, and nothing in it can be used.
    #[schemars(range(min = 65_536, max = 1_073_741_824), extend("default" = 67_108_864))]
    pub(in crate::config) message_bytes: Option<u32>,
}
