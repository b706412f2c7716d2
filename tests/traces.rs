//! Rotations as traces: the whole program, real clients, and a receiver that speaks OTLP.
#![cfg(all(feature = "otlp", feature = "dev-issuer"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, unreachable_pub, reason = "modules of a test look like those of a crate")]

#[path = "traces/receiver.rs"]
mod receiver;
mod support;

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use envoy_types::pb::envoy::{
    config::core::v3::data_source::Specifier,
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use pem_rfc7468::LineEnding;
use receiver::{Receiver, Trace};
use spiffe_sds::{
    dev::JwtConfig,
    telemetry::{
        logs,
        traces::{self, Traces},
    },
};
use support::{
    app::{Place, Running},
    world::{bounded, eventually, id, unix_channel},
    xds::{Delta, Sotw, envoy},
};
use tokio::net::{TcpListener, UnixListener};

/// The log of all tests of this file, debug messages and spans included.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::DEBUG).with_writer(move || writer.clone()).init();
    log
});

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// How many lines hold all of these.
    fn count(&self, all: &[&str]) -> usize {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        text.lines().filter(|line| all.iter().all(|part| line.contains(part))).count()
    }
}

/// The program, traced to a receiver.
struct Traced {
    place: Place,
    running: Running,
    receiver: Receiver,
}

impl Traced {
    async fn start(more: &str) -> Self {
        let place = Place::new().await;
        let (receiver, address) = Receiver::tcp().await;
        let running = place.run(&config(&format!("endpoint: 'http://{address}'"), more)).await;
        Self { place, running, receiver }
    }

    /// A stream of its own connection that has taken these names, which are there.
    async fn sotw<const N: usize>(&self, node: &str, names: [&str; N]) -> Sotw {
        let channel = unix_channel(self.running.socket.clone()).await;
        let mut node_of = envoy(40);
        node_of.id = node.into();
        let mut client = Sotw::secrets(&channel).await.node(Some(node_of));
        client.subscribe(names).await;
        client.expect(names).await;
        client.ack().await;
        client
    }

    async fn delta<const N: usize>(&self, node: &str, names: [&str; N]) -> Delta {
        let channel = unix_channel(self.running.socket.clone()).await;
        let mut node_of = envoy(40);
        node_of.id = node.into();
        let mut client = Delta::secrets(&channel).await.node(Some(node_of));
        client.subscribe(names).await;
        client.expect(names).await;
        client.ack().await;
        client
    }

    /// The traces that are over before `act`.
    fn before(&self, act: impl FnOnce()) -> Vec<String> {
        let before = self.receiver.traces().into_iter().map(|trace| hex(&trace.root.span.trace_id)).collect();
        act();
        before
    }

    async fn first_state(&self) {
        self.receiver.trace(|trace| trace.root.is("kind", "x509")).await;
    }
}

fn config(traces: &str, more: &str) -> String {
    format!("telemetry: {{traces: {{{traces}}}}}\n{more}")
}

/// `SHOW=1 cargo test --features otlp --test traces -- --nocapture` prints what docs/traces.md shows.
fn show(trace: &Trace) {
    if std::env::var_os("SHOW").is_some() {
        println!("{}", trace.drawn());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn token(secret: &Secret) -> String {
    let Some(secret::Type::GenericSecret(generic)) = &secret.r#type else { panic!("{secret:?}") };
    match generic.secret.as_ref().and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A finished trace of X.509 that is none of those before.
fn new_one(before: Vec<String>) -> impl Fn(&Trace) -> bool {
    move |trace| trace.root.is("kind", "x509") && !before.contains(&hex(&trace.root.span.trace_id))
}

#[tokio::test]
async fn a_rotation_is_one_trace_from_the_message_to_the_last_ack() {
    let traced = Traced::start("").await;
    let mut sotw = traced.sotw("sotw", ["default"]).await;
    let mut delta = traced.delta("delta\n", ["ROOTCA", "default"]).await;
    let _other = traced.sotw("unconcerned", ["ROOTCA"]).await;
    traced.first_state().await;
    let begun = SystemTime::now();
    let before = traced.before(|| traced.place.issuer.rotate().unwrap());
    sotw.expect(["default"]).await;
    sotw.ack().await;
    delta.expect(["default"]).await;
    // The trace is not over before the last client has answered.
    let unanswered = SystemTime::now();
    delta.ack().await;
    let trace = traced.receiver.trace(new_one(before.clone())).await;
    let done = SystemTime::now();
    show(&trace);

    assert_eq!(trace.names(), ["decode", "publish", "push", "push"]);
    let (root, pushes) = (&trace.root, trace.named("push"));
    assert!(root.span.start_time_unix_nano > nanos(begun) && root.span.end_time_unix_nano > nanos(unanswered));
    assert!(root.span.end_time_unix_nano < nanos(done));
    assert_eq!(root.span.end_time_unix_nano, pushes.iter().map(|it| it.span.end_time_unix_nano).max().unwrap());
    assert_eq!(root.span.start_time_unix_nano, trace.named("decode")[0].span.start_time_unix_nano);
    for child in &trace.children {
        assert_eq!(child.span.parent_span_id, root.span.span_id, "{child:?}");
        assert!(child.span.start_time_unix_nano >= root.span.start_time_unix_nano);
        assert!(child.span.end_time_unix_nano <= root.span.end_time_unix_nano);
    }
    let api = format!("unix://{}", traced.place.at("api.sock").display());
    let expected = [
        ("source", api.as_str()),
        ("trigger", "message"),
        ("spiffe_ids", "spiffe://domain.test/workload"),
        ("trust_domains", "domain.test"),
        ("outcome", "complete"),
        ("pushes", "2"),
        ("acked", "2"),
    ];
    for (name, value) in expected {
        assert!(root.is(name, value), "{name}: {root:?}");
    }
    let publish = trace.named("publish")[0];
    assert!(publish.is("certificates", "true") && publish.is("trust_grows", "false"), "{publish:?}");
    assert!(publish.is("streams", "3") && publish.is("resources", "1"), "{publish:?}");
    for (node, variant) in [("sotw", "sotw"), ("delta\\n", "delta")] {
        let push = pushes.iter().find(|push| push.is("node", node)).unwrap_or_else(|| panic!("no {node}: {pushes:?}"));
        assert!(push.is("variant", variant) && push.is("service", "sds") && push.is("name", "default"), "{push:?}");
        assert!(push.is("type_url", support::xds::SECRET) && push.is("answer", "ack"), "{push:?}");
        assert!(push.attributes["peer"].starts_with(&format!("pid:{} ", std::process::id())), "{push:?}");
        assert!(push.attributes["version"].len() == 32 && !push.attributes["nonce"].is_empty(), "{push:?}");
        assert!(push.attributes["bytes"].parse::<usize>().unwrap() > 500, "{push:?}");
    }
    let nonce = &pushes.iter().find(|push| push.is("node", "sotw")).unwrap().attributes["nonce"];
    assert_eq!(*nonce, sotw.nonce);
    let since = traced.receiver.traces().into_iter().filter(|trace| new_one(before.clone())(trace)).count();
    assert_eq!(since, 1, "one rotation, one trace");
    traced.running.stop().await;
}

#[tokio::test]
async fn the_first_state_reaches_those_who_wait_for_it() {
    let place = Place::new().await;
    place.issuer.hang();
    let (receiver, address) = Receiver::tcp().await;
    let traced =
        Traced { running: place.run(&config(&format!("endpoint: 'http://{address}'"), "")).await, place, receiver };
    let channel = unix_channel(traced.running.socket.clone()).await;
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["default"]).await;
    traced.place.issuer.recover();
    client.expect(["default"]).await;
    client.ack().await;
    let trace = traced.receiver.trace(|trace| !trace.named("push").is_empty()).await;
    assert!(trace.root.is("trigger", "message") && trace.root.is("acked", "1"), "{trace:?}");
    let request = &traced.receiver.received().requests[0];
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    let of = |name: &str| format!("{:?}", resource.attributes.iter().find(|pair| pair.key == name).unwrap().value);
    assert!(of("service.name").contains("\"spiffe-sds\""), "{resource:?}");
    assert!(of("service.version").contains(env!("CARGO_PKG_VERSION")), "{resource:?}");
}

#[tokio::test]
async fn a_rejection_is_an_error() {
    let traced = Traced::start("").await;
    let mut client = traced.sotw("picky", ["default"]).await;
    let mut content = traced.sotw("content", ["default"]).await;
    traced.first_state().await;
    let before = traced.before(|| traced.place.issuer.rotate().unwrap());
    client.expect(["default"]).await;
    client.nack("no\nway").await;
    content.expect(["default"]).await;
    content.ack().await;
    let trace = traced.receiver.trace(new_one(before)).await;
    assert_eq!(trace.root.error(), Some("1 of 2 pushes were rejected"));
    assert!(trace.root.is("outcome", "rejected"), "{trace:?}");
    let push = |node: &str| trace.named("push").into_iter().find(|push| push.is("node", node)).unwrap();
    assert_eq!((push("picky").error(), push("content").error()), (Some("no\\nway"), None));
    assert!(push("picky").is("answer", "nack"));
}

#[tokio::test]
async fn a_client_that_leaves_is_not_waited_for() {
    let traced = Traced::start("").await;
    let mut client = traced.delta("leaving", ["default"]).await;
    traced.first_state().await;
    let before = traced.before(|| traced.place.issuer.rotate().unwrap());
    client.expect(["default"]).await;
    drop(client);
    let trace = traced.receiver.trace(new_one(before)).await;
    assert!(trace.root.is("outcome", "unanswered") && trace.root.is("unanswered", "1"), "{trace:?}");
    assert_eq!(trace.named("push")[0].error(), Some("the stream ended"));
}

#[tokio::test]
async fn the_steps_of_a_roll_out_are_in_the_same_trace() {
    let traced = Traced::start("secrets: {rollout_hold: 100ms}").await;
    let mut client = traced.sotw("envoy-1", ["ROOTCA", "default"]).await;
    traced.first_state().await;
    // Both the new authority and the certificate under it in one message.
    traced.place.issuer.hang();
    traced.place.issuer.prepare_ca().unwrap();
    traced.place.issuer.activate_ca().unwrap();
    let before = traced.before(|| traced.place.issuer.recover());
    client.expect(["ROOTCA"]).await;
    client.ack().await;
    client.expect(["default"]).await;
    client.ack().await;
    let trace = traced.receiver.trace(new_one(before)).await;
    show(&trace);
    // The hold may begin before the push of the step before it does.
    let mut names = trace.names();
    names.sort_unstable();
    assert_eq!(names, ["decode", "hold", "publish", "publish", "push", "push"], "{}", trace.drawn());
    let hold = &trace.named("hold")[0].span;
    let held = Duration::from_nanos(hold.end_time_unix_nano - hold.start_time_unix_nano);
    assert!(held > Duration::from_millis(90), "{held:?}");
    let steps: Vec<_> = trace.named("publish").iter().map(|step| step.attributes["trust_grows"].clone()).collect();
    assert_eq!(steps, ["true", "false"]);
    assert!(trace.root.is("acked", "2") && trace.root.is("outcome", "complete"), "{trace:?}");
}

#[tokio::test]
async fn tokens_have_traces_of_their_own_and_no_secret_is_in_any() {
    let log = LOG.clone();
    let place = Place::with(|issuer| {
        issuer.jwt = JwtConfig { ttl: Duration::from_secs(2), cached_percent: 0 };
    })
    .await;
    let (receiver, address) = Receiver::tcp().await;
    let jwt = "jwt: {svids: [{audience: [payments]}]}";
    let running = place.run(&config(&format!("endpoint: 'http://{address}'"), jwt)).await;
    let traced = Traced { place, running, receiver };
    let mut sotw = traced.sotw("tokens", ["jwt:payments"]).await;
    let mut delta = traced.delta("both", ["default", "jwt:payments"]).await;
    let mut keys = vec![traced.place.issuer.svid(&id("workload")).unwrap().svid.key.pkcs8_der().to_vec()];
    let mut tokens = BTreeSet::new();
    for _ in 0..2 {
        let secret = sotw.expect(["jwt:payments"]).await;
        tokens.insert(token(&secret[0]));
        sotw.ack().await;
        let secret = delta.expect(["jwt:payments"]).await;
        tokens.insert(token(&secret[0]));
        delta.ack().await;
    }
    let acked = |trace: &Trace| trace.root.is("kind", "jwt") && trace.root.is("acked", "2");
    let trace = traced.receiver.trace(acked).await;
    assert!(trace.root.is("audiences", "payments") && trace.root.is("trigger", "message"), "{trace:?}");
    assert!(trace.named("push").iter().all(|push| push.is("name", "jwt:payments")), "{trace:?}");

    let before = traced.before(|| traced.place.issuer.rotate().unwrap());
    keys.push(traced.place.issuer.svid(&id("workload")).unwrap().svid.key.pkcs8_der().to_vec());
    while delta.response().await.resources[0].name != "default" {}
    drop((sotw, delta));
    traced.receiver.trace(new_one(before)).await;
    let (exported, logged) = (traced.receiver.bytes(), log.0.lock().unwrap().clone());
    let contains = |needle: &[u8]| {
        [&exported, &logged].into_iter().any(|text| text.windows(needle.len()).any(|window| window == needle))
    };
    assert!(contains(b"spiffe://domain.test/workload"), "the search works");
    for key in &keys {
        let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, key).unwrap();
        assert!(!contains(&key[36..52]) && !contains(pem.lines().nth(1).unwrap().as_bytes()));
    }
    for token in &tokens {
        // The head of a token is the same in all; its claims and its signature are not.
        let (head_and_claims, signature) = token.rsplit_once('.').unwrap();
        assert!(!contains(head_and_claims.as_bytes()) && !contains(&signature.as_bytes()[..24]));
    }
    assert!(tokens.len() >= 2, "{tokens:?}");
}

#[tokio::test]
async fn pushes_have_spans_in_the_log_too() {
    let log = LOG.clone();
    let traced = Traced::start("").await;
    let mut client = traced.sotw("in-the-log", ["default"]).await;
    traced.place.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    client.ack().await;
    let all =
        |message: &str| log.count(&[message, "in-the-log", "\"nonce\":", "\"variant\":\"sotw\"", "\"peer\":\"pid:"]);
    eventually("both messages have the fields of the span", || {
        all("resource sent") >= 2 && all("resource acknowledged") >= 2
    })
    .await;
}

#[ignore = "its last wait, for the message that the receiver is back, ends in vain; the cause is not known"]
#[tokio::test]
async fn nothing_waits_for_a_receiver_that_is_not_there() {
    let log = LOG.clone();
    let place = Place::new().await;
    // One that accepts connections, and never says a word.
    let deaf = UnixListener::bind(place.at("otlp.sock")).unwrap();
    let running = place.run(&config("endpoint: 'unix://$/otlp.sock', timeout: 1500ms", "")).await;
    let channel = unix_channel(running.socket.clone()).await;
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let endpoint = format!("unix://{}", place.at("otlp.sock").display());
    let warned = || log.count(&["traces are not received and are lost until they are", &endpoint]);
    let lost = || warned() + log.count(&["traces are lost", &endpoint]);
    let mut most = 0;
    while lost() < 3 {
        let (seen, mut rotations) = (lost(), 0);
        while lost() == seen {
            place.issuer.rotate().unwrap();
            client.expect(["default"]).await;
            client.ack().await;
            rotations += 1;
        }
        most = most.max(rotations);
    }
    assert_eq!(warned(), 1, "one warning an outage");
    assert!(most > 2, "{most} rotations at most while one request is under way");

    // It comes back.
    drop(deaf);
    std::fs::remove_file(place.at("otlp.sock")).unwrap();
    let receiver = Receiver::unix(&place.at("otlp.sock"));
    while receiver.traces().is_empty() {
        let seen = lost();
        place.issuer.rotate().unwrap();
        client.expect(["default"]).await;
        client.ack().await;
        eventually("the next attempt", || lost() > seen || !receiver.traces().is_empty()).await;
    }
    eventually("its return is said", || log.count(&["traces are received again", &endpoint]) == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_the_last_trace_and_for_no_receiver() {
    let traced = Traced::start("").await;
    let mut client = traced.sotw("last", ["default"]).await;
    traced.first_state().await;
    traced.place.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    traced.running.stop().await;
    let last = traced.receiver.traces().into_iter().find(|trace| !trace.named("push").is_empty()).expect("not flushed");
    assert!(last.root.is("outcome", "unanswered"), "{last:?}");

    let place = Place::new().await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let traces = format!("endpoint: 'http://{}', timeout: 1m", deaf.local_addr().unwrap());
    let mut running = place.run(&config(&traces, "")).await;
    bounded(running.renewals.recv()).await.unwrap();
    // In time, though the receiver may take an hour.
    running.stop().await;
}

#[tokio::test]
async fn a_unix_socket_headers_and_a_name() {
    let place = Place::new().await;
    let receiver = Receiver::unix(&place.at("otlp.sock"));
    std::fs::write(place.at("headers"), "Authorization: Bearer hush\n\nx-scope: a:b\n").unwrap();
    let traces = "endpoint: 'unix://$/otlp.sock', headers_file: '$/headers', service_name: edge";
    let running = place.run(&config(traces, "")).await;
    receiver.trace(|_| true).await;
    let received = receiver.received();
    assert_eq!(received.authorized[0].as_deref(), Some("Bearer hush"));
    assert!(format!("{:?}", received.requests[0].resource_spans[0].resource).contains("\"edge\""));
    assert_eq!(LOG.count(&["hush"]), 0);
    running.stop().await;
}

#[tokio::test]
async fn rotations_that_are_not_sampled_leave_nothing() {
    let place = Place::new().await;
    let (receiver, address) = Receiver::tcp().await;
    let mut running = place.run(&config(&format!("endpoint: 'http://{address}', sample_percent: 0"), "")).await;
    bounded(running.renewals.recv()).await.unwrap();
    running.stop().await;
    assert!(receiver.received().requests.is_empty());
}

#[tokio::test]
async fn a_header_that_is_none_is_named_by_its_line_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("headers");
    let mut config = traces::Config::new("http://127.0.0.1:4317".parse().unwrap());
    config.headers_file = Some(path.clone());
    let refused = |config: &traces::Config| logs::chain(&Traces::configured(Some(config)).unwrap_err());
    assert!(refused(&config).contains("correct telemetry.traces.headers_file"), "{}", refused(&config));
    for bad in ["hush", "hush hush: x", "authorization: hu\u{7}sh"] {
        std::fs::write(&path, format!("a: b\n{bad}\n")).unwrap();
        let error = refused(&config);
        assert!(error.contains("line 2 of") && !error.contains(bad) && !error.contains("hush"), "{error}");
    }
}
