//! The Workload API client and the renewal engine against the real API on real sockets.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "workload_api/fixture.rs"]
mod fixture;
#[path = "workload_api/refusals.rs"]
mod refusals;

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use fixture::{Agent, Client, bounded, id, is_from, td};
use nix::{sys::signal::Signal, unistd::Pid};
use spiffe_sds::{
    identity::Availability,
    source::{Endpoint, ErrorKind, RenewalEvent, SourceStatus, backoff, workload_api::Deadlines},
};
use tonic::{Code, Status};

#[tokio::test]
async fn the_first_identity_comes_whole_over_both_transports() {
    let agent = Agent::new();
    let issuer = agent
        .start(|mut config| {
            config = config.identity(id("web"), Some("public")).identity(id("db"), None);
            config.federated = vec![td("other.org")];
            config.intermediate = true;
            config.listen.push(Endpoint::Tcp("127.0.0.1:0".parse().unwrap()));
            config
        })
        .await;
    for endpoint in issuer.endpoints() {
        let mut client = Client::of(endpoint);
        let snapshot = client.ready(|_| true).await;
        assert!(is_from(&issuer, &snapshot), "{snapshot:?}");
        assert_eq!(snapshot.default_svid().unwrap().id, id("web"));
        assert_eq!(snapshot.svids[0].hint.as_ref().unwrap().as_str(), "public");
        assert_eq!(snapshot.svids[0].chain.iter().count(), 2);
        assert_eq!(snapshot.trust_domain, Some(td("example.org")));
        assert_eq!(snapshot.bundles.keys().collect::<Vec<_>>(), [&td("example.org"), &td("other.org")]);
        bounded(client.status.wait_for(|status| status.connected && status.last_update.is_some())).await.unwrap();
    }
    assert_eq!(issuer.traffic().borrow().refused, 0, "the security header is on every call");
}

#[tokio::test]
async fn rotation_is_published_once_and_repetition_is_not() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let mut client = Client::of(issuer.endpoint());
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
    client.event("svid_renewed").await;
    for _ in 0..3 {
        issuer.rotate().unwrap();
        client.ready(|snapshot| is_from(&issuer, snapshot)).await;
        match client.event("svid_renewed").await {
            RenewalEvent::Renewed { spiffe_id, serial, not_after } => {
                let issued = issuer.svid(&id("web")).unwrap();
                assert_eq!((spiffe_id, &*serial), (id("web"), issued.serial.as_str()));
                assert_eq!(not_after, issued.svid.validity.not_after);
            }
            other => panic!("{other:?}"),
        }
    }
    client.state.mark_unchanged();
    issuer.resend();
    client.event("identity_unchanged").await;
    assert!(!client.state.has_changed().unwrap());
    assert_eq!(issuer.traffic().borrow().streams, 1, "all of it on one stream");
}

#[tokio::test]
async fn a_ca_roll_over_and_federation_change_trust() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let mut client = Client::of(issuer.endpoint());
    client.event("trust_changed").await;
    let change = |trust_domain, added, removed| RenewalEvent::TrustChanged { trust_domain, added, removed };
    issuer.prepare_ca().unwrap();
    assert_eq!(client.event("trust_changed").await, change(td("example.org"), 1, 0));
    issuer.activate_ca().unwrap();
    client.event("svid_renewed").await;
    issuer.retire_ca().unwrap();
    assert_eq!(client.event("trust_changed").await, change(td("example.org"), 0, 1));
    issuer.federate(&td("other.org")).unwrap();
    assert_eq!(client.event("trust_changed").await, change(td("other.org"), 1, 0));
    issuer.defederate(&td("other.org")).unwrap();
    assert_eq!(client.event("trust_changed").await, change(td("other.org"), 0, 1));
    client.ready(|snapshot| is_from(&issuer, snapshot) && snapshot.bundles.len() == 1).await;
}

#[tokio::test]
async fn permission_denied_then_issued() {
    let agent = Agent::new();
    let issuer = agent
        .start(|mut config| {
            config.bundles_need_identity = true;
            config
        })
        .await;
    let mut client = Client::of(issuer.endpoint());
    assert!(matches!(client.event("identity_denied").await, RenewalEvent::Denied { grace: None, .. }));
    // Asked again and again, still waiting: the registration may come.
    bounded(issuer.traffic().wait_for(|traffic| traffic.streams >= 6)).await.unwrap();
    assert_eq!(*client.state.borrow(), Availability::Pending);
    assert!(!client.event_names().contains(&"identity_denied"), "said once");
    issuer.issue(&id("web"), None).unwrap();
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
}

#[tokio::test]
async fn a_workload_without_an_identity_still_gets_bundles() {
    let agent = Agent::new();
    let issuer = agent.start(|config| config).await;
    let mut client = Client::of(issuer.endpoint());
    let snapshot = client.ready(|snapshot| snapshot.svids.is_empty()).await;
    assert_eq!(snapshot.trust_domain, Some(td("example.org")));
    issuer.prepare_ca().unwrap();
    client.ready(|snapshot| snapshot.own_bundle().unwrap().authorities().len() == 2).await;
    // An empty answer means the same as the status.
    issuer.send_raw(issuer.message().without_svids());
    client.ready(|snapshot| snapshot.svids.is_empty()).await;
    issuer.issue(&id("web"), None).unwrap();
    client.ready(|snapshot| is_from(&issuer, snapshot) && !snapshot.svids.is_empty()).await;
}

#[tokio::test]
async fn a_revoked_identity_stays_for_the_grace_time() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let grace = Duration::from_millis(700);
    let mut client = Client::configured(issuer.endpoint(), |api| api, grace);
    client.ready(|_| true).await;
    client.state.mark_unchanged();
    issuer.revoke(&id("web")).unwrap();
    let denied = tokio::time::Instant::now();
    assert!(matches!(client.event("identity_denied").await, RenewalEvent::Denied { grace: Some(_), .. }));
    assert!(!client.state.has_changed().unwrap());
    client.ready(|snapshot| snapshot.svids.is_empty() && snapshot.own_bundle().is_some()).await;
    assert!(denied.elapsed() >= grace);
    client.event("identity_withdrawn").await;
    // Then everything is denied.
    issuer.fail_with(Status::permission_denied("no identity issued"));
    match client.until(|state| matches!(state, Availability::Denied(_))).await {
        Availability::Denied(reason) => assert!(reason.contains("no identity issued"), "{reason}"),
        other => panic!("{other:?}"),
    }
    issuer.recover();
    issuer.issue(&id("web"), None).unwrap();
    client.ready(|snapshot| is_from(&issuer, snapshot) && !snapshot.svids.is_empty()).await;
}

#[tokio::test]
async fn every_status_keeps_the_last_good_state_and_has_its_kind() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    for code in (1..17).map(Code::from_i32) {
        let mut client = Client::of(issuer.endpoint());
        client.ready(|_| true).await;
        issuer.fail_with(Status::new(code, "broken\r\nfor a test"));
        let status = bounded(client.status.wait_for(|status| status.last_error.is_some())).await.unwrap().clone();
        let kind = match code {
            Code::InvalidArgument | Code::Unimplemented => ErrorKind::Misconfigured,
            Code::PermissionDenied => ErrorKind::NotEntitled,
            _ => ErrorKind::Transient,
        };
        assert_eq!(status.last_error_kind, Some(kind), "{code:?}");
        assert!(status.last_error.unwrap().contains("broken  for a test"), "without control characters");
        client.ready(|snapshot| is_from(&issuer, snapshot)).await;
        issuer.recover();
        if kind != ErrorKind::Misconfigured {
            bounded(client.status.wait_for(|status| status.connected)).await.unwrap();
        }
        assert!(!client.task.is_finished());
        client.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_misconfigured_source_ends_the_start() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    for status in [Status::unimplemented("no such thing"), Status::invalid_argument("no")] {
        issuer.fail_with(status);
        let client = Client::of(issuer.endpoint());
        let error = bounded(client.task).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("agent.sock"), "{error}");
    }
}

/// With a backoff of hours only the socket itself can tell.
#[tokio::test]
async fn a_socket_that_comes_back_is_noticed_at_once() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let hours = backoff::Config { initial: Duration::from_secs(7200), max: Duration::from_secs(7200) };
    let mut client = Client::with_backoff(&agent.endpoint(), hours);
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
    drop(issuer);
    for _ in 0..2 {
        bounded(client.status.wait_for(|status| !status.connected)).await.unwrap();
        let issuer = agent.with(&["web"]).await;
        client.ready(|snapshot| is_from(&issuer, snapshot)).await;
        bounded(client.status.wait_for(|status| status.connected)).await.unwrap();
    }
}

/// A real process that is stopped: its kernel goes on answering for it.
#[tokio::test]
async fn an_agent_that_hangs_is_noticed_by_what_is_overdue_and_taken_back_when_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let endpoint = Endpoint::Unix(socket.clone());
    let mut issuer = Process(
        Command::new(env!("CARGO_BIN_EXE_spiffe-sds"))
            .args(["dev", "--ttl", "6s", "--rotate-every", "2s", "--socket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let deadlines = Deadlines { first_message: Duration::from_millis(500), ..Deadlines::default() };
    let mut client = Client::configured(&endpoint, |api| api.with_deadlines(deadlines), Duration::from_secs(60));
    let first = client.ready(|_| true).await.default_svid().unwrap().chain.leaf().clone();
    client.ready(|snapshot| *snapshot.default_svid().unwrap().chain.leaf() != first).await;
    issuer.signal(Signal::SIGSTOP);
    let hangs =
        |status: &SourceStatus| status.last_error.as_deref().is_some_and(|error| error.contains("sent nothing"));
    bounded(client.status.wait_for(hangs)).await.unwrap();
    let held = client.ready(|_| true).await.default_svid().unwrap().chain.leaf().clone();
    issuer.signal(Signal::SIGCONT);
    client.ready(|snapshot| *snapshot.default_svid().unwrap().chain.leaf() != held).await;
    bounded(client.status.wait_for(|status| status.connected)).await.unwrap();
}

/// A process that does not outlive the test.
struct Process(Child);

impl Process {
    fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
