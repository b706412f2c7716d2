//! Under a service manager: what it hands over, what it keeps, and what it hears. The manager here is the test: it owns
//! the notify socket and starts the real program as systemd does.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "systemd/manager.rs"]
mod manager;
mod support;

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use manager::{Manager, Start};
use nix::sys::signal::Signal;
use spiffe_sds::{
    cli::Cli,
    config::{Config, Flag, Sources},
    listen,
};
use support::{
    world::{bounded, eventually, unix_channel},
    xds::Sotw,
};

#[tokio::test]
async fn ready_means_that_an_identity_is_served() {
    let manager = Manager::new().await;
    manager.issuer.hang();
    let program = manager.start(Start::default());
    let waiting = manager.hear("STATUS=").await;
    assert!(waiting.text.contains("STATUS=waiting for the first identity"), "{waiting:?}");
    assert!(!waiting.text.contains("READY=1"), "{waiting:?}");
    manager.issuer.recover();
    let ready = manager.hear("READY=1").await;
    assert!(ready.text.contains("STATUS=serving spiffe://example.org/web until 2"), "{ready:?}");
    assert!(ready.text.contains(", 1 trust domain"), "{ready:?}");
    assert!(ready.fds.is_empty());
    program.signal(Signal::SIGTERM);
    manager.hear("STOPPING=1").await;
    assert!(program.end().await.success());
}

#[tokio::test]
async fn ready_means_that_the_socket_listens_if_that_is_configured() {
    let manager = Manager::new().await;
    manager.issuer.hang();
    let program = manager.start(Start { set: vec!["systemd.ready=listening"], ..Start::default() });
    let ready = manager.hear("READY=1").await;
    assert!(ready.text.contains("STATUS=waiting for the first identity"), "{ready:?}");
    UnixStream::connect(manager.socket()).unwrap();
    program.signal(Signal::SIGTERM);
    assert!(program.end().await.success());
}

#[tokio::test]
async fn the_watchdog_hears_from_a_program_that_lives_and_not_from_one_that_hangs() {
    let manager = Manager::new().await;
    let program = manager.start(Start { watchdog: Some(Duration::from_millis(200)), ..Start::default() });
    for _ in 0..3 {
        manager.hear("WATCHDOG=1").await;
    }
    program.signal(Signal::SIGSTOP);
    manager.silence(Duration::from_millis(400)).await;
    program.signal(Signal::SIGCONT);
    manager.hear("WATCHDOG=1").await;
    program.signal(Signal::SIGTERM);
    assert!(program.end().await.success());
}

#[tokio::test]
async fn an_activated_socket_is_served_and_left_where_it_is() {
    let manager = Manager::new().await;
    let listener = UnixListener::bind(manager.socket()).unwrap();
    fs::set_permissions(manager.socket(), fs::Permissions::from_mode(0o606)).unwrap();
    // Whoever comes before there is a program waits for it.
    let early = tokio::spawn(unix_channel(manager.socket()));
    let program = manager.start(Start { hand: Some((&listener, "spiffe-sds.socket".into())), ..Start::default() });
    let mut client = Sotw::secrets(&bounded(early).await.unwrap()).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    program.signal(Signal::SIGTERM);
    assert!(program.end().await.success());
    let mode = fs::metadata(manager.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o606, "the unit says who may connect");
    UnixStream::connect(manager.socket()).expect("nobody serves, and clients wait");
}

#[tokio::test]
async fn an_activated_socket_may_be_called_by_the_configured_path() {
    let manager = Manager::new().await;
    let elsewhere = manager.directory().join("elsewhere.sock");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    let name = manager.socket().to_str().unwrap().to_owned();
    let program = manager.start(Start { hand: Some((&listener, name)), ..Start::default() });
    let mut client = Sotw::secrets(&unix_channel(elsewhere).await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    assert!(!manager.socket().exists());
    program.signal(Signal::SIGTERM);
    assert!(program.end().await.success());
}

#[tokio::test]
async fn a_socket_that_fits_nothing_is_closed_and_said() {
    let manager = Manager::new().await;
    let elsewhere = manager.directory().join("elsewhere.sock");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    let program = manager.start(Start { hand: Some((&listener, "other".into())), ..Start::default() });
    manager.hear("READY=1").await;
    drop(listener);
    // A child that another test starts may hold it for a moment.
    eventually("refused", || UnixStream::connect(&elsewhere).is_err()).await;
    program.signal(Signal::SIGTERM);
    let log = program.log().await;
    assert!(log.contains("a socket that was handed over fits no listener, closed"), "{log}");
}

#[tokio::test]
async fn the_store_keeps_the_socket_over_a_restart_and_over_a_crash() {
    let manager = Manager::new().await;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let program = manager.start(Start { store: true, ..Start::default() });
        let kept = manager.hear("FDSTORE=1").await;
        let name = kept.text.lines().find_map(|line| line.strip_prefix("FDNAME=")).expect("a name").to_owned();
        assert_eq!(kept.fds.len(), 1, "{kept:?}");
        let stored = UnixListener::from(kept.fds.into_iter().next().unwrap());
        manager.hear("READY=1").await;
        let file = fs::metadata(manager.socket()).unwrap().ino();
        program.signal(signal);
        program.end().await;

        // Nobody serves: clients wait in the backlog.
        let waiting = tokio::spawn(unix_channel(manager.socket()));
        let again = manager.start(Start { hand: Some((&stored, name)), store: true, ..Start::default() });
        let mut client = Sotw::secrets(&bounded(waiting).await.unwrap()).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
        assert_eq!(fs::metadata(manager.socket()).unwrap().ino(), file, "the same socket");
        again.signal(Signal::SIGTERM);
        assert!(again.end().await.success());
        assert!(manager.socket().exists());
        drop(stored);
        assert!(UnixStream::connect(manager.socket()).is_err(), "nobody else held it");
    }
}

#[tokio::test]
async fn a_stored_socket_without_its_file_is_replaced() {
    let manager = Manager::new().await;
    let program = manager.start(Start { store: true, ..Start::default() });
    let kept = manager.hear("FDSTORE=1").await;
    let name = kept.text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap().to_owned();
    let stored = UnixListener::from(kept.fds.into_iter().next().unwrap());
    program.signal(Signal::SIGKILL);
    program.end().await;
    fs::remove_file(manager.socket()).unwrap();

    let again = manager.start(Start { hand: Some((&stored, name.clone())), store: true, ..Start::default() });
    let forgotten = manager.hear("FDSTOREREMOVE=1").await;
    assert!(forgotten.text.contains(&format!("FDNAME={name}\n")), "{forgotten:?}");
    manager.hear("FDSTORE=1").await;
    manager.hear("READY=1").await;
    let mut client = Sotw::secrets(&unix_channel(manager.socket()).await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    again.signal(Signal::SIGTERM);
    assert!(again.end().await.success());
}

#[tokio::test]
async fn without_a_store_the_file_goes_with_the_program() {
    let manager = Manager::new().await;
    let program = manager.start(Start::default());
    manager.hear("READY=1").await;
    program.signal(Signal::SIGTERM);
    assert!(program.end().await.success());
    assert!(!manager.socket().exists());
}

#[tokio::test]
async fn sockets_for_another_process_are_not_touched() {
    let manager = Manager::new().await;
    let listener = UnixListener::bind(manager.directory().join("other.sock")).unwrap();
    let start = Start { hand: Some((&listener, "other".into())), other_pid: true, ..Start::default() };
    let program = manager.start(start);
    manager.hear("READY=1").await;
    program.signal(Signal::SIGTERM);
    let log = program.log().await;
    assert!(!log.contains("handed over"), "{log}");
}

/// The units fit the program: the same socket, an end that leaves time for the drain, a command line that exists.
#[test]
fn the_units_fit_the_program() {
    let unit = |name| fs::read_to_string(format!("{}/deploy/systemd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (service, socket) = (unit("spiffe-sds.service"), unit("spiffe-sds.socket"));
    let value = |unit: &str, key: &str| {
        let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
        found.unwrap_or_else(|| panic!("no {key}"))
    };
    let config = |endpoint: &str| {
        let flag = Flag { flag: "--endpoint", key: "source.workload_api.endpoint".into(), value: endpoint.into() };
        Config::new(&Sources { flags: vec![flag], ..Sources::default() }).unwrap()
    };
    let config = config("unix:///run/spire/agent.sock");
    let listen::Config::Unix(unix) = &config.server().listeners[0] else { panic!("not a Unix socket") };
    assert_eq!(value(&socket, "ListenStream"), unix.path.to_str().unwrap());
    assert_eq!(value(&socket, "SocketMode"), format!("{:04o}", unix.mode));
    let stop = humantime::parse_duration(&value(&service, "TimeoutStopSec")).unwrap();
    assert!(stop > config.server().drain_deadline * 2);
    let start = value(&service, "ExecStart");
    let arguments = start.split(' ').map(|word| word.replace("/usr/bin/", ""));
    <Cli as clap::Parser>::try_parse_from(arguments).unwrap();
}
