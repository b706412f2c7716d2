//! The keys of the admin listener.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Listener;
use crate::lifecycle::OPTIONAL;

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
    /// What else must hold before the program is ready; without it the program is ready and degraded. `svids`: no identity has expired beside
    /// valid ones; `withdrawn`: the source lists every identity that it gave; `trust`: our own authorities and revocation lists are valid;
    /// `tokens`: every configured token is granted; `outputs`: every file output is written.
    pub(in crate::config) ready_requires: Option<Vec<Requirement>>,
    /// A name that a client asked for and was not given for this long counts as starved in the metrics.
    /// From 0s to 1h.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) starved_after: Option<String>,
}

/// One of the conditions that may count for readiness.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("enum" = OPTIONAL))]
pub(in crate::config) struct Requirement(pub(in crate::config) String);
