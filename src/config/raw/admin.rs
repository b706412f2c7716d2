//! The keys of the admin listener.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Listener;

/// The listener for operators and monitoring. It never shows key material.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Admin {
    /// Where it listens; an empty list turns it off. By default one Unix socket with mode 0600,
    /// `/run/spiffe-sds/admin.sock`, if that directory exists.
    pub(in crate::config) listeners: Option<Vec<Listener>>,
    /// Allow TCP addresses that are not loopback, and requests addressed to any IP address. Whoever reaches the
    /// listener sees every SPIFFE ID and every client.
    #[schemars(extend("default" = false))]
    pub(in crate::config) allow_public: Option<bool>,
    /// Names besides `localhost` that requests over TCP may be addressed to, without port and separated by commas.
    /// Requests for others are refused, because a web page can point a name of its own at this machine.
    #[schemars(extend("examples" = ["sds.internal"]))]
    pub(in crate::config) hosts: Option<String>,
    /// A name that a client asked for and was not given for this long counts as starved in the metrics.
    /// From 0s to 1h.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) starved_after: Option<String>,
}
