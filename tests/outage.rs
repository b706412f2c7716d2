//! The source goes away, hangs, talks nonsense and comes back.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with tests/workload_api.rs")]
#[path = "workload_api/fixture.rs"]
mod fixture;

use std::time::Duration;

use fixture::{Agent, Client, bounded, id, is_from, td};
use spiffe_sds::{
    identity::Availability,
    source::{Endpoint, ErrorKind, RenewalEvent, workload_api::Deadlines},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixListener,
};

/// A client that notices silence soon.
fn impatient(endpoint: &Endpoint) -> Client {
    let short = Duration::from_millis(100);
    let deadlines = Deadlines { connect: short, first_message: short, denied_recheck: short };
    Client::configured(endpoint, |api| api.with_deadlines(deadlines), Duration::from_secs(60))
}

fn down(event: RenewalEvent) -> String {
    match event {
        RenewalEvent::SourceDown { kind: ErrorKind::Transient, error, .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_yet_is_waited_for() {
    let agent = Agent::new();
    let mut client = Client::of(&agent.endpoint());
    let error = down(client.event("source_down").await);
    assert!(error.contains("agent.sock") && error.contains("is the agent running"), "{error}");
    bounded(client.status.wait_for(|status| status.consecutive_failures >= 3)).await.unwrap();
    assert_eq!(*client.state.borrow(), Availability::Pending);
    let issuer = agent.with(&["web"]).await;
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
}

#[tokio::test]
async fn an_agent_that_restarts_costs_nothing() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let mut client = Client::of(&agent.endpoint());
    let before = client.ready(|_| true).await;
    issuer.shutdown().await;
    bounded(client.status.wait_for(|status| !status.connected && status.consecutive_failures >= 3)).await.unwrap();
    assert_eq!(*client.state.borrow(), Availability::Ready(before), "the last good state stays");

    // Its memory is gone: another CA, another SVID.
    let issuer = agent.with(&["web"]).await;
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
    bounded(client.status.wait_for(|status| status.connected && status.consecutive_failures == 0)).await.unwrap();
    let names = client.event_names();
    assert_eq!(names.iter().filter(|name| **name == "svid_renewed").count(), 2, "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "source_up").count(), 2, "{names:?}");
}

#[tokio::test]
async fn an_agent_that_hangs_from_the_start_is_seen() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    issuer.hang();
    let mut client = impatient(&agent.endpoint());
    let error = down(client.event("source_down").await);
    assert!(error.contains("sent nothing for 100ms"), "{error}");
    issuer.recover();
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
}

#[tokio::test]
async fn an_agent_that_falls_silent_later_is_just_quiet() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let mut client = impatient(&agent.endpoint());
    client.ready(|_| true).await;
    issuer.hang();
    issuer.rotate().unwrap();
    issuer.recover();
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
    assert!(!client.event_names().contains(&"source_down"));
}

#[tokio::test]
async fn a_socket_that_nobody_serves_or_that_talks_nonsense_is_survived() {
    let agent = Agent::new();
    let Endpoint::Unix(path) = agent.endpoint() else { unreachable!() };
    let mut client = impatient(&agent.endpoint());
    {
        let _mute = UnixListener::bind(&path).unwrap();
        bounded(async { while !down(client.event("source_down").await).contains("sent nothing") {} }).await;
    }
    std::fs::remove_file(&path).unwrap();
    let nonsense = UnixListener::bind(&path).unwrap();
    let talker = tokio::spawn(async move {
        loop {
            let (mut stream, _) = nonsense.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 418 I'm a teapot\r\n\r\n").await;
            // Until the client hangs up.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    bounded(async { while !down(client.event("source_down").await).contains("agent.sock answered") {} }).await;
    talker.abort();
    let _ = talker.await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(*client.state.borrow(), Availability::Pending);
    let issuer = agent.with(&["web"]).await;
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
}

#[tokio::test]
async fn shutting_down_closes_the_connection() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    let mut client = Client::of(&agent.endpoint());
    client.ready(|_| true).await;
    client.shutdown.cancel();
    assert!(bounded(client.task).await.unwrap().is_ok());
    bounded(issuer.traffic().wait_for(|traffic| traffic.connections_open == 0)).await.unwrap();
}

#[tokio::test]
async fn a_bundle_stream_that_is_lost_is_reopened() {
    let agent = Agent::new();
    let issuer = agent.start(|config| config).await;
    let mut client = Client::of(&agent.endpoint());
    let before = client.ready(|snapshot| snapshot.svids.is_empty()).await;
    issuer.shutdown().await;
    down(client.event("source_down").await);
    assert_eq!(*client.state.borrow(), Availability::Ready(before));
    let issuer = agent.start(|config| config.identity(id("web"), None)).await;
    let snapshot = client.ready(|snapshot| is_from(&issuer, snapshot) && !snapshot.svids.is_empty()).await;
    assert!(snapshot.bundles.contains_key(&td("example.org")));
}
