//! Several Workload APIs in order, over real sockets: who is asked, who is in service, and what a switch looks like.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "workload_api/fixture.rs"]
#[allow(dead_code, reason = "not every test file uses all of it")]
mod fixture;

use std::{sync::Arc, time::Duration};

use fixture::{Agent, bounded, id, is_from, td};
use spiffe_sds::{
    dev::DevIssuer,
    identity::{Availability, IdentitySnapshot, IdentityStore, Workload},
    source::{
        RenewalEvent, Source, SourceStatus, Supervisor, WorkloadApi, backoff,
        failover::{Config, SwitchReason},
        supervisor,
        workload_api::{self, Deadlines},
    },
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Longer than anything here takes that is not waited for, also on a machine that is busy.
const SHORT: Duration = Duration::from_secs(2);
/// Between two questions whether a denial still holds.
const RECHECK: Duration = Duration::from_millis(100);

/// A supervisor on several agents.
struct Client {
    events: broadcast::Receiver<RenewalEvent>,
    status: watch::Receiver<SourceStatus>,
    active: watch::Receiver<Option<usize>>,
    state: watch::Receiver<Availability>,
    stop: CancellationToken,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn quick() -> Config {
    Config { lost_after: SHORT, failback_after: SHORT, ..Config::default() }
}

impl Client {
    fn of(agents: &[&Agent], failover: Config) -> Self {
        let source = |agent: &&Agent| -> Arc<dyn Source> {
            let config = workload_api::Config { endpoint: agent.endpoint(), trust_domain: None };
            let deadlines = Deadlines { first_message: SHORT, denied_recheck: RECHECK, ..Deadlines::default() };
            Arc::new(WorkloadApi::new(config).with_deadlines(deadlines))
        };
        let backoff = backoff::Config { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        let config = supervisor::Config { backoff, denied_grace: Duration::from_secs(60) };
        let store = Arc::new(IdentityStore::new());
        let sources = agents.iter().map(source).collect();
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), config);
        let (events, status, active) = (supervisor.events(), supervisor.status(), supervisor.active());
        let stop = CancellationToken::new();
        tokio::spawn(supervisor.run(stop.clone()));
        Self { events, status, active, state: store.watch(&Workload::Own), stop }
    }

    async fn serves(&mut self, issuer: &DevIssuer) -> Arc<IdentitySnapshot> {
        let from = |state: &Availability| matches!(state, Availability::Ready(snapshot) if is_from(issuer, snapshot));
        match bounded(self.state.wait_for(from)).await.unwrap().clone() {
            Availability::Ready(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    async fn switch(&mut self) -> (String, String, SwitchReason) {
        loop {
            if let RenewalEvent::SourceSwitched { from, to, reason } = bounded(self.events.recv()).await.unwrap() {
                return (from.to_string(), to.to_string(), reason);
            }
        }
    }

    async fn expect_switch(&mut self, from: &Agent, to: &Agent, reason: SwitchReason) {
        assert_eq!(self.switch().await, (from.endpoint().to_string(), to.endpoint().to_string(), reason));
        let name = to.endpoint().to_string();
        bounded(self.status.wait_for(|status| status.active.as_deref() == Some(&name) && status.connected))
            .await
            .unwrap();
    }
}

async fn streams(issuer: &DevIssuer, wanted: impl Fn(u64) -> bool) {
    bounded(issuer.traffic().wait_for(|traffic| wanted(traffic.streams))).await.unwrap();
}

#[tokio::test]
async fn a_lost_agent_is_replaced_whole_and_comes_back() {
    let (a, b) = (Agent::new(), Agent::new());
    let (first, second) = (a.with(&["web"]).await, b.with(&["web"]).await);
    let mut client = Client::of(&[&a, &b], quick());
    client.serves(&first).await;
    bounded(client.active.wait_for(|active| *active == Some(0))).await.unwrap();
    first.rotate().unwrap();
    client.serves(&first).await;
    assert_eq!(second.traffic().borrow().streams, 0, "nobody asks a standby that is not needed");

    first.shutdown().await;
    client.expect_switch(&a, &b, SwitchReason::Lost).await;
    // Its own trust and nothing of the other's, though both are of one trust domain.
    let snapshot = client.serves(&second).await;
    assert_eq!(snapshot.bundles.len(), 1);
    assert_eq!(snapshot.own_bundle().unwrap().authorities().len(), 1);
    second.rotate().unwrap();
    client.serves(&second).await;

    let first = a.with(&["web"]).await;
    client.expect_switch(&b, &a, SwitchReason::Preferred).await;
    client.serves(&first).await;
    bounded(second.traffic().wait_for(|traffic| traffic.connections_open == 0)).await.unwrap();
}

#[tokio::test]
async fn a_short_absence_switches_nothing() {
    let (a, b) = (Agent::new(), Agent::new());
    let (first, second) = (a.with(&["web"]).await, b.with(&["web"]).await);
    let patient = Config { lost_after: Duration::from_secs(60), ..quick() };
    let mut client = Client::of(&[&a, &b], patient);
    client.serves(&first).await;
    first.fail_with(Status::unavailable("restarting"));
    bounded(client.status.wait_for(|status| status.consecutive_failures >= 5)).await.unwrap();
    first.rotate().unwrap();
    first.recover();
    client.serves(&first).await;
    assert_eq!(second.traffic().borrow().streams, 0);
}

#[tokio::test]
async fn an_agent_that_does_not_renew_is_replaced_by_one_that_does() {
    let (a, b) = (Agent::new(), Agent::new());
    let stuck = a
        .start(|mut config| {
            config.ttl = Duration::from_secs(60);
            config.identity(id("web"), None)
        })
        .await;
    let fresh = b.with(&["web"]).await;
    // It begins ten seconds before it is issued, and a quarter of its life ends seven seconds after that.
    let mut client = Client::of(&[&a, &b], Config { stale_percent: 25, ..quick() });
    let before = client.serves(&stuck).await;
    client.expect_switch(&a, &b, SwitchReason::Stale).await;
    client.serves(&fresh).await;
    assert!(before.first_expiry().unwrap() > std::time::SystemTime::now(), "in time");
    // It has been connected all the while; that it renews is what counts.
    stuck.set_ttl(Duration::from_secs(3600)).unwrap();
    stuck.rotate().unwrap();
    client.expect_switch(&b, &a, SwitchReason::Preferred).await;
    client.serves(&stuck).await;
}

#[tokio::test]
async fn at_the_start_whoever_answers_serves() {
    let (a, b, c) = (Agent::new(), Agent::new(), Agent::new());
    let hanging = b.with(&["web"]).await;
    hanging.hang();
    let third = c.with(&["web"]).await;
    let mut client = Client::of(&[&a, &b, &c], Config { failback_after: Duration::from_secs(60), ..quick() });
    client.expect_switch(&a, &c, SwitchReason::Lost).await;
    client.serves(&third).await;
    // Both of the better ones are looked for.
    streams(&hanging, |streams| streams >= 3).await;
}

#[tokio::test]
async fn a_standby_that_is_down_too_is_reported_and_the_last_good_state_stays() {
    let (a, b) = (Agent::new(), Agent::new());
    let first = a.with(&["web"]).await;
    let mut client = Client::of(&[&a, &b], quick());
    let before = client.serves(&first).await;
    first.shutdown().await;
    loop {
        if let RenewalEvent::StandbyDown { source, error, failures: 2, .. } =
            bounded(client.events.recv()).await.unwrap()
        {
            assert_eq!(*source, b.endpoint().to_string());
            assert!(error.contains("is the agent running"), "{error}");
            break;
        }
    }
    assert_eq!(*client.state.borrow(), Availability::Ready(before));
    let second = b.with(&["web"]).await;
    client.serves(&second).await;
}

#[tokio::test]
async fn what_a_standby_says_is_judged_before_it_serves() {
    let (a, b) = (Agent::new(), Agent::new());
    let (first, second) = (a.with(&["web"]).await, b.with(&["web"]).await);
    second.send_raw(second.message().mismatched_key(0).unwrap());
    let mut client = Client::of(&[&a, &b], quick());
    let before = client.serves(&first).await;
    first.shutdown().await;
    loop {
        if let RenewalEvent::StandbyDown { error, .. } = bounded(client.events.recv()).await.unwrap() {
            assert!(error.contains("does not belong to its certificate"), "{error}");
            break;
        }
    }
    assert_eq!(*client.state.borrow(), Availability::Ready(before));
    second.recover();
    client.serves(&second).await;
}

#[tokio::test]
async fn a_denial_is_an_answer_unless_told_otherwise() {
    let (a, b) = (Agent::new(), Agent::new());
    let (first, second) = (a.with(&["web"]).await, b.with(&["web"]).await);
    let mut client = Client::of(&[&a, &b], quick());
    client.serves(&first).await;
    first.revoke(&id("web")).unwrap();
    streams(&first, |streams| streams >= 6).await;
    assert_eq!(second.traffic().borrow().streams, 0);
    client.stop.cancel();

    let mut client = Client::of(&[&a, &b], Config { on_denial: true, ..quick() });
    client.expect_switch(&a, &b, SwitchReason::Denied).await;
    client.serves(&second).await;
    first.issue(&id("web"), None).unwrap();
    client.expect_switch(&b, &a, SwitchReason::Preferred).await;
    assert!(client.serves(&first).await.bundles.contains_key(&td("example.org")));
}
