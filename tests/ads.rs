//! Aggregated streams: secrets among other types.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use support::{
    secrets::{certificate, content, plain, spiffe},
    world::{DOMAIN, World},
    xds::{CLUSTER, Delta, SECRET, Sotw, envoy, request},
};
use tonic::Code;

const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

fn of_type(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { type_url: type_url.into(), ..request(names) }
}

fn delta_of_type(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = support::xds::owned(names);
    DeltaDiscoveryRequest { type_url: type_url.into(), resource_names_subscribe, ..Default::default() }
}

#[tokio::test]
async fn secrets_come_one_a_response_and_follow_rotation() {
    let world = World::start().await;
    for channel in [world.unix().await, world.tcp().await] {
        let mut sotw = Sotw::aggregated(&channel).await;
        sotw.subscribe(["default", "ROOTCA"]).await;
        let found = sotw.expect(["ROOTCA", "default"]).await;
        assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN]));
        sotw.ack().await;
        let mut delta = Delta::aggregated(&channel).await;
        delta.subscribe(["default", "ROOTCA"]).await;
        delta.expect(["ROOTCA", "default"]).await;
        delta.ack().await;

        world.issuer.rotate().unwrap();
        let rotated = certificate(&world.svid("workload"));
        assert_eq!(content(&sotw.expect(["default"]).await[0]), rotated);
        assert_eq!(content(&delta.expect(["default"]).await[0]), rotated);
        sotw.ack().await;
        delta.ack().await;
        sotw.expect_silence().await;
        delta.expect_silence().await;
    }
}

/// What Envoy sends while it starts: the list grows, without nonce and version, before anything was acknowledged.
#[tokio::test]
async fn a_list_that_grows_before_the_first_acknowledgement() {
    let world = World::start().await;
    let mut client = Sotw::aggregated(&world.unix().await).await;
    client.send(request(&["ROOTCA"]));
    client.expect(["ROOTCA"]).await;
    client.send(request(&["ROOTCA", "default"]));
    client.expect(["default"]).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.ack().await;
    client.expect_silence().await;
}

#[tokio::test]
async fn a_reconnect_with_known_versions_is_silent_even_after_a_restart() {
    let mut world = World::start().await;
    let mut sotw = Sotw::aggregated(&world.unix().await).await;
    sotw.subscribe(["ROOTCA", "default"]).await;
    sotw.expect(["ROOTCA", "default"]).await;
    sotw.ack().await;
    let mut delta = Delta::aggregated(&world.unix().await).await;
    delta.subscribe(["ROOTCA", "default"]).await;
    delta.expect(["ROOTCA", "default"]).await;
    delta.ack().await;
    world.restart().await;

    let mut events = world.events();
    let channel = world.unix().await;
    let mut sotw = Sotw::aggregated(&channel).await.holding(&sotw.version);
    sotw.subscribe(["ROOTCA", "default"]).await;
    let mut delta = Delta::aggregated(&channel).await.holding(&delta.held);
    delta.subscribe(["ROOTCA", "default"]).await;
    events.opened(2).await;
    sotw.expect_silence().await;
    delta.expect_silence().await;
}

/// envoy#47309: a second consumer of a secret that is held already waits for ever, unless what is held comes again.
#[tokio::test]
async fn a_repeated_request_is_a_call_for_help_at_a_bounded_rate() {
    let world = World::start().await;
    let mut client = Sotw::aggregated(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    client.repeat().await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    client.expect_silence().await;

    let mut events = world.events();
    let mut spinning = Sotw::aggregated(&world.unix().await).await;
    spinning.subscribe(["default"]).await;
    spinning.expect(["default"]).await;
    spinning.ack().await;
    let mut resent = 0;
    for _ in 0..100 {
        // The same answer a hundred times; a word about another type tells when each was taken in.
        spinning.repeat().await;
    }
    spinning.send(of_type(CLUSTER, &[]));
    while spinning.response().await.type_url == SECRET {
        resent += 1;
    }
    assert!((1..=10).contains(&resent), "{resent}");
    events.opened(1).await;

    let mut plain = Sotw::secrets(&world.unix().await).await;
    plain.subscribe(["default"]).await;
    plain.expect(["default"]).await;
    plain.ack().await;
    plain.repeat().await;
    plain.expect_silence().await;
}

#[tokio::test]
async fn other_types_are_answered_with_nothing_and_stall_nothing() {
    let world = World::pending().await;
    let channel = world.unix().await;
    let mut sotw = Sotw::aggregated(&channel).await;
    sotw.subscribe(["default"]).await;
    sotw.send(of_type(CLUSTER, &[]));
    let nothing = sotw.response().await;
    assert_eq!((nothing.type_url.as_str(), nothing.resources.len()), (CLUSTER, 0));
    assert!(!nothing.nonce.is_empty() && !nothing.version_info.is_empty());
    // The acknowledgement, and another one: neither is a question.
    let ack =
        DiscoveryRequest { version_info: nothing.version_info, response_nonce: nothing.nonce, ..of_type(CLUSTER, &[]) };
    sotw.send(ack.clone());
    sotw.send(ack);
    sotw.send(of_type(ENDPOINT, &["a", "b"]));
    let nothing = sotw.response().await;
    assert_eq!((nothing.type_url.as_str(), nothing.resources.len()), (ENDPOINT, 0));

    let mut delta = Delta::aggregated(&channel).await;
    delta.subscribe(["default"]).await;
    delta.send(delta_of_type(ENDPOINT, &["a", "b"]));
    let gone = delta.response().await;
    assert_eq!((gone.type_url.as_str(), gone.resources.len()), (ENDPOINT, 0));
    assert_eq!(gone.removed_resources, ["a", "b"]);
    delta.send(delta_of_type(CLUSTER, &[]));
    let none = delta.response().await;
    assert_eq!((none.type_url.as_str(), none.removed_resources.len()), (CLUSTER, 0));

    world.issuer.recover();
    sotw.expect(["default"]).await;
    delta.expect(["default"]).await;
}

/// Envoy acknowledges with the whole list: a list that fits once fits twice.
#[tokio::test]
async fn names_of_other_types_are_counted_once() {
    let world = World::with(|setup| setup.server.limits.names_per_stream = 100).await;
    let names: Vec<String> = (0..90).map(|at| format!("cluster-{at}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut client = Sotw::aggregated(&world.unix().await).await;
    client.send(of_type(ENDPOINT, &names));
    let nothing = client.response().await;
    client.send(DiscoveryRequest { response_nonce: nothing.nonce, ..of_type(ENDPOINT, &names) });
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
}

#[tokio::test]
async fn a_request_without_a_type_ends_the_stream() {
    let world = World::start().await;
    let channel = world.unix().await;
    let client = Sotw::aggregated(&channel).await;
    client.send(of_type("", &["default"]));
    assert_eq!(client.end().await.unwrap_err().code(), Code::InvalidArgument);
    let client = Delta::aggregated(&channel).await;
    client.send(delta_of_type("", &["default"]));
    assert_eq!(client.end().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_first_request_tells_the_flavour_whatever_its_type() {
    let world = World::start().await;
    let mut client = Sotw::aggregated(&world.unix().await).await.node(None);
    client.send(DiscoveryRequest { node: Some(envoy(17)), ..of_type(CLUSTER, &[]) });
    client.response().await;
    client.subscribe(["ROOTCA"]).await;
    assert_eq!(content(&client.expect(["ROOTCA"]).await[0]), plain(&world, DOMAIN));
}

#[tokio::test]
async fn the_last_name_that_goes_takes_everything_with_it() {
    let world = World::start().await;
    let mut client = Sotw::aggregated(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    client.subscribe([]).await;
    world.issuer.rotate().unwrap();
    client.expect_silence().await;
}
