//! The log of the real program: it is in nobody's way, however slow its reader is and whatever others cause, and it moves
//! nothing on a terminal.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::{PipeReader, Read as _},
    process::Stdio,
    sync::{Arc, Mutex},
};

use envoy_types::pb::envoy::config::core::v3::Node;
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::Value;
use support::{
    app::Place,
    world::{bounded, eventually, unix_channel},
    xds::{Delta, Sotw, request},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::{Child, Command},
};

const ADMIN: &str = "admin: {listeners: [{unix: {path: '$/admin.sock', mode: '0600'}}]}\nsecrets: {rollout_hold: 0s}\n";

/// The program as a process of its own; killed when dropped.
struct Process {
    place: Place,
    child: Child,
}

impl Process {
    async fn start(stderr: impl Into<Stdio>, more: &str, arguments: &[&str]) -> Self {
        let place = Place::new().await;
        fs::write(place.at("sds.yaml"), place.yaml(&(ADMIN.to_owned() + more))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spiffe-sds"));
        command.env_clear().kill_on_drop(true).args(["serve", "--config"]).arg(place.at("sds.yaml")).args(arguments);
        let child = command.stderr(stderr).spawn().unwrap();
        Self { place, child }
    }

    /// With a log in a file.
    async fn logging(arguments: &[&str]) -> (Self, Log) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let process = Self::start(file.reopen().unwrap(), "", arguments).await;
        eventually("it serves", || process.place.at("sds.sock").exists()).await;
        (process, Log(file))
    }

    async fn stream(&self) -> Sotw {
        eventually("it serves", || std::os::unix::net::UnixStream::connect(self.place.at("sds.sock")).is_ok()).await;
        Sotw::secrets(&unix_channel(self.place.at("sds.sock")).await).await
    }

    /// A sample of its metrics.
    async fn metric(&self, name: &str) -> u64 {
        let mut io = UnixStream::connect(self.place.at("admin.sock")).await.unwrap();
        io.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        bounded(io.read_to_string(&mut text)).await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    }

    async fn end(mut self) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let ended = bounded(self.child.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
    }
}

/// A log in a file.
struct Log(tempfile::NamedTempFile);

impl Log {
    fn text(&self) -> String {
        fs::read_to_string(self.0.path()).unwrap()
    }

    /// How many lines have this message.
    fn count(&self, message: &str) -> usize {
        self.text().lines().filter(|line| serde_json::from_str::<Value>(line).unwrap()["message"] == message).count()
    }
}

/// What the reader of a pipe has read.
fn read_on(mut reader: PipeReader) -> Arc<Mutex<Vec<u8>>> {
    let read = Arc::new(Mutex::new(Vec::new()));
    let shared = read.clone();
    std::thread::spawn(move || {
        let mut part = vec![0; 65_536];
        while let Ok(count @ 1..) = reader.read(&mut part) {
            shared.lock().unwrap().extend_from_slice(&part[..count]);
        }
    });
    read
}

/// Rotates until lines are dropped, and each rotation reaches a client.
async fn rotate_until_lines_are_dropped(process: &Process) {
    let mut client = process.stream().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let mut rotations = 0;
    while process.metric("spiffe_sds_log_lines_dropped_total{reason=\"unread\"}").await == 0 {
        for _ in 0..20 {
            process.place.issuer.rotate().unwrap();
            client.expect(["default"]).await;
            client.ack().await;
        }
        rotations += 20;
        assert!(rotations < 20_000, "the log is too short for this test");
    }
    // Once more, now that nothing is taken.
    process.place.issuer.rotate().unwrap();
    client.expect(["default"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing_and_says_so_when_it_is_read() {
    let (reader, writer) = std::io::pipe().unwrap();
    let process = Process::start(writer, "", &["--log-level", "trace"]).await;
    rotate_until_lines_are_dropped(&process).await;
    let read = read_on(reader);
    let said = || {
        String::from_utf8_lossy(&read.lock().unwrap()).contains("log lines were dropped, nobody read them fast enough")
    };
    eventually("the dropped lines are said", said).await;
    process.end().await;
    eventually("the last line is there", || String::from_utf8_lossy(&read.lock().unwrap()).contains("\"stopped\""))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_ends_though_nobody_reads_its_log() {
    let (reader, writer) = std::io::pipe().unwrap();
    let process = Process::start(writer, "", &["--log-level", "trace"]).await;
    rotate_until_lines_are_dropped(&process).await;
    process.end().await;
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_cause_is_a_few_lines_and_a_number() {
    let (process, log) = Process::logging(&["--log-level", "info", "--log-format", "json"]).await;
    let mut client = process.stream().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    // Renewals, and rejections of each.
    for number in 0..200 {
        process.place.issuer.rotate().unwrap();
        client.expect(["default"]).await;
        client.nack(&format!("no, {number}")).await;
    }
    // Another type, over and over, on one stream.
    let ads = Sotw::aggregated(&unix_channel(process.place.at("sds.sock")).await).await;
    for number in 0..500 {
        ads.send(envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest {
            type_url: format!("type.googleapis.com/{number}"),
            ..request(&[])
        });
    }
    // Requests that are too large, and names that do not exist.
    for _ in 0..50 {
        let large = Sotw::secrets(&unix_channel(process.place.at("sds.sock")).await).await;
        large.send(request(&["x".repeat(2 << 20).as_str()]));
        assert!(large.end().await.is_err());
    }
    let mut delta = Delta::secrets(&unix_channel(process.place.at("sds.sock")).await).await;
    for _ in 0..100 {
        delta.subscribe(["no such thing"]).await;
        delta.expect_removed(["no such thing"]).await;
        delta.unsubscribe(["no such thing"]).await;
    }
    // Garbage.
    for _ in 0..300 {
        let mut io = UnixStream::connect(process.place.at("sds.sock")).await.unwrap();
        let _ = io.write_all(b"\x16\x03\x01 garbage, and enough of it to see that it is no HTTP\r\n\r\n").await;
        let _ = bounded(io.read(&mut [0; 64])).await;
    }
    // A source whose messages cannot be used.
    for _ in 0..100 {
        process.place.issuer.send_raw(process.place.issuer.message().garbage_chain(0));
    }
    eventually("the message is refused", || log.count("update refused, last good state kept") > 0).await;
    eventually("garbage is said", || log.count("connection closed, the client speaks neither HTTP/2 nor REST") > 0)
        .await;
    let counts = [
        ("svid renewed", 12),
        ("resource rejected by the client, it keeps what it had", 8),
        ("client asks for a type that is not served, answered with nothing", 8),
        ("stream ended", 8),
        ("names not available to this client", 8),
        ("connection closed, the client speaks neither HTTP/2 nor REST", 34),
        ("update refused, last good state kept", 12),
    ];
    for (message, most) in counts {
        let lines = log.count(message);
        assert!((1..=most).contains(&lines), "{lines} times {message:?}:\n{}", log.text());
    }
    assert!(log.text().lines().count() < 200, "{}", log.text());
    assert!(process.metric("spiffe_sds_log_lines_dropped_total{reason=\"repeated\"}").await > 500);
    // The number comes at the end of the window.
    let summary = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["message"] == "more of the same was not logged"
            && line["of"] == "resource rejected by the client, it keeps what it had"
            && line["count"].as_u64().unwrap() > 100
    };
    eventually("a number is said", || log.text().lines().any(summary)).await;
    process.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_moves_anything_on_a_terminal() {
    let bad = "envoy\u{202e}\u{2066}\u{200b}\u{feff}\u{1b}[2J\u{9b}\u{2028}\n\u{e0041}";
    for format in ["json", "human"] {
        let (process, log) =
            Process::logging(&["--log-level", "debug,h2=off,hyper=off,tower=off", "--log-format", format]).await;
        let node = Node { id: bad.into(), cluster: bad.into(), ..Node::default() };
        let mut client = process.stream().await.node(Some(node));
        client.subscribe(["default", bad]).await;
        client.expect(["default"]).await;
        client.nack(bad).await;
        let ads = Sotw::aggregated(&unix_channel(process.place.at("sds.sock")).await).await;
        ads.send(envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest {
            type_url: bad.into(),
            ..request(&[])
        });
        process.place.issuer.fail_with(tonic::Status::unavailable(bad));
        for said in ["resource rejected by the client", "asks for a type", "identity source is down"] {
            eventually(said, || log.text().contains(said)).await;
        }
        let text = log.text();
        let hidden: String = text.chars().filter(|c| *c != '\n' && spiffe_sds::printable::is_hidden(*c)).collect();
        assert!(hidden.is_empty(), "{format}: {hidden:?} in {text}");
        process.end().await;
    }
}

#[tokio::test]
async fn a_configuration_that_is_no_file_is_refused_and_replaces_nothing() {
    let (process, log) = Process::logging(&["--log-level", "info", "--log-format", "json"]).await;
    let path = process.place.at("sds.yaml");
    let good = fs::read_to_string(&path).unwrap();
    let replace = |make: &dyn Fn(&std::path::Path)| {
        let staged = process.place.at("staged");
        make(&staged);
        fs::rename(staged, &path).unwrap();
    };
    eventually("it has begun to look", || log.count("serving") > 0).await;
    for (number, (make, reason)) in [
        (
            &(|at: &std::path::Path| mkfifo(at, Mode::S_IRWXU).unwrap()) as &dyn Fn(&std::path::Path),
            "not a regular file",
        ),
        (&|at| fs::write(at, "\n").unwrap(), "is empty"),
        (&|at| std::os::unix::fs::symlink("/dev/zero", at).unwrap(), "not a regular file"),
        (&|at| fs::write(at, vec![b'#'; 5 << 20]).unwrap(), "is larger than"),
    ]
    .into_iter()
    .enumerate()
    {
        replace(make);
        let refused = "the new configuration is wrong, the old one stays in force";
        eventually(reason, || log.count(refused) == number + 1).await;
        assert!(log.text().lines().any(|line| line.contains(refused) && line.contains(reason)), "{}", log.text());
        let start =
            Command::new(env!("CARGO_BIN_EXE_spiffe-sds")).args(["check", "--offline", "--config"]).arg(&path).output();
        let start = bounded(start).await.unwrap();
        assert_eq!(start.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&start.stderr).contains(reason), "{start:?}");
    }
    let changed = good.replace("rollout_hold: 0s", "rollout_hold: 1s");
    replace(&|at| fs::write(at, &changed).unwrap());
    eventually("a good one is taken up", || log.count("configuration reloaded") == 1).await;
    process.end().await;
}

/// A pipe that nobody writes to hangs whoever opens it, as a file system that does not answer does.
#[tokio::test]
async fn a_key_that_cannot_be_read_in_time_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    mkfifo(&key, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let more = format!("warm_start: {{ path: '{0}/warm', key_file: '{0}/key' }}\n", directory.path().display());
    let file = tempfile::NamedTempFile::new().unwrap();
    let process = Process::start(file.reopen().unwrap(), &more, &["--log-format", "json"]).await;
    let mut client = process.stream().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    process.place.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    drop(client);
    process.end().await;
    let said = fs::read_to_string(file.path()).unwrap();
    assert!(said.contains("the sealed identity cannot be read in time, going on without it"), "{said}");
}
