//! Every complaint, word for word: where, which key, what is wrong and what to write instead.

use super::*;

/// The problems of a file, one a line; the endpoint is set by a flag so that it is never one of them.
pub(super) fn problems(yaml: &str) -> Vec<String> {
    let mut sources = sources(yaml);
    let value = "unix:///run/agent.sock".to_owned();
    sources.flags.push(Flag { flag: "--endpoint", key: "source.workload_api.endpoint".into(), value });
    problems_of(&sources)
}

fn problems_of(sources: &Sources) -> Vec<String> {
    match Config::new(sources) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Asserts that a file has exactly these problems.
macro_rules! refused {
    ($yaml:expr, $($line:expr),+ $(,)?) => { assert_eq!(problems($yaml), [$($line),+]) };
}

#[test]
fn a_missing_endpoint_is_one_problem() {
    let message = "source.workload_api.endpoint: is not set; set SPIFFE_ENDPOINT_SOCKET, pass --endpoint, \
                   or write it into the configuration file";
    assert_eq!(problems_of(&Sources::default()), [message]);
    assert_eq!(problems_of(&sources("source: {workload_api: {endpoint: ~}}")), [message]);
    // The misspelt key is the news, not what follows from it.
    assert_eq!(
        problems_of(&sources("source:\n  workload_api:\n    endpont: unix:///a")),
        ["sds.yaml:3:5: source.workload_api.endpont: unknown key; did you mean `endpoint`?"]
    );
}

#[test]
fn everything_wrong_is_said_at_once_in_the_order_of_the_file() {
    let yaml = "\
secrets:
  rollout_hold: 11s
listeners:
  - tcp: {address: 0.0.0.0:443}
  - unix: {path: run/a.sock, mode: 0888, owner: no-such-user-here}
  - {}
limits:
  connections: 0
drain_deadline: 5
log:
  format: jsn
";
    let mut sources = with_variables(yaml, &[("SPIFFE_SDS_KEEPALIVE_TIMEOUT", "1"), ("SPIFFE_SDS_WILDCARDS", "1")]);
    sources.flags.push(Flag { flag: "--endpoint", key: "source.workload_api.endpoint".into(), value: "/a".into() });
    assert_eq!(
        Config::new(&sources).unwrap_err().to_string(),
        r#"the configuration has 12 problems:
  sds.yaml:2:17: secrets.rollout_hold: 11s is out of range; allowed are 0s to 10s
  sds.yaml:4:20: listeners[0].tcp.address: "0.0.0.0:443" is not a loopback address; nothing is authenticated on TCP, so anybody could be given private keys, or could give forged public ones: listen on 127.0.0.1 or [::1], or on a Unix socket
  sds.yaml:5:18: listeners[1].unix.path: "run/a.sock" is not absolute; start it with `/`
  sds.yaml:5:36: listeners[1].unix.mode: "0888" is not a file mode; write three octal digits after a zero, in quotes: "0660"
  sds.yaml:5:49: listeners[1].unix.owner: there is no user "no-such-user-here"; create it, or write a number
  sds.yaml:6:5: listeners[2]: has neither `unix` nor `tcp`; write one
  sds.yaml:8:16: limits.connections: 0 is out of range; allowed are 1 to 1000000
  sds.yaml:9:17: drain_deadline: 5 is a number, not text; write it in quotes
  sds.yaml:11:11: log.format: "jsn" is not known; did you mean `json`?
  SPIFFE_SDS_WILDCARDS: unknown variable; docs/configuration.md lists those there are
  --endpoint: source.workload_api.endpoint: "/a" is no SPIFFE endpoint; write unix:///absolute/path or tcp://IP:port
  SPIFFE_SDS_KEEPALIVE_TIMEOUT: keepalive.timeout: "1" is not a duration; write a number with its unit, such as 250ms, 5s or 1m"#
    );
}

#[test]
fn syntax() {
    refused!("a: [\n", "sds.yaml:1:4: not readable as YAML: unclosed bracket '['");
    refused!(
        "a: 1\n---\nb: 1",
        "sds.yaml:3:1: not readable as YAML: a second document starts here; keep one, without `---` inside"
    );
    refused!("- a", "sds.yaml:1:1: is a list, not a mapping; write its keys indented on the following lines");
}

#[test]
fn unknown_keys_are_pointed_to_the_right_one() {
    refused!("limit: {}", "sds.yaml:1:1: limit: unknown key; did you mean `limits`?");
    refused!("wildcard: true", "sds.yaml:1:1: wildcard: unknown key; did you mean `secrets.wildcard`?");
    refused!("log: {colour: no}", "sds.yaml:1:7: log.colour: unknown key; known here: `format`, `filter`");
    refused!(
        "log: {format: json,\n format: human}",
        "sds.yaml:2:2: log.format: written twice; remove this one or the one at sds.yaml:1:7"
    );
}

#[test]
fn a_name_is_not_null() {
    // As in SPIRE's documentation, where it is the word: a name that nobody asks for.
    for key in ["default_svid_name", "default_bundle_name", "default_all_bundles_name"] {
        for null in ["null", "~", "Null", ""] {
            let problems = problems(&format!("secrets: {{{key}: {null}}}"));
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            assert!(problem.contains(key) && problem.contains("write \"null\" for this very name"), "{problem}");
        }
        assert_eq!(problems(&format!("secrets: {{{key}: \"null\"}}")), [""; 0]);
    }
}

#[test]
fn kinds() {
    refused!(
        "limits: {connections: many}",
        r#"sds.yaml:1:23: limits.connections: "many" is not a whole number; write digits only, without quotes"#
    );
    refused!(
        "secrets: {wildcard: yes}",
        r#"sds.yaml:1:21: secrets.wildcard: "yes" is not a boolean; write true or false"#
    );
    refused!(
        "secrets: {default_svid_name: 1}",
        "sds.yaml:1:30: secrets.default_svid_name: 1 is a number, not text; write it in quotes"
    );
    refused!(
        "secrets: off",
        r#"sds.yaml:1:10: secrets: "off" is not a mapping; write its keys indented on the following lines"#
    );
    refused!("listeners: {unix: {}}", "sds.yaml:1:12: listeners: is a mapping, not a list; start each item with `- `");
    refused!(
        "listeners: [~]",
        "sds.yaml:1:13: listeners[0]: is nothing, not a mapping; write its keys indented on the following lines"
    );
    refused!(
        "limits: {connections: 99999999999999999999999}",
        "sds.yaml:1:23: limits.connections: 100000000000000000000000 is not a whole number; write digits only, without quotes"
    );
    refused!(
        "listeners: [{unix: {path: /a, owner: -1}}]",
        "sds.yaml:1:38: listeners[0].unix.owner: -1 is out of range; allowed are 0 to 4294967294"
    );
    refused!(
        "listeners: [{unix: {path: /a, owner: []}}]",
        "sds.yaml:1:38: listeners[0].unix.owner: a list cannot stand here; write text or number"
    );
}

#[test]
fn durations() {
    refused!(
        "source: {backoff: {initial: 5s, max: 1s}}",
        "sds.yaml:1:38: source.backoff.max: is shorter than `initial`, which is 5s; make `max` the longer one"
    );
    refused!(
        "source: {backoff: {initial: 11s}}",
        "sds.yaml:1:29: source.backoff.initial: is longer than `max`, which is 10s; make `max` the longer one"
    );
    refused!(
        "drain_deadline: soon",
        r#"sds.yaml:1:17: drain_deadline: "soon" is not a duration; write a number with its unit, such as 250ms, 5s or 1m"#
    );
}

#[test]
fn names() {
    refused!(
        "secrets: {default_svid_name: ROOTCA}",
        r#"sds.yaml:1:30: secrets.default_svid_name: "ROOTCA" is the value of `default_bundle_name` too; a certificate needs a name of its own"#
    );
    refused!(
        "secrets: {default_all_bundles_name: default}",
        r#"sds.yaml:1:37: secrets.default_all_bundles_name: "default" is the value of `default_svid_name` too; a certificate needs a name of its own"#
    );
    // SPIRE's own tests rely on this (handler_test.go, "disable custom validation").
    assert!(problems("secrets: {default_bundle_name: ALL}").is_empty());
    let name = |text: &str| problems(&format!("secrets: {{default_bundle_name: \"{text}\"}}"));
    let at = "sds.yaml:1:32: secrets.default_bundle_name:";
    assert_eq!(name(""), [format!("{at} is empty; write the name that Envoy asks for")]);
    let like_id = "looks like a SPIFFE ID, which names itself; write another name";
    assert_eq!(name("Spiffe://a"), [format!("{at} \"Spiffe://a\" {like_id}")]);
    let space = "holds white space or control characters; write another name";
    assert_eq!(name("a b"), [format!("{at} \"a b\" {space}")]);
    let dot = "holds `%2E`, which stands for a dot in every name; write the dot";
    assert_eq!(name("a%2eb"), [format!("{at} \"a%2eb\" {dot}")]);
}

/// The rules themselves are tested where they are, with the endpoint.
#[test]
fn endpoints() {
    let endpoint = |text: &str| problems_of(&sources(&format!("source: {{workload_api: {{endpoint: '{text}'}}}}")));
    let at = "sds.yaml:1:35: source.workload_api.endpoint:";
    for good in ["unix:///a/b", "unix:/a", "tcp://127.0.0.1:1", "tcp://[::1]:80"] {
        assert!(endpoint(good).is_empty(), "{good}");
    }
    let none = "is no SPIFFE endpoint; write unix:///absolute/path or tcp://IP:port";
    assert_eq!(endpoint("/a"), [format!("{at} \"/a\" {none}")]);
    let host = "names no IP address; write tcp://IP:port, the specification allows no host names";
    assert_eq!(endpoint("tcp://agent:1"), [format!("{at} \"tcp://agent:1\" {host}")]);
}

#[test]
fn trust_domains() {
    let trust_domain = |text: &str| problems(&format!("source: {{workload_api: {{trust_domain: '{text}'}}}}"));
    assert!(trust_domain("example.org").is_empty() && trust_domain("spiffe://example.org").is_empty());
    let message = "is not a trust domain; write such as example.org: lower case letters, digits, `.`, `-`, `_`";
    for bad in ["", "exa mple", "spiffe://example.org/path"] {
        assert_eq!(
            trust_domain(bad),
            [format!("sds.yaml:1:39: source.workload_api.trust_domain: \"{bad}\" {message}")]
        );
    }
}

#[test]
fn listeners() {
    refused!(
        "listeners: []",
        "sds.yaml:1:12: listeners: is empty, so nobody could connect; add a listener or remove the key"
    );
    refused!(
        "listeners:\n- unix: {}",
        "sds.yaml:2:9: listeners[0].unix: has no `path`; write where the socket file shall be"
    );
    refused!(
        "listeners:\n- tcp: {}",
        "sds.yaml:2:8: listeners[0].tcp: has no `address`; write such as 127.0.0.1:18000"
    );
    refused!(
        "listeners:\n- {unix: {path: /a}, tcp: {address: '127.0.0.1:1'}}",
        "sds.yaml:2:3: listeners[0]: has both `unix` and `tcp`; make them two items of the list"
    );
    refused!(
        "listeners:\n- unix: {path: /a}\n- unix: {path: /a}",
        "sds.yaml:3:16: listeners[1].unix.path: is the same as that of listeners[0]; remove one of them"
    );
    refused!(
        "listeners:\n- tcp: {address: '[::1]:1'}\n- tcp: {address: '[::1]:1'}",
        "sds.yaml:3:18: listeners[1].tcp.address: is the same as that of listeners[0]; remove one of them"
    );
    refused!(
        "listeners:\n- unix: {path: /run/agent.sock}",
        "sds.yaml:2:16: listeners[0].unix.path: is the socket of the Workload API; choose another path to listen on"
    );
    refused!(
        "listeners:\n- tcp: {address: 'localhost:1'}",
        r#"sds.yaml:2:18: listeners[0].tcp.address: "localhost:1" is not an IP address with a port; write such as 127.0.0.1:18000 or [::1]:18000"#
    );
    refused!(
        "listeners:\n- unix: {path: /a, group: no-such-group}",
        r#"sds.yaml:2:27: listeners[0].unix.group: there is no group "no-such-group"; create it, or write a number"#
    );
    refused!(
        "bundle_endpoint: {listeners: [{tcp: {address: '10.0.0.1:80'}}]}",
        r#"sds.yaml:1:47: bundle_endpoint.listeners[0].tcp.address: "10.0.0.1:80" is not a loopback address; nothing is authenticated on TCP, so anybody could be given private keys, or could give forged public ones: listen on 127.0.0.1 or [::1], or on a Unix socket"#
    );
    refused!(
        "listeners: [{unix: {path: /a}}]\nbundle_endpoint: {listeners: [{unix: {path: /a}}]}",
        "sds.yaml:2:45: bundle_endpoint.listeners[0].unix.path: is the same as that of listeners[0]; remove one of them"
    );
    refused!(
        "bundle_endpoint: {listeners: [{unix: {path: /run/spiffe-sds/sds.sock}}]}",
        "sds.yaml:1:45: bundle_endpoint.listeners[0].unix.path: is where Envoy connects when no `listeners` are set; choose another path"
    );
    assert!(problems("bundle_endpoint: {listeners: []}").is_empty());
    refused!(
        "admin: {listeners: [{tcp: {address: '10.0.0.1:80'}}]}",
        r#"sds.yaml:1:37: admin.listeners[0].tcp.address: "10.0.0.1:80" is not a loopback address; whoever reaches it sees every SPIFFE ID and every client: listen on 127.0.0.1 or [::1] or on a Unix socket, or set `allow_public: true`"#
    );
    refused!(
        "admin: {hosts: 'a.test, b.test:80'}",
        r#"sds.yaml:1:16: admin.hosts: "b.test:80" is not the name of a host; write names without port, separated by commas; IP addresses need no entry"#
    );
    assert!(problems("admin: {allow_public: true, listeners: [{tcp: {address: '10.0.0.1:80'}}]}").is_empty());
    assert!(problems("admin: {listeners: []}").is_empty());
    assert!(problems("listeners: [{tcp: {address: '127.0.0.1:0'}}, {tcp: {address: '127.0.0.1:0'}}]").is_empty());
}

#[test]
fn socket_paths() {
    let path = |text: &str| problems(&format!("listeners: [{{unix: {{path: \"{text}\"}}}}]"));
    let at = "sds.yaml:1:27: listeners[0].unix.path:";
    let longest = format!("/{}", "a".repeat(106));
    assert!(path(&longest).is_empty());
    let message = "has 108 bytes, but a socket path may have 107; choose a shorter one";
    assert_eq!(path(&format!("{longest}a")), [format!("{at} \"{longest}a\" {message}")]);
    assert_eq!(path("/run/"), [format!("{at} \"/run/\" is a directory; add the name of the socket file")]);
    assert_eq!(path("/a\\0"), [format!("{at} \"/a\\0\" holds a NUL character; remove it")]);
}

#[test]
fn log_filters() {
    let filter = |text: &str| problems(&format!("log: {{filter: '{text}'}}"));
    assert!(filter("debug,h2=off").is_empty());
    let levels = "is not a log level; write off, error, warn, info, debug or trace, or target=level";
    for bad in ["inof", "", "=info"] {
        assert_eq!(filter(bad), [format!("sds.yaml:1:15: log.filter: \"{bad}\" {levels}")]);
    }
    assert_eq!(filter("a=loud"), [format!("sds.yaml:1:15: log.filter: \"loud\" {levels}")]);
    let second = "is a second level for everything; write target=level";
    assert_eq!(filter("info,warn"), [format!("sds.yaml:1:15: log.filter: \"warn\" {second}")]);
}

#[test]
fn variables() {
    let problems = |variables: &[(&str, &str)]| problems_of(&with_variables(ENDPOINT, variables));
    assert_eq!(
        problems(&[("SPIFFE_SDS_DRAIN_DEADLIN", "1s")]),
        ["SPIFFE_SDS_DRAIN_DEADLIN: unknown variable; did you mean SPIFFE_SDS_DRAIN_DEADLINE?"]
    );
    assert_eq!(
        problems(&[("SPIFFE_SDS_LISTENERS", "/run/a.sock")]),
        [
            r#"SPIFFE_SDS_LISTENERS: listeners: "/run/a.sock" is not a listener; write unix:///absolute/path or tcp://127.0.0.1:port, separated by commas"#
        ]
    );
    assert_eq!(
        problems(&[("SPIFFE_SDS_LISTENERS", "[{")]),
        ["SPIFFE_SDS_LISTENERS:1:2: listeners: not readable as YAML: unclosed bracket '{'"]
    );
    assert_eq!(
        problems(&[("SPIFFE_SDS_SECRETS_WILDCARD", "1")]),
        [r#"SPIFFE_SDS_SECRETS_WILDCARD: secrets.wildcard: "1" is not a boolean; write true or false"#]
    );
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(10_000);
    let problems = problems(&format!("log: {{format: {long}}}"));
    assert!(problems[0].len() < 300 && problems[0].contains("(10000 bytes)"), "{}", problems[0]);
}

#[test]
fn a_file_that_is_not_there() {
    let error = File::read(Path::new("/no/such/file.yaml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /no/such/file.yaml; name an existing one with --config or SPIFFE_SDS_CONFIG"
    );
}

#[test]
fn every_wrong_token_is_named() {
    let yaml = format!(
        r#"{ENDPOINT}
secrets: {{default_bundle_name: "jwt:x"}}
jwt:
  svids:
    - audience: [payments]
    - {{}}
    - audience: []
    - audience: [a, a]
    - audience: [a, ""]
    - audience: [a, 5]
    - audience: [payments]
    - {{audience: [a], id: web}}
    - {{audience: [a], id: "spiffe://example.org"}}
    - {{audience: [a], id: "spiffe://example.org/web", hint: internal}}
    - {{audience: [a], hint: ""}}
"#
    );
    let text = load(&yaml).unwrap_err().to_string();
    for part in [
        "secrets.default_bundle_name: \"jwt:x\" looks like the name of a token",
        "jwt.svids[1]: has no `audience`",
        "jwt.svids[2]: has no `audience`",
        "jwt.svids[3].audience[1]: is written twice",
        "jwt.svids[4].audience[1]: is empty",
        "jwt.svids[5].audience[1]: 5 is a number, not text",
        "jwt.svids[6]: asks for the same token as an earlier item",
        "jwt.svids[7].id: \"web\" is no SPIFFE ID",
        "jwt.svids[8].id: \"spiffe://example.org\" names a trust domain, no workload",
        "jwt.svids[9]: has both `id` and `hint`",
        "jwt.svids[10].hint: is empty",
        "has 11 problems",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn traces_need_a_build_that_can_send_them_and_a_place_to_go() {
    let built = "sds.yaml:1:32: telemetry.traces.endpoint: needs a build that can send traces, which this one is not; \
                 build with `--features otlp`, or remove the key";
    let expected: &[&str] = if cfg!(feature = "otlp") { &[] } else { &[built] };
    assert_eq!(problems("telemetry: {traces: {endpoint: 'http://127.0.0.1:4317'}}"), expected);
    assert_eq!(
        problems("telemetry: {traces: {headers_file: /etc/otlp.headers}}"),
        [
            "sds.yaml:1:36: telemetry.traces.headers_file: is about traces, which have no `endpoint`; write where to send them"
        ]
    );
    // What may be a password is not repeated.
    let more = problems("telemetry: {traces: {endpoint: 'http://user:hush@127.0.0.1:4317'}}");
    assert!(more[0].contains("has more than a host and a port") && !more[0].contains("hush"), "{more:?}");
    refused!(
        "telemetry: {traces: {sample_percent: 101, protocol: http}}",
        "sds.yaml:1:38: telemetry.traces.sample_percent: 101 is out of range; allowed are 0 to 100",
        "sds.yaml:1:53: telemetry.traces.protocol: \"http\" is not known; write one of grpc"
    );
}
