//! The end: streams end in good order, and nobody can put it off.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use spiffe_sds::{
    identity::Availability,
    lifecycle::PartError,
    secret,
    server::{Config, Server, ServerError},
};
use support::{
    world::{World, bounded},
    xds::{Delta, Raw, Sotw, framed, request},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// A world whose end waits for ever for whoever holds it up: it ends in time only when nobody does.
async fn patient() -> World {
    World::with(|setup| setup.server.drain_deadline = Duration::from_secs(3600)).await
}

#[tokio::test]
async fn every_stream_ends_with_ok() {
    let mut world = patient().await;
    let channel = world.unix().await;
    let (mut sotw, mut ads) = (Sotw::secrets(&channel).await, Sotw::aggregated(&channel).await);
    let (mut delta, mut delta_ads) = (Delta::secrets(&channel).await, Delta::aggregated(&channel).await);
    for client in [&mut sotw, &mut ads] {
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
    }
    for client in [&mut delta, &mut delta_ads] {
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
    }
    let silent = Sotw::secrets(&channel).await;
    world.stop().await;
    for client in [sotw, ads, silent] {
        client.end().await.unwrap();
    }
    for client in [delta, delta_ads] {
        client.end().await.unwrap();
    }
}

#[tokio::test]
async fn connections_hear_that_it_is_over() {
    let mut world = World::start().await;
    let mut connection = Raw::connect(UnixStream::connect(world.socket()).await.unwrap()).await;
    let mut call = connection.open(STREAM).await;
    call.send(framed(&request(&["default"])));
    call.message().await.unwrap();
    world.stop().await;
    assert_eq!(call.status().await, Code::Ok);
    drop(call);
    connection.end().await.expect("a GOAWAY without an error");
    assert!(UnixStream::connect(world.socket()).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn health_watchers_hear_it_and_do_not_hold_it_up() {
    let mut world = patient().await;
    world.until_health(ServingStatus::Serving).await;
    let mut client = HealthClient::new(world.unix().await);
    let mut states = bounded(client.watch(HealthCheckRequest { service: String::new() })).await.unwrap().into_inner();
    assert_eq!(bounded(states.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    world.stop().await;
    assert_eq!(bounded(states.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(bounded(states.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_hold_it_up() {
    let mut world = patient().await;
    let _silent = TcpStream::connect(world.address()).await.unwrap();
    let mut stuttering = UnixStream::connect(world.socket()).await.unwrap();
    stuttering.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    // One round trip later the server has them.
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_is_stuck_is_waited_for_until_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(300);
    // With a queue for a place, which must not outlast the deadline either.
    for connections in [100, 1] {
        let mut world = World::with(|setup| {
            setup.server.drain_deadline = DEADLINE;
            setup.server.limits.connections = connections;
        })
        .await;
        let mut builder = h2::client::Builder::new();
        // Its window is shut, so not even the end of the stream reaches it.
        builder.initial_window_size(0);
        let io = UnixStream::connect(world.socket()).await.unwrap();
        let (mut sender, connection) = bounded(builder.handshake(io)).await.unwrap();
        let connection = tokio::spawn(connection);
        let call = http::Request::post(format!("http://localhost{STREAM}")).body(()).unwrap();
        let (response, mut requests) = sender.send_request(call, false).unwrap();
        requests.send_data(framed(&request(&["default"])), false).unwrap();
        let _responses = bounded(response).await.unwrap();
        let _queued = (UnixStream::connect(world.socket()).await, TcpStream::connect(world.address()).await);
        let took = world.stop().await;
        assert!(took >= DEADLINE, "{took:?}");
        // Cut off, one way or the other.
        let _ = bounded(connection).await;
    }
}

#[tokio::test]
async fn the_loss_of_the_source_of_identities_is_loud() {
    let server = Server::bind(Config::default(), secret::Config::default()).await.unwrap();
    let (states, watched) = watch::channel(Availability::Pending);
    let running = tokio::spawn(server.run(watched, CancellationToken::new()));
    drop(states);
    assert!(matches!(bounded(running).await.unwrap(), Err(ServerError::Part(PartError::Ended))));
}

#[tokio::test]
async fn a_client_that_comes_back_finds_what_it_holds() {
    let mut world = World::start().await;
    let mut sotw = Sotw::secrets(&world.unix().await).await;
    sotw.subscribe(["ALL", "default"]).await;
    sotw.expect(["ALL", "default"]).await;
    sotw.ack().await;
    world.restart().await;
    world.restart().await;
    let mut events = world.events();
    let mut sotw = Sotw::secrets(&world.unix().await).await.holding(&sotw.version);
    sotw.subscribe(["ALL", "default"]).await;
    events.opened(1).await;
    sotw.expect_silence().await;
}
