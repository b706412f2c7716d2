//! From texts to the configurations of the subsystems, with the rules that span several keys.

mod admin;
mod asked;
mod hooks;
mod jwt;
mod names;
mod outputs;
mod restart;
mod source;
mod telemetry;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Config, Origin, Problem, Problems,
    raw::{self, Raw},
    scalar,
    tree::{Node, Value},
};
use crate::{
    listen, output,
    server::{self, Limits, bundles},
    source::{Config as Source, Endpoint, decode::Limits as SourceLimits, jwt as tokens},
    telemetry::logs,
};

/// Where Envoy connects when no listener is configured.
const DEFAULT_SOCKET: &str = "/run/spiffe-sds/sds.sock";
/// Whoever may write to the socket receives our private keys. A SPIRE agent can afford 0777, because it attests each
/// caller and gives it its own identity; this server has one identity and gives it to whoever may connect.
const DEFAULT_MODE: u32 = 0o660;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Builds the configuration from a tree that fits the schema. `problems` are those already known.
pub(super) fn compose(tree: &Node, mut problems: Vec<Problem>, credentials: Option<&Path>) -> Result<Config, Problems> {
    let raw = serde_json::from_value::<Raw>(tree.to_json()).unwrap_or_else(|error| {
        // Cannot happen for a tree that was held against the schema of the same types, but must not be silent.
        problems.push(Problem::new(None, "", error.to_string()));
        Raw::default()
    });
    let mut places = BTreeMap::new();
    collect_places(tree, String::new(), &mut places);
    let mut compose =
        Compose { places, problems, sockets: BTreeMap::new(), addresses: BTreeMap::new(), address: scalar::loopback };

    let server_default = server::Config::default();
    let source = compose.source(raw.source);
    let jwt = compose.jwt(raw.jwt);
    compose.tokens_from_files(&source.sources, &jwt, raw.outputs.as_deref().unwrap_or_default());
    let secrets = compose.secrets(raw.secrets, &jwt.svids);
    let hosts = compose.parse("hosts", raw.hosts, |text| scalar::hosts(&text)).unwrap_or_default();
    let second_to = |max| SECOND..=max;
    let Raw { keepalive, drain_deadline, .. } = raw;
    let (interval, timeout) = (server_default.keepalive_interval, server_default.keepalive_timeout);
    let timeout_default = server_default.limits.request_timeout;
    let request_timeout = raw.limits.request_timeout.clone();
    let bounds = second_to(10 * MINUTE);
    let request_timeout = compose.duration("limits.request_timeout", request_timeout, timeout_default, bounds);
    let server = server::Config {
        listeners: compose.listeners(raw.listeners, &source.sources),
        hosts: hosts.clone(),
        limits: limits(&raw.limits, request_timeout, server_default.limits),
        keepalive_interval: compose.duration(
            "keepalive.interval",
            keepalive.interval,
            interval,
            second_to(60 * MINUTE),
        ),
        keepalive_timeout: compose.duration("keepalive.timeout", keepalive.timeout, timeout, second_to(5 * MINUTE)),
        drain_deadline: compose.duration(
            "drain_deadline",
            drain_deadline,
            server_default.drain_deadline,
            Duration::ZERO..=10 * MINUTE,
        ),
    };
    let bundles = compose.bundles(raw.bundle_endpoint, hosts, &source.sources);
    let admin = compose.admin(raw.admin, &source.sources);
    let hooks = compose.hooks(raw.hooks);
    let outputs = compose.outputs(raw.outputs);
    let jwt = wanted_tokens(jwt, &bundles, &outputs);
    let logs = compose.logs(raw.log);
    let traces = compose.traces(raw.telemetry.traces);
    let systemd = restart::systemd(&raw.systemd);
    let warm_start = compose.warm_start(raw.warm_start, credentials);
    let source::Composed { sources, failover, supervisor } = source;
    match Problems::new(compose.problems) {
        None => Ok(Config {
            sources,
            source_limits: source_limits(&raw.limits.source),
            failover,
            supervisor,
            jwt,
            secrets,
            server,
            bundles,
            admin,
            hooks,
            outputs,
            logs,
            traces,
            systemd,
            warm_start,
        }),
        Some(problems) => Err(problems),
    }
}

/// The tokens to fetch: those that are served, and those that have files. Whoever gives the keys away follows them, also
/// without tokens of its own.
fn wanted_tokens(served: tokens::Config, bundles: &bundles::Config, outputs: &[output::Config]) -> tokens::Config {
    let written = outputs.iter().flat_map(|output| &output.jwt_svids).map(|file| file.request.clone());
    let keys = !bundles.listeners.is_empty() || outputs.iter().any(|output| output.jwt_bundle_file.is_some());
    let svids = served.svids.into_iter().chain(written).collect();
    // Verifiers poll: it is as often as they look that they know a key.
    tokens::Config { svids, keys, handover: bundles.refresh_hint }
}

fn collect_places(node: &Node, key: String, places: &mut BTreeMap<String, Origin>) {
    for entry in node.entries() {
        let key = if key.is_empty() { entry.key.clone() } else { format!("{key}.{}", entry.key) };
        collect_places(&entry.node, key, places);
    }
    if let Value::List(items) = &node.value {
        for (index, item) in items.iter().enumerate() {
            collect_places(item, format!("{key}[{index}]"), places);
        }
    }
    places.insert(key, node.origin.clone());
}

struct Compose {
    places: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    /// The listener of each socket and address; nobody else can have them.
    sockets: BTreeMap<PathBuf, String>,
    addresses: BTreeMap<SocketAddr, String>,
    /// Which TCP addresses the listeners at hand may have.
    address: fn(&str) -> Result<SocketAddr, String>,
}

impl Compose {
    fn complain(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(self.places.get(key).cloned(), key, message));
    }

    fn is_sound(&self, section: &str) -> bool {
        !self.problems.iter().any(|problem| problem.is_within(section))
    }

    /// The parsed value of `key`; `None` when it is absent or wrong, and then it was complained about.
    fn parse<I, T>(&mut self, key: &str, value: Option<I>, parse: impl FnOnce(I) -> Result<T, String>) -> Option<T> {
        parse(value?).map_err(|message| self.complain(key, message)).ok()
    }

    fn duration(
        &mut self,
        key: &str,
        value: Option<String>,
        default: Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Duration {
        self.parse(key, value, |text| scalar::duration(&text, allowed)).unwrap_or(default)
    }

    fn listeners(&mut self, raw: Option<Vec<raw::Listener>>, sources: &[Source]) -> Vec<listen::Config> {
        let Some(raw) = raw else {
            let path = PathBuf::from(DEFAULT_SOCKET);
            let unix = listen::UnixConfig { path, mode: DEFAULT_MODE, owner: None, group: None };
            return vec![listen::Config::Unix(unix)];
        };
        if raw.is_empty() && self.is_sound("listeners") {
            self.complain("listeners", "is empty, so nobody could connect; add a listener or remove the key");
        }
        self.sockets_of("listeners", raw, sources)
    }

    fn bundles(&mut self, raw: raw::BundleEndpoint, hosts: Vec<String>, sources: &[Source]) -> bundles::Config {
        let default = bundles::Config::default();
        let section = "bundle_endpoint.listeners";
        let listeners = self.sockets_of(section, raw.listeners.unwrap_or_default(), sources);
        if !self.places.contains_key("listeners") {
            let taken = |listener: &listen::Config| matches!(listener, listen::Config::Unix(unix) if unix.path == Path::new(DEFAULT_SOCKET));
            if let Some(index) = listeners.iter().position(taken) {
                let key = format!("{section}[{index}].unix.path");
                self.complain(&key, "is where Envoy connects when no `listeners` are set; choose another path");
            }
        }
        let bounds = SECOND..=24 * 60 * MINUTE;
        let refresh_hint =
            self.duration("bundle_endpoint.refresh_hint", raw.refresh_hint, default.refresh_hint, bounds);
        bundles::Config { listeners, hosts, refresh_hint }
    }

    fn sockets_of(&mut self, section: &str, raw: Vec<raw::Listener>, sources: &[Source]) -> Vec<listen::Config> {
        let mut listeners = Vec::new();
        for (index, listener) in raw.into_iter().enumerate() {
            let key = format!("{section}[{index}]");
            match (listener.unix, listener.tcp) {
                (Some(unix), None) => {
                    let Some(unix) = self.unix(&key, unix) else { continue };
                    self.own_socket(&key, &unix.path, sources);
                    let earlier = self.sockets.insert(unix.path.clone(), key.clone());
                    self.once(earlier, &format!("{key}.unix.path"));
                    listeners.push(listen::Config::Unix(unix));
                }
                (None, Some(tcp)) => {
                    let Some(address) = self.tcp(&key, tcp) else { continue };
                    if address.port() != 0 {
                        let earlier = self.addresses.insert(address, key.clone());
                        self.once(earlier, &format!("{key}.tcp.address"));
                    }
                    listeners.push(listen::Config::Tcp(address));
                }
                (Some(_), Some(_)) => self.complain(&key, "has both `unix` and `tcp`; make them two items of the list"),
                (None, None) if self.is_sound(&key) => self.complain(&key, "has neither `unix` nor `tcp`; write one"),
                (None, None) => {}
            }
        }
        listeners
    }

    fn unix(&mut self, listener: &str, raw: raw::Unix) -> Option<listen::UnixConfig> {
        let key = format!("{listener}.unix");
        let given = raw.path.is_some();
        let path = self.parse(&format!("{key}.path"), raw.path, |text| scalar::socket_path(&text));
        let mode = self.parse(&format!("{key}.mode"), raw.mode, |text| scalar::mode(&text)).unwrap_or(DEFAULT_MODE);
        let owner = self.parse(&format!("{key}.owner"), raw.owner, scalar::user);
        let group = self.parse(&format!("{key}.group"), raw.group, scalar::group);
        if !given && self.is_sound(&key) {
            self.complain(&key, "has no `path`; write where the socket file shall be");
        }
        Some(listen::UnixConfig { path: path?, mode, owner, group })
    }

    fn tcp(&mut self, listener: &str, raw: raw::Tcp) -> Option<SocketAddr> {
        let key = format!("{listener}.tcp");
        if raw.address.is_none() && self.is_sound(&key) {
            self.complain(&key, "has no `address`; write such as 127.0.0.1:18000");
        }
        let parse = self.address;
        self.parse(&format!("{key}.address"), raw.address, |text| parse(&text))
    }

    fn once(&mut self, earlier: Option<String>, key: &str) {
        if let Some(earlier) = earlier {
            self.complain(key, format!("is the same as that of {earlier}; remove one of them"));
        }
    }

    /// Listening where a source listens would take its socket away.
    fn own_socket(&mut self, listener: &str, path: &Path, sources: &[Source]) {
        let listens = |source: &Source| match source {
            Source::WorkloadApi(api) => matches!(&api.endpoint, Endpoint::Unix(endpoint) if endpoint == path),
            Source::Files(_) => false,
        };
        if sources.iter().any(listens) {
            let key = format!("{listener}.unix.path");
            self.complain(&key, "is the socket of the Workload API; choose another path to listen on");
        }
    }

    fn logs(&mut self, raw: raw::Log) -> logs::Config {
        let default = logs::Config::default();
        let format = match raw.format.as_deref() {
            Some("human") => logs::Format::Human,
            Some("json") => logs::Format::Json,
            // Anything else was refused by the schema.
            _ => default.format,
        };
        let filter = self.parse("log.filter", raw.filter, |text| scalar::filter(&text));
        logs::Config { format, filter: filter.unwrap_or(default.filter) }
    }
}

fn source_limits(raw: &raw::SourceLimits) -> SourceLimits {
    let default = SourceLimits::default();
    let or = |written: Option<u32>, default: usize| {
        written.map_or(default, |written| usize::try_from(written).unwrap_or(usize::MAX))
    };
    SourceLimits {
        svids: or(raw.svids, default.svids),
        bundles: or(raw.bundles, default.bundles),
        crls: or(raw.crls, default.crls),
        bundle_bytes: or(raw.bundle_bytes, default.bundle_bytes),
        chain_length: or(raw.chain_length, default.chain_length),
        message_bytes: or(raw.message_bytes, default.message_bytes),
        ..default
    }
}

fn limits(raw: &raw::Limits, request_timeout: Duration, default: Limits) -> Limits {
    Limits {
        streams_per_connection: raw.streams_per_connection.unwrap_or(default.streams_per_connection),
        streams_per_peer: raw.streams_per_peer.unwrap_or(default.streams_per_peer),
        streams: raw.streams.unwrap_or(default.streams),
        connections_per_peer: raw.connections_per_peer.unwrap_or(default.connections_per_peer),
        connections: raw.connections.unwrap_or(default.connections),
        names_per_stream: raw.names_per_stream.unwrap_or(default.names_per_stream),
        name_bytes_per_stream: raw.name_bytes_per_stream.unwrap_or(default.name_bytes_per_stream),
        request_bytes: raw.request_bytes.unwrap_or(default.request_bytes),
        request_timeout,
        memory_per_peer: raw.memory_per_peer.unwrap_or(default.memory_per_peer),
        memory: raw.memory.unwrap_or(default.memory),
    }
}
