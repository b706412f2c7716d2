//! What a configuration is made of, and which part wins. The submodule has everything that can be wrong with one.

mod callbacks;
mod names;
mod problems;

use super::*;
use crate::{
    listen,
    source::{Config as Source, Endpoint},
};

const ENDPOINT: &str = "source: {workload_api: {endpoint: unix:///run/agent.sock}}\n";

/// The only source's.
fn endpoint(config: &Config) -> Endpoint {
    match config.sources() {
        [Source::WorkloadApi(api)] => api.endpoint.clone(),
        other => panic!("{other:?}"),
    }
}

fn sources(yaml: &str) -> Sources {
    let file = File { path: "sds.yaml".into(), text: yaml.to_owned() };
    Sources { file: Some(file), ..Sources::default() }
}

fn load(yaml: &str) -> Result<Config, Problems> {
    Config::new(&sources(yaml))
}

fn with_variables(yaml: &str, variables: &[(&str, &str)]) -> Sources {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { variables, ..sources(yaml) }
}

#[test]
fn the_standard_variable_is_enough() {
    let sources = Sources {
        variables: [("SPIFFE_ENDPOINT_SOCKET".to_owned(), "unix:///run/agent.sock".to_owned())].into(),
        ..Sources::default()
    };
    let config = Config::new(&sources).unwrap();
    assert_eq!(endpoint(&config), Endpoint::Unix("/run/agent.sock".into()));
    let path = "/run/spiffe-sds/sds.sock".into();
    let unix = listen::UnixConfig { path, mode: 0o660, owner: None, group: None };
    assert_eq!(config.server().listeners, [listen::Config::Unix(unix)]);
    assert!(!config.admin().required, "nobody asked for the default admin listener");
    assert_eq!(config.admin().listeners.len(), 1);
}

#[test]
fn every_key_reaches_its_subsystem() {
    let config = load(
        r#"
source:
  workload_api: {endpoint: "tcp://127.0.0.1:8081", trust_domain: example.org}
  denied_grace: 5m
  backoff: {initial: 100ms, max: 1m}
secrets:
  default_svid_name: mine
  default_bundle_name: ours
  default_all_bundles_name: ours
  disable_spiffe_cert_validation: true
  wildcard: true
  rollout_hold: 1s
listeners:
  - unix: {path: /run/a.sock, mode: "0600", owner: root, group: 1000}
  - unix: {path: /run/b.sock, mode: 0666}
  - tcp: {address: "[::1]:18000"}
bundle_endpoint: {refresh_hint: 5m, listeners: [{unix: {path: /run/c.sock}}]}
limits: {streams_per_connection: 1, streams_per_peer: 2, connections: 3, names_per_stream: 4, request_bytes: 65536}
keepalive: {interval: 2s, timeout: 1s}
drain_deadline: 0s
admin: {listeners: [{unix: {path: /run/d.sock}}, {tcp: {address: "0.0.0.0:9464"}}], allow_public: true, hosts: "a.test, b", starved_after: 5s}
log: {format: json, filter: "warn,spiffe_sds::server=debug"}
"#,
    )
    .unwrap();
    assert_eq!(endpoint(&config), Endpoint::Tcp("127.0.0.1:8081".parse().unwrap()));
    let Source::WorkloadApi(api) = &config.sources()[0] else { panic!("{:?}", config.sources()) };
    assert_eq!(api.trust_domain.as_ref().unwrap().to_string(), "example.org");
    assert_eq!(config.supervisor().denied_grace.as_secs(), 300);
    assert_eq!((config.supervisor().backoff.initial.as_millis(), config.supervisor().backoff.max.as_secs()), (100, 60));
    let naming = &config.secrets().naming;
    assert_eq!([&naming.default_svid, &naming.default_bundle, &naming.all_bundles], ["mine", "ours", "ours"]);
    assert!(config.secrets().disable_spiffe_cert_validation && config.secrets().wildcard);
    assert_eq!(config.secrets().rollout_hold.as_secs(), 1);
    let unix = |path: &str, mode, owner, group| {
        listen::Config::Unix(listen::UnixConfig { path: path.into(), mode, owner, group })
    };
    assert_eq!(
        config.server().listeners,
        [
            unix("/run/a.sock", 0o600, Some(0), Some(1000)),
            unix("/run/b.sock", 0o666, None, None),
            listen::Config::Tcp("[::1]:18000".parse().unwrap()),
        ]
    );
    assert_eq!(config.bundles().listeners, [unix("/run/c.sock", 0o660, None, None)]);
    assert_eq!(config.bundles().refresh_hint.as_secs(), 300);
    let admin = config.admin();
    let listeners = [unix("/run/d.sock", 0o600, None, None), listen::Config::Tcp("0.0.0.0:9464".parse().unwrap())];
    assert_eq!(admin.listeners, listeners);
    assert!(admin.required && admin.allow_public);
    assert_eq!((admin.hosts.join(" "), admin.starved_after.as_secs()), ("a.test b".to_owned(), 5));
    let limits = config.server().limits;
    assert_eq!((limits.streams_per_connection, limits.streams_per_peer, limits.connections), (1, 2, 3));
    assert_eq!((limits.names_per_stream, limits.request_bytes), (4, 65536));
    let server = config.server();
    assert_eq!((server.keepalive_interval.as_secs(), server.keepalive_timeout.as_secs()), (2, 1));
    assert!(server.drain_deadline.is_zero());
    assert_eq!(config.logs().format, logs::Format::Json);
    assert_eq!(config.logs().filter, "warn,spiffe_sds::server=debug".parse().unwrap());
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let variables = [
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///standard"),
        ("SPIFFE_SDS_SOURCE_WORKLOAD_API_ENDPOINT", ""),
        ("SPIFFE_SDS_SECRETS_WILDCARD", "true"),
        ("SPIFFE_SDS_DRAIN_DEADLINE", "7s"),
        ("SPIFFE_SDS_LIMITS_CONNECTIONS", "9"),
        ("SPIFFE_SDS_LISTENERS", "unix:///run/a.sock, tcp://127.0.0.1:0"),
        ("SPIFFE_SDS_CONFIG", "sds.yaml"),
        ("SPIFFE_SDS_SERVICE_HOST", "10.0.0.1"),
        ("SPIFFE_SDS_PORT_18000_TCP", "tcp://10.0.0.1:18000"),
    ];
    let mut sources = with_variables("drain_deadline: 6s\nkeepalive: ~\nlog: {filter: warn}", &variables);
    let config = Config::new(&sources).unwrap();
    assert_eq!(endpoint(&config), Endpoint::Unix("/standard".into()));
    assert_eq!((config.server().drain_deadline.as_secs(), config.server().limits.connections), (7, 9));
    assert_eq!(config.server().listeners.len(), 2);
    assert!(config.secrets().wildcard);
    assert_eq!(config.logs().filter, "warn".parse().unwrap());

    sources.file = Some(File { path: "sds.yaml".into(), text: ENDPOINT.into() });
    assert_eq!(endpoint(&Config::new(&sources).unwrap()), Endpoint::Unix("/run/agent.sock".into()));
    let variable = "SPIFFE_SDS_SOURCE_WORKLOAD_API_ENDPOINT".to_owned();
    sources.variables.insert(variable, "unix:///variable".to_owned());
    assert_eq!(endpoint(&Config::new(&sources).unwrap()), Endpoint::Unix("/variable".into()));
    for (key, value) in [("source.workload_api.endpoint", "unix:///flag"), ("drain_deadline", "8s")] {
        sources.flags.push(Flag { flag: "--flag", key: key.into(), value: value.to_owned() });
    }
    let config = Config::new(&sources).unwrap();
    assert_eq!(endpoint(&config), Endpoint::Unix("/flag".into()));
    assert_eq!(config.server().drain_deadline.as_secs(), 8);
}

#[test]
fn a_list_in_a_variable_is_yaml_as_in_the_file() {
    let list = r#"[{unix: {path: /run/a.sock, mode: "0600"}}, {tcp: {address: "127.0.0.1:0"}}]"#;
    let config = Config::new(&with_variables(ENDPOINT, &[("SPIFFE_SDS_LISTENERS", list)])).unwrap();
    assert_eq!(config.server().listeners.len(), 2);
}

#[test]
fn variables_do_not_collide() {
    let mut names: Vec<_> = keys().into_iter().filter_map(|key| key.variable).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn tokens_reach_source_and_server() {
    let list = "[{audience: [b, a]}, {audience: [a], hint: internal}]";
    for (value, count) in [("payments, billing", 2), (list, 2), ("payments", 1)] {
        let config = Config::new(&with_variables(ENDPOINT, &[("SPIFFE_SDS_JWT_SVIDS", value)])).unwrap();
        assert_eq!(config.jwt().svids.len(), count, "{value}");
        assert_eq!(config.jwt().svids, config.secrets().jwt_svids, "{value}");
    }
    assert!(load(ENDPOINT).unwrap().jwt().is_idle());
}

#[test]
fn several_sources_keep_their_order() {
    let config = load(
        "source:
  workload_api: {endpoints: [unix:///a, 'tcp://127.0.0.1:1'], trust_domain: example.org}
  files: {svids: [{directory: /d}, {certificate: /c, key: /k, hint: h}], bundles: [{trust_domain: td, path: /b}]}
  failover: {lost_after: 1s, stale_percent: 60, failback_after: 2s, on_denial: true}
",
    )
    .unwrap();
    let names: Vec<_> = config.sources().iter().map(named).collect();
    assert_eq!(names, ["unix:///a", "tcp://127.0.0.1:1", "file:///d"]);
    let failover = config.failover();
    assert_eq!((failover.lost_after.as_secs(), failover.failback_after.as_secs()), (1, 2));
    assert_eq!((failover.stale_percent, failover.on_denial), (60, true));
    let Source::Files(files) = &config.sources()[2] else { panic!() };
    assert_eq!((files.svids.len(), files.bundles.len(), files.svids[1].hint.as_str()), (2, 1, "h"));
}

#[test]
fn the_standard_variable_is_for_those_who_say_nothing() {
    for yaml in ["source: {workload_api: {endpoints: [unix:///a]}}", "source: {files: {svids: [{directory: /a}]}}"] {
        let config = Config::new(&with_variables(yaml, &[("SPIFFE_ENDPOINT_SOCKET", "unix:///standard")])).unwrap();
        assert_eq!(config.sources().len(), 1);
        assert!(!named(&config.sources()[0]).contains("standard"));
    }
}

#[test]
fn a_flag_or_variable_beats_the_other_spelling_in_the_file() {
    let several = ("SPIFFE_SDS_SOURCE_WORKLOAD_API_ENDPOINTS", "unix:///x, unix:///y");
    let config = Config::new(&with_variables(ENDPOINT, &[several])).unwrap();
    assert_eq!(config.sources().len(), 2);
    let one = ("SPIFFE_SDS_SOURCE_WORKLOAD_API_ENDPOINT", "unix:///x");
    let config = Config::new(&with_variables("source: {workload_api: {endpoints: [unix:///a, unix:///b]}}", &[one]));
    assert_eq!(endpoint(&config.unwrap()), Endpoint::Unix("/x".into()));
}

#[test]
fn sources_that_cannot_be_meant_are_refused() {
    for (source, expected) in [
        ("workload_api: {endpoint: unix:///a, endpoints: [unix:///b]}", "endpoints: stands beside `endpoint`"),
        ("workload_api: {endpoints: []}", "endpoints: is empty"),
        ("workload_api: {endpoints: [unix:///a, unix:/a]}", "endpoints[1]: is in the list already"),
        ("workload_api: {endpoints: [unix:///a, b]}", "endpoints[1]: \"b\" is no SPIFFE endpoint"),
        ("files: {}", "source.files: has neither"),
        ("files: {svids: [{hint: a}]}", "svids[0]: needs either `directory`"),
        ("files: {svids: [{directory: /a, key: /b}]}", "svids[0]: needs either `directory`"),
        ("files: {svids: [{certificate: a, key: /b}]}", "svids[0].certificate: \"a\" is not absolute"),
        ("files: {bundles: [{path: /a}]}", "bundles[0]: needs `trust_domain` and `path`"),
        (
            "files: {bundles: [{trust_domain: a, path: /a}, {trust_domain: a, path: /b}]}",
            "bundles[1].trust_domain: has a",
        ),
    ] {
        let text = load(&format!("source: {{{source}}}")).unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains("1 problem"), "{source}: {text}");
    }
}

fn named(source: &source::Config) -> String {
    source.source(&source::decode::Limits::default(), &secret::DefaultIdentity::default()).name().to_string()
}
