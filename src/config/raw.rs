//! The configuration file as types: its keys, their documentation, and from both the JSON Schema.
//!
//! Nothing here is trusted yet: texts become durations, addresses and names in `compose`. Defaults stand in the schema
//! for the reader; a test holds them against the defaults of the subsystems, which are the ones that count.

mod admin;
mod hooks;
mod jwt;
mod limits;
mod names;
mod outputs;
mod restart;
mod telemetry;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use admin::Admin;
pub(super) use hooks::{ALL_EVENTS, Argument, EventName, Exec, Hook, HookBackoff, SignalProcess, Webhook, event_names};
pub(super) use jwt::{Audience, Jwt, JwtSvid};
pub(super) use limits::{Limits, SourceLimits};
pub(super) use names::{AskedFiles, DefaultIdentity, Name, OneOrMore, SubjectAltName};
pub(super) use outputs::{JwtFile, Output};
pub(super) use restart::{Systemd, WarmStart};
pub(super) use telemetry::{Telemetry, Traces};

/// Configuration of spiffe-sds. Every key is optional but the address of the source.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "spiffe-sds")]
pub(super) struct Raw {
    /// Where identities come from.
    pub(super) source: Source,
    /// Under which names they are served, and how a change is rolled out.
    pub(super) secrets: Secrets,
    /// JWT-SVIDs, renewed in time and served as generic secrets.
    pub(super) jwt: Jwt,
    /// Where Envoy connects. By default one Unix socket, `/run/spiffe-sds/sds.sock` with mode 0660.
    pub(super) listeners: Option<Vec<Listener>>,
    /// Names besides `localhost` that requests over HTTP/1.1 and TCP may be addressed to, without port and separated by
    /// commas: REST polls, where Envoy names its cluster, and the bundle endpoint. Requests for others are refused,
    /// because a web page can point a name of its own at this machine.
    #[schemars(extend("examples" = ["sds_cluster"]))]
    pub(super) hosts: Option<String>,
    /// The public keys of each trust domain over HTTP, for verifiers that do not speak SDS.
    pub(super) bundle_endpoint: BundleEndpoint,
    /// Bounds on what clients can make the server hold.
    pub(super) limits: Limits,
    /// How dead connections are found.
    pub(super) keepalive: Keepalive,
    /// A shutdown lets streams end in peace for this long, and never takes longer. From 0s to 10m.
    #[schemars(extend("default" = "5s"))]
    pub(super) drain_deadline: Option<String>,
    /// What is told of events: programs, processes, URLs. docs/hooks.md has examples. By default nothing.
    pub(super) hooks: Option<Vec<Hook>>,
    /// Files for programs that do not speak SDS. docs/hooks.md has examples. By default none.
    pub(super) outputs: Option<Vec<Output>>,
    /// What is written to standard error.
    pub(super) log: Log,
    /// What is sent to observers elsewhere.
    pub(super) telemetry: Telemetry,
    /// The listener for operators and monitoring: `/live`, `/ready`, `/metrics`.
    pub(super) admin: Admin,
    /// How we live with systemd, or another manager that speaks its protocols.
    pub(super) systemd: Systemd,
    /// The last good identity, sealed on disk, for the time between a start and the source's first answer. Off without `path`.
    pub(super) warm_start: WarmStart,
}

/// Where identities come from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Source {
    /// A SPIFFE Workload API, such as the one of a SPIRE agent, or several.
    pub(super) workload_api: WorkloadApi,
    /// Certificates, keys and trust bundles in files. Beside Workload APIs they are the last resort.
    pub(super) files: Option<Files>,
    /// When one of several sources takes the place of another.
    pub(super) failover: Failover,
    /// How long the last good identity stays in service after the source says that we are entitled to none.
    /// Registrations are eventually consistent, and an Envoy that loses its certificate cannot serve. From 0s to 1day.
    #[schemars(extend("default" = "1m"))]
    pub(super) denied_grace: Option<String>,
    /// Delays between attempts to reach the source again, doubling, with jitter.
    pub(super) backoff: Backoff,
}

/// A SPIFFE Workload API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkloadApi {
    /// Where the Workload API listens: `unix:///absolute/path` or `tcp://IP:port`. The variable
    /// `SPIFFE_ENDPOINT_SOCKET` is used when this is not set anywhere.
    #[schemars(extend("examples" = ["unix:///run/spire/agent.sock", "tcp://127.0.0.1:8081"]))]
    pub(super) endpoint: Option<String>,
    /// In place of `endpoint`: several Workload APIs, the preferred one first. One of them is in service; the others
    /// are asked when it is away or late. They must serve the same workload in the same trust domain.
    #[schemars(extend("examples" = [["unix:///run/spire/agent.sock", "unix:///run/spire-b/agent.sock"]]))]
    pub(super) endpoints: Option<Vec<String>>,
    /// The workload's own trust domain. Only a verifier without an SVID of its own needs it: otherwise the SVID tells.
    #[schemars(extend("examples" = ["example.org"]))]
    pub(super) trust_domain: Option<String>,
}

/// Certificates, keys and trust bundles in PEM files, such as those that cert-manager's csi-driver-spiffe or
/// spiffe-helper write. Their directories are watched.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Files {
    /// The identities; the first is the default one. Without any there are only bundles to verify with.
    pub(super) svids: Option<Vec<FileSvid>>,
    /// Trust bundles: of federated trust domains, and of our own where the identities do not bring it.
    pub(super) bundles: Option<Vec<FileBundle>>,
}

/// An X.509-SVID in files: a directory in a known layout, or each file by itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileSvid {
    /// A directory as csi-driver-spiffe writes it (`tls.crt`, `tls.key`, `ca.crt`) or spiffe-helper
    /// (`svid.pem`, `svid_key.pem`, `svid_bundle.pem`).
    #[schemars(extend("examples" = ["/var/run/secrets/spiffe.io"]))]
    pub(super) directory: Option<String>,
    /// In place of `directory`: the certificate chain, PEM, absolute path.
    pub(super) certificate: Option<String>,
    /// In place of `directory`: the private key, PEM (PKCS#8, SEC 1 or PKCS#1, not encrypted). May be the same file.
    pub(super) key: Option<String>,
    /// The authorities of the identity's own trust domain, PEM. May be left out if `bundles` has them.
    pub(super) bundle: Option<String>,
    /// The operator's label for this identity.
    pub(super) hint: Option<String>,
}

/// The authorities of one trust domain.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileBundle {
    /// Whose authorities they are. Required.
    #[schemars(extend("examples" = ["example.org"]))]
    pub(super) trust_domain: Option<String>,
    /// PEM certificates, or a SPIFFE trust bundle (JSON); absolute path. Required.
    pub(super) path: Option<String>,
}

/// When one of several sources takes the place of another.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Failover {
    /// How long the source in service may be away before the next one is asked. Its last good identity stays in
    /// service meanwhile. From 0s to 1h.
    #[schemars(extend("default" = "10s"))]
    pub(super) lost_after: Option<String>,
    /// How much of a certificate's life, in percent, may pass without a renewal before the next source is asked for a
    /// fresher one. SPIRE renews at 50, cert-manager at 67.
    #[schemars(range(min = 50, max = 95), extend("default" = 75))]
    pub(super) stale_percent: Option<u8>,
    /// How long a preferred source must deliver without a failure before it is in service again. From 0s to 1day.
    #[schemars(extend("default" = "1m"))]
    pub(super) failback_after: Option<String>,
    /// Ask the next source also when one says that no identity is issued to this workload. If not, an identity is taken
    /// away by taking it away at the preferred source.
    #[schemars(extend("default" = false))]
    pub(super) on_denial: Option<bool>,
}

/// Delays between attempts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Backoff {
    /// The first delay, after an immediate reconnect has failed. From 10ms to 1m.
    #[schemars(extend("default" = "200ms"))]
    pub(super) initial: Option<String>,
    /// The longest delay; not shorter than the first. From 100ms to 10m.
    #[schemars(extend("default" = "10s"))]
    pub(super) max: Option<String>,
}

/// Names and roll-out. The first four keys have the names and meanings of the `sds` block of a SPIRE agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Secrets {
    /// The name of the certificate and key of the default identity.
    #[schemars(extend("default" = "default"))]
    pub(super) default_svid_name: Option<String>,
    /// The name of the validation context of our own trust domain.
    #[schemars(extend("default" = "ROOTCA"))]
    pub(super) default_bundle_name: Option<String>,
    /// The name of the validation context of all known trust domains. May equal `default_bundle_name`, which then wins.
    #[schemars(extend("default" = "ALL"))]
    pub(super) default_all_bundles_name: Option<String>,
    /// Serve plain `trusted_ca` validation contexts instead of Envoy's SPIFFE certificate validator. A client may
    /// choose for itself with node metadata of the same name.
    #[schemars(extend("default" = false))]
    pub(super) disable_spiffe_cert_validation: Option<bool>,
    /// Answer a stream that opens with an empty list of names with everything the client may have, as SPIRE does.
    #[schemars(extend("default" = false))]
    pub(super) wildcard: Option<bool>,
    /// Which of several identities is the default one, also for tokens that name nobody. By default the first that the
    /// source names.
    pub(super) default_identity: DefaultIdentity,
    /// Names of your own, beside those above and the SPIFFE IDs: see docs/names.md.
    pub(super) names: Option<Vec<Name>>,
    /// The only names that are answered, beside those of `names` and the tokens: patterns in which `*` stands for anything without
    /// `/` and `**` for anything. By default every name that has a meaning. Worth setting where names come from
    /// strangers, as with Envoy's on-demand secrets.
    #[schemars(extend("examples" = [["default", "ROOTCA"]]))]
    pub(super) allowed_names: Option<Vec<String>>,
    /// Files that clients may ask for by path, beside what the source gives: see docs/names.md.
    pub(super) files: AskedFiles,
    /// When the source's revocation lists are put into validation contexts: `complete` where every authority of a trust
    /// domain has one, `always` where any has one (Envoy then refuses all peers under the others), `never`.
    #[schemars(extend("enum" = ["complete", "always", "never"], "default" = "complete"))]
    pub(super) crls: Option<String>,
    /// How long new trust is in place at least before the certificates that need it are sent, and old trust after the
    /// last certificate that needed it. From 0s to 10s.
    #[schemars(extend("default" = "250ms"))]
    pub(super) rollout_hold: Option<String>,
    /// How long each of these steps waits at most for clients that have not acknowledged the one before. `0s`, or less than
    /// `rollout_hold`: nobody is waited for. From 0s to 1m.
    #[schemars(extend("default" = "5s"))]
    pub(super) rollout_max_wait: Option<String>,
}

/// JWK Sets (`/jwks/<trust domain>`) and SPIFFE bundles (`/bundle/<trust domain>`).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BundleEndpoint {
    /// Where these documents are served, over HTTP/1.1 and HTTP/2 without TLS. By default nowhere.
    pub(super) listeners: Option<Vec<Listener>>,
    /// How often consumers shall look for new keys, in whole seconds: `Cache-Control: max-age` and
    /// `spiffe_refresh_hint`. From 1s to 1day.
    #[schemars(extend("default" = "1m"))]
    pub(super) refresh_hint: Option<String>,
}

/// Where clients connect: exactly one of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{"required": ["unix"]}, {"required": ["tcp"]}]))]
pub(super) struct Listener {
    /// A Unix domain socket.
    pub(super) unix: Option<Unix>,
    /// A loopback TCP port.
    pub(super) tcp: Option<Tcp>,
}

/// A Unix domain socket.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Unix {
    /// The socket file: absolute, at most 107 bytes, in a directory that exists. Required.
    #[schemars(extend("examples" = ["/run/spiffe-sds/sds.sock"]))]
    pub(super) path: Option<String>,
    /// Permission bits of the socket file, octal, in quotes. Whoever may write to a socket for Envoy receives our
    /// private keys, so the default lets only the owner and the group in.
    #[schemars(extend("default" = "0660"))]
    pub(super) mode: Option<String>,
    /// The user who owns the socket file, by name or number. By default the user we run as.
    pub(super) owner: Option<Account>,
    /// The group of the socket file, by name or number. By default the group we run as.
    pub(super) group: Option<Account>,
}

/// A user or group, by name or number.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(transform = flatten_account)]
pub(super) enum Account {
    Id(i64),
    Name(String),
}

/// A loopback TCP port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tcp {
    /// IP address and port. Loopback only: nothing is authenticated on TCP, so anybody could be given private keys, or
    /// could give forged public ones. Required.
    #[schemars(extend("examples" = ["127.0.0.1:18000", "[::1]:18000"]))]
    pub(super) address: Option<String>,
}

/// How dead connections are found.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keepalive {
    /// A connection that is silent for this long is sent an HTTP/2 PING. From 1s to 1h.
    #[schemars(extend("default" = "30s"))]
    pub(super) interval: Option<String>,
    /// A connection that does not answer the PING for this long is closed. From 1s to 5m.
    #[schemars(extend("default" = "10s"))]
    pub(super) timeout: Option<String>,
}

/// What is written to standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    /// `human` for people, `json` for machines; `auto` is human on a terminal and JSON otherwise.
    #[schemars(extend("enum" = ["auto", "human", "json"], "default" = "auto"))]
    pub(super) format: Option<String>,
    /// How much is logged: a level (`error`, `warn`, `info`, `debug`, `trace` or `off`), and after it, separated by
    /// commas, exceptions such as `spiffe_sds::server=debug`.
    #[schemars(extend("default" = "info", "examples" = ["warn", "info,spiffe_sds::server=debug"]))]
    pub(super) filter: Option<String>,
}

/// Says "text or number" in one `type`, which is easier to read for people and for `shape` than `anyOf`.
fn flatten_account(schema: &mut schemars::Schema) {
    schema.remove("anyOf");
    schema.insert("type".to_owned(), serde_json::json!(["string", "integer"]));
    schema.insert("minimum".to_owned(), serde_json::json!(0));
    schema.insert("maximum".to_owned(), serde_json::json!(u32::MAX - 1));
}
