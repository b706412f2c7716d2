//! The configuration in motion: applied whole or not at all, while streams go on.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "systemd/manager.rs"]
mod manager;
mod support;

use std::fs;

use manager::{Manager, Start};
use nix::sys::signal::Signal;
use spiffe_sds::{
    app::{
        App,
        reload::{Reload, ReloadError},
    },
    config::{Config, File, Flag, Sources},
    dev::{self, DevIssuer, Rotation},
    source::Endpoint,
};
use support::{
    world::{bounded, id, td, unix_channel},
    xds::{Delta, Sotw},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Place {
    issuer: DevIssuer,
    reload: Reload,
    sources: Sources,
    stop: CancellationToken,
    task: JoinHandle<Result<(), spiffe_sds::app::AppError>>,
    directory: tempfile::TempDir,
}

impl Place {
    async fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(directory.path().join("agent.sock"));
        let mut config = dev::Config::new(td("domain.test"), endpoint.clone());
        config.rotation = Rotation::Never;
        let issuer = DevIssuer::start(config.identity(id("web"), None)).await.unwrap();
        let flag = |key: &str, value: String| Flag { flag: "--set", key: key.into(), value };
        let flags = vec![
            flag("source.workload_api.endpoint", endpoint.to_string()),
            flag("listeners", format!("unix://{}", directory.path().join("sds.sock").display())),
        ];
        let sources = Sources { flags, ..with(&Sources::default(), text) };
        let app = App::bind(&Config::new(&sources).unwrap()).await.unwrap();
        let (reload, stop) = (app.reload(sources.clone()), CancellationToken::new());
        let task = tokio::spawn(app.run(stop.clone()));
        Self { issuer, reload, sources, stop, task, directory }
    }

    fn apply(&mut self, text: &str) -> Result<Vec<String>, ReloadError> {
        let changes = self.reload.apply(with(&self.sources, text))?;
        let shown = |live| if live { "live" } else { "restart" };
        Ok(changes.into_iter().map(|change| format!("{} {change}", shown(change.live))).collect())
    }

    async fn channel(&self) -> tonic::transport::Channel {
        unix_channel(self.directory.path().join("sds.sock")).await
    }

    async fn stop(self) {
        self.stop.cancel();
        bounded(self.task).await.unwrap().unwrap();
    }
}

fn with(sources: &Sources, text: &str) -> Sources {
    Sources { file: Some(File { path: "sds.yaml".into(), text: text.into() }), ..sources.clone() }
}

#[tokio::test]
async fn names_change_under_streams_that_go_on() {
    let mut place = Place::start("").await;
    let channel = place.channel().await;
    let (mut sotw, mut delta) = (Sotw::secrets(&channel).await, Delta::secrets(&channel).await);
    sotw.subscribe(["default", "ROOTCA"]).await;
    sotw.expect(["ROOTCA", "default"]).await;
    delta.subscribe(["default"]).await;
    delta.expect(["default"]).await;
    delta.subscribe(["web"]).await;
    delta.expect_removed(["web"]).await;

    let changes = place.apply("secrets: {default_svid_name: web}").unwrap();
    assert_eq!(changes, ["live secrets.default_svid_name: default -> web"]);
    delta.expect(["web"]).await;
    delta.expect_removed(["default"]).await;
    sotw.subscribe(["ROOTCA", "web"]).await;
    sotw.expect(["web"]).await;
    // And in the middle of a rotation.
    place.issuer.hang();
    place.issuer.rotate().unwrap();
    place.issuer.recover();
    place.apply("secrets: {default_svid_name: default}").unwrap();
    delta.expect(["default"]).await;
    delta.expect_removed(["web"]).await;
    drop((sotw, delta));
    place.stop().await;
}

#[tokio::test]
async fn a_flavour_changes_under_a_stream_that_goes_on() {
    let mut place = Place::start("").await;
    let mut sotw = Sotw::secrets(&place.channel().await).await;
    sotw.subscribe(["ROOTCA"]).await;
    sotw.expect(["ROOTCA"]).await;
    place.apply("secrets: {disable_spiffe_cert_validation: true}").unwrap();
    sotw.expect(["ROOTCA"]).await;
    place.apply("").unwrap();
    sotw.expect(["ROOTCA"]).await;
    drop(sotw);
    place.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_until_it_is_taken_back() {
    let mut place = Place::start("").await;
    let text = "limits: {connections: 7}\ndrain_deadline: 1s";
    let expected = ["live drain_deadline: 5s -> 1s", "restart limits.connections: 16384 -> 7"];
    assert_eq!(place.apply(text).unwrap(), expected);
    assert_eq!(place.apply(text).unwrap(), [expected[1]], "it still waits");
    assert_eq!(place.apply("drain_deadline: 1s").unwrap(), Vec::<String>::new());
    place.stop().await;
}

#[tokio::test]
async fn ten_problems_are_said_and_nothing_changes() {
    let mut place = Place::start("").await;
    let text = "drain_deadline: soon\nwildcard: true\nsecrets: {wildcard: 7, rollout_hold: 1, default_svid_name: web}\n\
                limits: {connections: 0, request_bytes: 1, names: 3}\nkeepalive: {interval: x, timeout: y}\nlog: {filter: inof}";
    let Err(ReloadError::Invalid(problems)) = place.apply(text) else { panic!("not refused") };
    assert!(problems.to_string().starts_with("the configuration has 10 problems:"), "{problems}");
    let mut sotw = Sotw::secrets(&place.channel().await).await;
    sotw.subscribe(["default"]).await;
    sotw.expect(["default"]).await;
    drop(sotw);
    place.stop().await;
}

#[tokio::test]
async fn the_program_reloads_on_a_signal_and_on_a_change_of_the_file() {
    let manager = Manager::new().await;
    let file = manager.directory().join("sds.yaml");
    fs::write(&file, "log: {format: json}\n").unwrap();
    let args = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let program = manager.start(Start { args, ..Start::default() });
    manager.hear("READY=1").await;

    // As editors and ConfigMaps do it: another file in its place.
    let next = manager.directory().join("next.yaml");
    fs::write(&next, "log: {format: json}\ndrain_deadline: 3s\n").unwrap();
    fs::rename(&next, &file).unwrap();
    let reloading = manager.hear("RELOADING=1").await;
    assert!(reloading.text.contains("MONOTONIC_USEC="), "{reloading:?}");
    manager.hear("READY=1").await;

    fs::write(&next, "drain_deadline: never\nlogs: 1\n").unwrap();
    fs::rename(&next, &file).unwrap();
    manager.hear("RELOADING=1").await;
    manager.hear("READY=1").await;
    program.signal(Signal::SIGHUP);
    manager.hear("RELOADING=1").await;
    manager.hear("READY=1").await;
    program.signal(Signal::SIGTERM);
    let log = program.log().await;
    assert!(log.contains("drain_deadline: 5s -> 3s"), "{log}");
    assert_eq!(log.matches("the new configuration is wrong, the old one stays in force").count(), 2, "{log}");
    assert!(log.contains("2 problems"), "{log}");
}

#[tokio::test]
async fn a_change_between_the_start_and_the_watch_is_not_missed() {
    let mut place = Place::start("").await;
    let path = place.directory.path().join("sds.yaml");
    place
        .reload
        .apply(Sources { file: Some(File { path: path.clone(), text: String::new() }), ..place.sources.clone() })
        .unwrap();
    fs::write(&path, "secrets: {default_svid_name: web}\n").unwrap();
    let mut delta = Delta::secrets(&place.channel().await).await;
    delta.subscribe(["web"]).await;
    delta.expect_removed(["web"]).await;
    let reloading = tokio::spawn(place.reload.run(place.stop.clone()));
    delta.expect(["web"]).await;
    drop(delta);
    place.stop.cancel();
    bounded(place.task).await.unwrap().unwrap();
    bounded(reloading).await.unwrap().unwrap();
}
