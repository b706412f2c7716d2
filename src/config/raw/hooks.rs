//! The keys of callbacks.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{output::OutputEvent, source::RenewalEvent};

/// A callback: exactly one of `exec`, `signal` and `webhook`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{"required": ["exec"]}, {"required": ["signal"]}, {"required": ["webhook"]}]))]
pub(in crate::config) struct Hook {
    /// What logs call the callback. By default its place in the list, such as `hooks[0]`.
    pub(in crate::config) name: Option<String>,
    /// The events that it is told; docs/hooks.md explains each. Required.
    #[schemars(extend("examples" = [["output_written"], ["svid_renewed", "trust_changed"], ["all"]]))]
    pub(in crate::config) events: Option<Vec<EventName>>,
    /// Runs a program.
    pub(in crate::config) exec: Option<Exec>,
    /// Signals a process.
    pub(in crate::config) signal: Option<SignalProcess>,
    /// Sends events to a URL as JSON.
    pub(in crate::config) webhook: Option<Webhook>,
    /// No attempt takes longer: a program is killed then, with all that it started. 100ms to 10m.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) timeout: Option<String>,
    /// How often one event is tried before it is given up.
    #[schemars(range(min = 1, max = 100), extend("default" = 5))]
    pub(in crate::config) attempts: Option<u32>,
    /// Delays between attempts, doubling, with jitter.
    pub(in crate::config) backoff: HookBackoff,
}

/// One event.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("enum" = event_names()))]
pub(in crate::config) struct EventName(pub(in crate::config) String);

/// Stands for every event.
pub(in crate::config) const ALL_EVENTS: &str = "all";

/// Everything that `events` may hold.
pub(in crate::config) fn event_names() -> Vec<&'static str> {
    [ALL_EVENTS].into_iter().chain(RenewalEvent::NAMES).chain(OutputEvent::NAMES).collect()
}

/// A program.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Exec {
    /// The program by its absolute path, and its arguments. No shell reads it. The event stands in the environment.
    /// Required.
    #[schemars(extend("examples" = [["/usr/sbin/nginx", "-s", "reload"]]))]
    pub(in crate::config) command: Option<Vec<Argument>>,
}

/// One argument.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(in crate::config) struct Argument(pub(in crate::config) String);

/// A process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct SignalProcess {
    /// The file that holds the process number; read each time. Absolute. Required.
    #[schemars(extend("examples" = ["/run/nginx.pid"]))]
    pub(in crate::config) pid_file: Option<String>,
    /// Which signal.
    #[schemars(extend(
        "enum" = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGALRM", "SIGCONT", "SIGWINCH"],
        "default" = "SIGHUP"
    ))]
    pub(in crate::config) signal: Option<String>,
    /// The name that the process must have, as in `/proc/PID/comm` (at most 15 bytes): a number that was given to
    /// another program meanwhile is then refused. By default any.
    #[schemars(extend("examples" = ["nginx"]))]
    pub(in crate::config) process: Option<String>,
}

/// A receiver of events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Webhook {
    /// Where to POST: `http://` or `https://`. Redirects are not followed. Required.
    #[schemars(extend("examples" = ["https://events.example.org/spiffe", "http://127.0.0.1:8080/hook"]))]
    pub(in crate::config) url: Option<String>,
    /// Connects to this Unix socket instead of the URL's host. Absolute.
    #[schemars(extend("examples" = ["/run/receiver.sock"]))]
    pub(in crate::config) socket: Option<String>,
    /// A file with the key that signs each request (HMAC-SHA256): `whsec_` and base64, or any text of at least 24
    /// bytes; read each time. Absolute. By default nothing is signed.
    #[schemars(extend("examples" = ["/etc/spiffe-sds/webhook.key"]))]
    pub(in crate::config) key_file: Option<String>,
    /// A PEM file with the certificates to trust for `https`, instead of those that this system trusts; read each time.
    /// Absolute.
    #[schemars(extend("examples" = ["/etc/ssl/internal-ca.pem"]))]
    pub(in crate::config) ca_file: Option<String>,
    /// Events that may wait for a receiver that is down or slow; beyond that the oldest are dropped.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 256))]
    pub(in crate::config) queue: Option<u32>,
}

/// Delays between attempts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HookBackoff {
    /// The first delay. 10ms to 10m.
    #[schemars(extend("default" = "1s"))]
    pub(in crate::config) initial: Option<String>,
    /// The longest delay; not shorter than the first. 10ms to 1h.
    #[schemars(extend("default" = "1m"))]
    pub(in crate::config) max: Option<String>,
}
