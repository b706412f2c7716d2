//! The keys of what is sent to observers.

use schemars::JsonSchema;
use serde::Deserialize;

/// What is sent to observers elsewhere.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Telemetry {
    /// One trace a rotation, over OTLP. Off without `endpoint`; needs a build with the feature `otlp`. docs/traces.md has more.
    pub(in crate::config) traces: Traces,
}

/// Traces over OTLP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Traces {
    /// The receiver: `http://host:port` or `unix:///path`.
    #[schemars(extend("examples" = ["http://127.0.0.1:4317", "unix:///run/otel/otlp.sock"]))]
    pub(in crate::config) endpoint: Option<String>,
    /// The protocol of the receiver.
    #[schemars(extend("enum" = ["grpc"], "default" = "grpc"))]
    pub(in crate::config) protocol: Option<String>,
    /// `service.name` of all spans.
    #[schemars(extend("default" = "spiffe-sds"))]
    pub(in crate::config) service_name: Option<String>,
    /// Of a hundred rotations so many are traced, chosen at random; each whole or not at all.
    #[schemars(range(min = 0, max = 100), extend("default" = 100))]
    pub(in crate::config) sample_percent: Option<u8>,
    /// A file with headers for each request, one `name: value` a line. Tokens for a receiver belong there, because
    /// configurations are shown to people. Read once, at the start.
    #[schemars(extend("examples" = ["/etc/spiffe-sds/otlp.headers"]))]
    pub(in crate::config) headers_file: Option<String>,
    /// How long a request to the receiver may take. From 100ms to 1m.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) timeout: Option<String>,
}
