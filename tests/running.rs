//! What an operator does with a running process: its log, its configuration, `status` and `check --diff`.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    path::PathBuf,
    process::{Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use support::{
    app::Place,
    world::{BOUND, bounded, eventually, unix_channel},
    xds::Sotw,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::{Child, Command},
};

const ADMIN: &str = "admin: {listeners: [{unix: {path: '$/admin.sock', mode: '0600'}}]}\nlog: {format: json}\n";

/// The program as a process of its own; killed when dropped.
struct Process {
    place: Place,
    child: Child,
}

impl Process {
    /// With this configuration, a variable and a flag; serving and ready.
    async fn start(more: &str) -> Self {
        Self::started(program(), more).await
    }

    /// The same as a child of a shell that sets limits first.
    async fn limited(limits: &str, more: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.env_clear().kill_on_drop(true);
        command.args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_spiffe-sds")]);
        Self::started(command, more).await
    }

    async fn started(mut command: Command, more: &str) -> Self {
        let place = Place::new().await;
        fs::write(place.at("sds.yaml"), place.yaml(&(ADMIN.to_owned() + more))).unwrap();
        let child = command
            .args(["serve", "--config"])
            .arg(place.at("sds.yaml"))
            .args(["--log-level", "info,h2=off"])
            .env("SPIFFE_SDS_KEEPALIVE_TIMEOUT", "7s")
            .stderr(fs::File::create(place.at("log")).unwrap())
            .spawn()
            .unwrap();
        let process = Self { place, child };
        eventually("renewed", || process.log().contains("svid_renewed")).await;
        process
    }

    fn log(&self) -> String {
        self.place.read("log")
    }

    /// The lines with this message, as JSON.
    fn lines(&self, message: &str) -> Vec<Value> {
        let lines = self.log();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    fn socket(&self) -> PathBuf {
        self.place.at("admin.sock")
    }

    /// Another file in the place of the configuration, as editors do it.
    fn write(&self, more: &str) {
        fs::write(self.place.at("next"), self.place.yaml(&(ADMIN.to_owned() + more))).unwrap();
        fs::rename(self.place.at("next"), self.place.at("sds.yaml")).unwrap();
    }

    /// Exit code, standard output and error of a command that asks this process.
    async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = program();
        let command = command.env("SPIFFE_SDS_ADMIN", self.socket()).args(args);
        let Output { status, stdout, stderr } = bounded(command.output()).await.unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Runs a command until its output is as wanted.
    async fn until(&self, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let asked = async {
            loop {
                let (_, text, error) = self.run(args).await;
                if wanted(&text) {
                    return text;
                }
                assert!(!error.contains("panicked"), "{error}");
            }
        };
        tokio::time::timeout(BOUND, asked).await.expect("it never said so")
    }

    async fn stream(&self) -> Sotw {
        Sotw::secrets(&unix_channel(self.place.at("sds.sock")).await).await
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spiffe-sds"));
    command.env_clear().kill_on_drop(true);
    command
}

#[tokio::test]
async fn more_is_logged_for_a_while_and_it_is_noted_who_wanted_that() {
    let process = Process::start("").await;
    let opened = || process.lines("stream opened").len();
    let mut first = process.stream().await;
    first.subscribe(["default"]).await;
    first.expect(["default"]).await;
    assert_eq!(opened(), 0, "debug lines are logged though nobody wished for them");
    let (code, text, _) = process.run(&["log-level", "spiffe_sds::server=debug", "--for", "1h"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "logging spiffe_sds::server=debug for 3600 s\n"));
    let audit = process.lines("an operator acted");
    assert_eq!(
        (&audit[0]["event"], &audit[0]["subject"]),
        (&"operator_log_level".into(), &"spiffe_sds::server=debug,info for 1h".into())
    );
    let peer = audit[0]["peer"].as_str().unwrap();
    assert!(peer.starts_with("pid:") && peer.contains(" uid:"), "{peer}");
    let mut second = process.stream().await;
    second.subscribe(["default"]).await;
    second.expect(["default"]).await;
    assert_eq!(opened(), 1, "{}", process.log());
    // A later wish takes the place of the earlier one, its end too.
    assert_eq!(process.run(&["log-level", "spiffe_sds::server=debug", "--for", "100ms"]).await.0, Some(0));
    eventually("the wish ends", || !process.lines("the log is as configured again").is_empty()).await;
    let mut third = process.stream().await;
    third.subscribe(["default"]).await;
    third.expect(["default"]).await;
    assert_eq!(opened(), 1, "debug lines go on though the time is over");
    let (code, _, error) = process.run(&["log-level", "inof"]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("\"inof\" is not a log level"), "{error}");
}

#[tokio::test]
async fn status_follows_what_happens() {
    let process = Process::start("").await;
    let mut watch = program()
        .env("SPIFFE_SDS_ADMIN", process.socket())
        .args(["status", "--watch", "--color", "never"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut seen = async |wanted: &str| {
        bounded(async { while !lines.next_line().await.unwrap().expect("it ended").contains(wanted) {} }).await;
    };
    seen("0 streams").await;
    let mut envoy = process.stream().await;
    envoy.subscribe(["default"]).await;
    envoy.expect(["default"]).await;
    seen("1 streams").await;
    envoy.nack("no such curve").await;
    seen("no such curve").await;
    process.place.issuer.rotate().unwrap();
    let serial = process.place.issuer.svids()[0].serial.clone();
    seen(&serial).await;
    assert!(watch.try_wait().unwrap().is_none(), "it ended by itself");
    kill(Pid::from_raw(process.child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = bounded(watch.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(1), "a server that went away is a failure");
}

#[tokio::test]
async fn the_exit_code_tells_whether_all_is_well() {
    let process = Process::start("").await;
    let (code, text, _) = process.run(&["status"]).await;
    assert_eq!(code, Some(0), "{text}");
    process.place.issuer.fail_with(tonic::Status::unavailable("away"));
    process.until(&["status"], |text| text.contains("away")).await;
    assert_eq!(process.run(&["status"]).await.0, Some(1), "a source is down");
    process.place.issuer.recover();
    process.until(&["status"], |text| !text.contains("away")).await;
    assert_eq!(process.run(&["status"]).await.0, Some(0));
    process.write("drain_deadline: soon\n");
    process.until(&["status"], |text| text.contains("REFUSED")).await;
    assert_eq!(process.run(&["status"]).await.0, Some(1), "the configuration is refused");
    assert_eq!(process.run(&["status", "--nonsense"]).await.0, Some(2));
}

#[tokio::test]
async fn what_a_reload_would_change_is_told_beforehand() {
    let hook = |token: &str| format!("hooks: [{{events: [all], webhook: {{url: 'http://127.0.0.1:9/{token}'}}}}]\n");
    let process = Process::start(&hook("T0KEN")).await;
    assert_eq!(process.run(&["check", "--diff"]).await.1, "nothing would change\n");
    // Weaker than the variable, so it changes nothing.
    let next = hook("T0KEN") + "keepalive: {timeout: 3s, interval: 5s}\nlimits: {connections: 7}\n";
    let new = process.place.at("new.yaml");
    fs::write(&new, process.place.yaml(&(ADMIN.to_owned() + &next))).unwrap();
    let expected = "live    keepalive.interval: 30s -> 5s\nrestart limits.connections: 16384 -> 7\n";
    let (code, text, error) = process.run(&["check", "--diff", "--config", new.to_str().unwrap()]).await;
    assert_eq!((code, text.as_str()), (Some(0), expected), "{error}");
    let (_, text, _) = process.run(&["check", "--diff", "running", "--json", "--config", new.to_str().unwrap()]).await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["changes"][1]["live"], false, "{json}");

    // What it says is what happens.
    process.write(&next);
    let text = process.until(&["status"], |text| text.contains("1 change waits for a restart")).await;
    assert!(text.contains("limits.connections: 16384 -> 7") && text.contains("reloaded at"), "{text}");
    let reloaded = &process.lines("configuration reloaded")[0];
    assert_eq!(reloaded["changes"], "keepalive.interval: 30s -> 5s");
    // It is not in force, so it would still wait.
    assert_eq!(process.run(&["check", "--diff"]).await.1, "restart limits.connections: 16384 -> 7\n");

    process.write("drain_deadline: soon\n");
    process.until(&["status"], |text| text.contains("drain_deadline: \"soon\"")).await;
    let (code, _, error) = process.run(&["check", "--diff"]).await;
    assert_eq!(code, Some(2));
    assert!(error.contains("drain_deadline"), "{error}");
    let (_, status, _) = process.run(&["status", "--json"]).await;
    assert!(
        !status.contains("T0KEN") && !process.lines("configuration reloaded")[0].to_string().contains("T0KEN"),
        "the address of a webhook may hold a token"
    );
    let json: Value = serde_json::from_str(&status).unwrap();
    let origin = |key: &str| {
        let settings = json["configuration"]["settings"].as_array().unwrap();
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        (setting["value"].clone(), setting["from"].clone(), setting["origin"].clone())
    };
    assert_eq!(origin("keepalive.timeout"), ("7s".into(), "variable".into(), "SPIFFE_SDS_KEEPALIVE_TIMEOUT".into()));
    assert_eq!(origin("log.filter"), ("info,h2=off".into(), "flag".into(), "--log-level".into()));
    assert_eq!(origin("limits.connections"), ("16384".into(), "default".into(), "default".into()));
    assert_eq!(origin("keepalive.interval").1, "file");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said() {
    let (code, error) = {
        let output = bounded(program().args(["check", "--diff", "--admin", "/nowhere.sock"]).output()).await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(code, Some(1));
    assert!(error.contains("no server answers at unix:///nowhere.sock"), "{error}");
}

/// The soft and the hard limit on open files of the process.
fn open_files(process: &Process) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.child.id().unwrap())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
    let mut numbers = line.split_whitespace().skip(3).map(str::to_owned);
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[tokio::test]
async fn the_limit_on_open_files_is_raised_as_far_as_it_may_be() {
    let process = Process::limited("ulimit -S -n 256 && ulimit -H -n 4096", "").await;
    assert_eq!(open_files(&process), ("4096".to_owned(), "4096".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_at_the_limit_of_open_files_lock_nobody_out() {
    let process = Process::limited("ulimit -n 1024", "").await;
    let mut client = process.stream().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let mut idle = Vec::new();
    for _ in 0..1200 {
        let mut io = bounded(UnixStream::connect(process.place.at("sds.sock"))).await.unwrap();
        // Some of the first ones are hung up on before they have said anything.
        let _ = io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        idle.push(io);
    }
    let mut newcomer = process.stream().await;
    newcomer.subscribe(["default"]).await;
    newcomer.expect(["default"]).await;
    newcomer.ack().await;
    let (code, text, error) = process.run(&["status"]).await;
    assert_eq!(code, Some(0), "{text}{error}");
    // The source has to be dialled again.
    let before = process.place.issuer.traffic().borrow().connections;
    process.place.issuer.fail_with(tonic::Status::unavailable("restarting"));
    process.until(&["status", "--json"], |text| text.contains("restarting")).await;
    process.place.issuer.recover();
    process.place.issuer.rotate().unwrap();
    for stream in [&mut client, &mut newcomer] {
        stream.expect(["default"]).await;
    }
    assert!(process.place.issuer.traffic().borrow().connections > before);
    assert_eq!(process.lines("the limit on open files allows fewer connections than are configured").len(), 1);
    assert!(process.lines("cannot accept a connection").is_empty());
    drop(idle);
}
