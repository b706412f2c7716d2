//! Warm start: what was sealed is served until the source answers, and whatever is odd about it is not served at all.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use spiffe_sds::{
    app::{App, AppError},
    config::{self, Sources},
    dev::{self, DevIssuer, Rotation},
    identity::{Availability, IdentitySnapshot, Workload},
    source::{
        Endpoint, RenewalEvent, Source as _, WorkloadApi, decode,
        warm::{Config, Key, Vault, WarmError},
        workload_api,
    },
};
use support::{
    world::{bounded, eventually, id, td, unix_channel},
    xds::Sotw,
};
use tempfile::TempDir;
use tokio::{sync::broadcast, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// An issuer, a key, and a place for the sealed file.
struct Place {
    issuer: DevIssuer,
    directory: TempDir,
}

/// A running program.
struct Running {
    events: broadcast::Receiver<RenewalEvent>,
    states: tokio::sync::watch::Receiver<Availability>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("key"), "42".repeat(32)).unwrap();
        fs::set_permissions(directory.path().join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = dev::Config::new(td("domain.test"), Endpoint::Unix(directory.path().join("agent.sock")));
        config.rotation = Rotation::Never;
        config.federated = vec![td("partner.test")];
        let issuer = DevIssuer::start(config.identity(id("web"), None).identity(id("db"), None)).await.unwrap();
        Self { issuer, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self) -> Config {
        let day = Duration::from_secs(86_400);
        Config { path: self.path("warm"), key: Key::File(self.path("key")), max_age: day }
    }

    fn vault(&self) -> Vault {
        Vault::open(&self.config()).unwrap()
    }

    /// What the issuer says now.
    async fn snapshot(&self) -> IdentitySnapshot {
        let endpoint = self.issuer.endpoint().clone();
        let source = WorkloadApi::new(workload_api::Config { endpoint, trust_domain: None });
        bounded(source.watch(&Workload::Own).next()).await.unwrap().unwrap()
    }

    async fn start(&self) -> Running {
        let text = format!(
            "source: {{ denied_grace: 0s, backoff: {{ initial: 10ms, max: 100ms }}, workload_api: {{ endpoint: 'unix://{}' }} }}\n\
             listeners: [{{ unix: {{ path: '{}' }} }}]\nwarm_start: {{ path: '{}', key_file: '{}' }}\n",
            self.path("agent.sock").display(),
            self.path("sds.sock").display(),
            self.path("warm").display(),
            self.path("key").display(),
        );
        let file = Some(config::File { path: "warm.yaml".into(), text });
        let config = config::Config::new(&Sources { file, ..Sources::default() }).unwrap_or_else(|it| panic!("{it}"));
        let app = App::bind(&config).await.unwrap();
        let (events, states, stop) = (app.renewals(), app.identities(), CancellationToken::new());
        Running { events, states, task: tokio::spawn(app.run(stop.clone())), stop }
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        bounded(self.task).await.unwrap().unwrap();
    }

    async fn hear(&mut self, name: &str) -> RenewalEvent {
        let heard = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if event.name() == name {
                    return event;
                }
            }
        };
        bounded(heard).await
    }
}

#[tokio::test]
async fn a_snapshot_comes_back_as_it_was() {
    let place = Place::new().await;
    let snapshot = place.snapshot().await;
    let sealed_at = SystemTime::now();
    place.vault().save(&snapshot, sealed_at).unwrap();
    let (found, at) = place.vault().load(SystemTime::now()).unwrap();
    assert_eq!(found, snapshot);
    let keys = |snapshot: &IdentitySnapshot| -> Vec<Vec<u8>> {
        snapshot.svids.iter().map(|svid| svid.key.pkcs8_der().to_vec()).collect()
    };
    assert_eq!(keys(&found), keys(&snapshot));
    assert!(sealed_at.duration_since(at).unwrap() < Duration::from_secs(1));

    let bundles = IdentitySnapshot { svids: Vec::new(), ..snapshot.clone() };
    place.vault().save(&bundles, sealed_at).unwrap();
    assert_eq!(place.vault().load(SystemTime::now()).unwrap().0, bundles, "a verifier's too");

    for name in ["warm", "warm.floor"] {
        let file = place.path(name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        let bytes = fs::read(&file).unwrap();
        for key in keys(&snapshot) {
            assert!(!bytes.windows(16).any(|window| key.windows(16).any(|part| part == window)), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_odd_is_not_used() {
    let place = Place::new().await;
    let (snapshot, now) = (place.snapshot().await, SystemTime::now());
    assert!(matches!(place.vault().load(now), Err(WarmError::Nothing)));
    place.vault().save(&snapshot, now).unwrap();
    let (first, first_floor) = (fs::read(place.path("warm")).unwrap(), fs::read(place.path("warm.floor")).unwrap());
    place.vault().save(&snapshot, now).unwrap();
    let (newest, floor) = (fs::read(place.path("warm")).unwrap(), fs::read(place.path("warm.floor")).unwrap());

    fs::write(place.path("warm"), &first).unwrap();
    let error = place.vault().load(now).unwrap_err();
    assert!(matches!(error, WarmError::RolledBack { found: 1, floor: 2 }), "{error:?}");
    fs::write(place.path("warm"), &newest).unwrap();
    fs::remove_file(place.path("warm.floor")).unwrap();
    assert!(matches!(place.vault().load(now), Err(WarmError::NoFloor(_))));
    fs::write(place.path("warm.floor"), &newest).unwrap();
    assert!(matches!(place.vault().load(now), Err(WarmError::NoFloor(_))), "one file is not the other");
    // Killed between the two writes: the state is newer than its floor, which is fine.
    fs::write(place.path("warm.floor"), &first_floor).unwrap();
    place.vault().load(now).unwrap();
    fs::write(place.path("warm.floor"), &floor).unwrap();

    for at in [0, 14, 15, 16, 30, newest.len() / 2, newest.len() - 1] {
        let mut bytes = newest.clone();
        bytes[at] ^= 0x80;
        fs::write(place.path("warm"), &bytes).unwrap();
        assert!(place.vault().load(now).is_err(), "byte {at}");
        fs::write(place.path("warm"), &newest[..at]).unwrap();
        assert!(place.vault().load(now).is_err(), "cut at {at}");
    }
    fs::write(place.path("warm"), &newest).unwrap();
    let hour = Duration::from_secs(3600);
    assert!(matches!(place.vault().load(now - hour), Err(WarmError::FromTheFuture)));
    let aged = Config { max_age: hour, ..place.config() };
    assert!(matches!(Vault::open(&aged).unwrap().load(now + 2 * hour), Err(WarmError::TooOld { .. })));
    let end = snapshot.first_expiry().unwrap() + Duration::from_secs(1);
    let forever = Config { max_age: 100_000 * hour, ..place.config() };
    assert!(matches!(
        Vault::open(&forever).unwrap().load(end),
        Err(WarmError::Expired | WarmError::Content(decode::DecodeError::NoneUsable { .. }))
    ));
    fs::write(place.path("key"), "43".repeat(32)).unwrap();
    assert!(matches!(place.vault().load(now), Err(WarmError::Tampered)));
}

#[tokio::test]
async fn a_key_that_others_can_read_is_no_key() {
    let place = Place::new().await;
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(place.path("key"), fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(Vault::open(&place.config()), Err(WarmError::KeyExposed { .. })), "{mode:o}");
        // systemd guards its own.
        let credential = Config { key: Key::Credential(place.path("key")), ..place.config() };
        assert!(Vault::open(&credential).is_ok());
    }
    fs::set_permissions(place.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(place.path("key"), "short").unwrap();
    assert!(matches!(Vault::open(&place.config()), Err(WarmError::KeyForm(_))));
    fs::remove_file(place.path("key")).unwrap();
    assert!(matches!(Vault::open(&place.config()), Err(WarmError::Os { .. })));
}

#[tokio::test]
async fn it_is_served_until_the_source_answers() {
    let place = Place::new().await;
    let mut cold = place.start().await;
    cold.hear("svid_renewed").await;
    eventually("sealed", || place.path("warm.floor").exists()).await;
    cold.stop().await;

    // The source is there and says nothing.
    place.issuer.hang();
    let mut warm = place.start().await;
    let started = warm.hear("warm_started").await;
    assert!(matches!(started, RenewalEvent::WarmStarted { svids: 2, .. }), "{started:?}");
    let mut client = Sotw::secrets(&unix_channel(place.path("sds.sock")).await).await;
    client.subscribe(["default", "ROOTCA", "spiffe://partner.test"]).await;
    client.expect(["ROOTCA", "spiffe://partner.test", "default"]).await;

    // It answers with something newer, which replaces the sealed one.
    place.issuer.rotate().unwrap();
    let sealed = fs::read(place.path("warm")).unwrap();
    place.issuer.recover();
    assert_eq!(warm.hear("warm_ended").await, RenewalEvent::WarmEnded { confirmed: true });
    client.expect(["default"]).await;
    eventually("sealed again", || fs::read(place.path("warm")).is_ok_and(|now| now != sealed)).await;
    drop(client);
    warm.stop().await;
}

#[tokio::test]
async fn a_denial_is_an_answer_too() {
    let place = Place::new().await;
    place.vault().save(&place.snapshot().await, SystemTime::now()).unwrap();
    place.issuer.fail_with(tonic::Status::unavailable("the agent restarts"));
    let mut warm = place.start().await;
    warm.hear("warm_started").await;
    place.issuer.fail_with(tonic::Status::permission_denied("no identity issued"));
    assert_eq!(warm.hear("warm_ended").await, RenewalEvent::WarmEnded { confirmed: false });
    bounded(warm.states.wait_for(|state| matches!(state, Availability::Denied(_)))).await.unwrap();
    eventually("it does not come back", || !place.path("warm").exists()).await;
    warm.stop().await;
}

#[tokio::test]
async fn an_odd_file_or_key_is_a_cold_start_and_nothing_else() {
    let place = Place::new().await;
    for name in ["warm", "key"] {
        fs::write(place.path(name), "garbage").unwrap();
        let mut program = place.start().await;
        program.hear("svid_renewed").await;
        let state = program.states.wait_for(|state| matches!(state, Availability::Ready(_)));
        bounded(state).await.unwrap();
        program.stop().await;
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_written_keeps_nobody_waiting() {
    let place = Place::new().await;
    fs::create_dir(place.path("warm")).unwrap();
    let mut program = place.start().await;
    program.hear("svid_renewed").await;
    let mut client = Sotw::secrets(&unix_channel(place.path("sds.sock")).await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    place.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    drop(client);
    program.stop().await;
}
