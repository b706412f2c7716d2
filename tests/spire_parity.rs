//! SPIRE's own tests of its SDS handler, row by row: `pkg/agent/endpoints/sdsv3/handler_test.go` in spiffe/spire.
//!
//! The numbers are those of its tables. Where a row documents a defect or a choice that we do not share, the row says so.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;
#[path = "spire_parity/table.rs"]
mod table;

use envoy_types::pb::{envoy::service::discovery::v3::DiscoveryRequest, google::rpc::Status as Detail};
use spiffe_sds::identity::SpiffeId;
use support::{
    secrets::{certificate, content, decode, plain},
    world::{DOMAIN, World, id},
    xds::{Delta, Sotw, envoy, fetch, request},
};
use table::{Worlds, fixture, rows};
use tonic::Code;

const OWN: &str = "spiffe://domain.test";
const FEDERATED: &str = "spiffe://otherdomain.test";
const ID: &str = "spiffe://domain.test/workload";
const UNKNOWN: &str = "spiffe://domain.test/WHATEVER";

#[tokio::test]
async fn stream_secrets() {
    let worlds = Worlds::start().await;
    for row in rows() {
        eprintln!("row {}", row.number);
        let world = worlds.of(&row);
        let mut client = Sotw::secrets(&world.unix().await).await;
        client.send(DiscoveryRequest { node: Some(row.node.clone()), ..request(row.names) });
        let mut found = Vec::new();
        // One resource a response, where SPIRE has all in one.
        for _ in &row.expected {
            let response = client.response().await;
            assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
            let secret = decode(&response.resources[0]);
            found.push((secret.name.clone(), content(&secret)));
        }
        assert_eq!(found, row.contents(world), "row {}", row.number);
        client.expect_silence().await;
    }
}

#[tokio::test]
async fn delta_secrets_say_the_same_and_name_what_cannot_be_had() {
    let worlds = Worlds::start().await;
    for row in rows() {
        eprintln!("row {}", row.number);
        let world = worlds.of(&row);
        let mut client = Delta::secrets(&world.unix().await).await.node(Some(row.node.clone()));
        let mut first = envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest {
            node: Some(row.node.clone()),
            ..Default::default()
        };
        first.resource_names_subscribe = row.names.iter().map(|name| (*name).to_owned()).collect();
        client.send(first);
        let mut found = Vec::new();
        for _ in &row.expected {
            let response = client.response().await;
            let secret = decode(response.resources[0].resource.as_ref().unwrap());
            found.push((secret.name.clone(), content(&secret)));
        }
        assert_eq!(found, row.contents(world), "row {}", row.number);
        match row.number {
            // Plain roots of several trust domains are never pooled, so there is no such thing.
            11 => client.expect_removed(["ALL"]).await,
            // It may be registered yet: saying "no" would make Envoy open its port without a certificate.
            14 => {}
            _ => assert!(!row.expected.is_empty()),
        }
        client.ack().await;
        client.expect_silence().await;
    }
}

#[tokio::test]
async fn fetch_secrets() {
    let worlds = Worlds::start().await;
    for row in rows() {
        eprintln!("row {}", row.number);
        let world = worlds.of(&row);
        let answer = fetch(&world.unix().await, row.node.clone(), row.names).await;
        if row.expected.is_empty() {
            // SPIRE says `Internal` and `InvalidArgument`.
            assert_eq!(answer.unwrap_err().code(), Code::NotFound, "row {}", row.number);
            continue;
        }
        let answer = answer.unwrap();
        assert_eq!((answer.version_info.as_str(), answer.nonce.as_str()), ("", ""));
        assert_eq!(answer.type_url, support::xds::SECRET);
        let mut found: Vec<_> =
            answer.resources.iter().map(decode).map(|secret| (secret.name.clone(), content(&secret))).collect();
        let mut expected = row.contents(world);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, expected, "row {}", row.number);
    }
}

/// SPIRE echoes any type URL ("TYPEURL") over secrets; here it must be the right one or none.
#[tokio::test]
async fn fetch_secrets_checks_the_type() {
    let world = World::start().await;
    let mut client =
        envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient::new(
            world.unix().await,
        );
    let with_type = |type_url: &str| DiscoveryRequest { type_url: type_url.into(), ..request(&["default"]) };
    assert_eq!(client.fetch_secrets(with_type("TYPEURL")).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.fetch_secrets(with_type("")).await.unwrap().into_inner().type_url, support::xds::SECRET);
}

/// `TestStreamSecretsStreaming`.
#[tokio::test]
async fn streaming() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    let first = client.expect([ID]).await;
    assert_eq!(content(&first[0]), certificate(&world.svid("workload")));
    client.ack().await;
    let version = client.version.clone();
    world.issuer.rotate().unwrap();
    let second = client.expect([ID]).await;
    assert_eq!(content(&second[0]), certificate(&world.svid("workload")));
    client.ack().await;
    assert_ne!(client.version, version);
}

/// `TestStreamSecretsKeepNodeInformation`: what the first message says of the node holds for the later ones.
#[tokio::test]
async fn keep_node_information() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await.node(Some(envoy(17)));
    client.subscribe([ID]).await;
    client.expect([ID]).await;
    client.ack().await;
    client.subscribe([OWN]).await;
    assert_eq!(content(&client.expect([OWN]).await[0]), plain(&world, DOMAIN));
}

/// `TestStreamSecretsApplicationDoesNotSpin`: a rejection is no question.
#[tokio::test]
async fn application_does_not_spin() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    client.expect([ID]).await;
    client.send(DiscoveryRequest {
        response_nonce: client.nonce.clone(),
        version_info: "OHNO".into(),
        error_detail: Some(Detail { message: "OHNO!".into(), ..Detail::default() }),
        ..request(&[ID])
    });
    world.issuer.rotate().unwrap();
    let next = client.expect([ID]).await;
    assert_eq!(content(&next[0]), certificate(&world.svid("workload")), "and not the old one again");
}

/// `TestStreamSecretsRequestReceivedBeforeWorkloadUpdate`.
#[tokio::test]
async fn request_received_before_workload_update() {
    let world = World::pending().await;
    let mut events = world.events();
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    events.opened(1).await;
    world.issuer.recover();
    client.expect([ID]).await;
}

/// `TestStreamSecretsSubChanged`.
#[tokio::test]
async fn sub_changed() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    client.expect([ID]).await;
    client.ack().await;
    client.subscribe([OWN]).await;
    client.expect([OWN]).await;
    client.ack().await;
    client.expect_silence().await;
}

/// `TestStreamSecretsBadNonce`. SPIRE ignores the whole request; here its names count, for clients that
/// change them and do not know the newest nonce, and only what is answered already is not answered twice.
#[tokio::test]
async fn bad_nonce() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    client.expect([ID]).await;
    client.ack().await;
    client.send(DiscoveryRequest { response_nonce: "FOO".into(), version_info: "BAR".into(), ..request(&[ID]) });
    client.expect_silence().await;
    client.send(DiscoveryRequest { response_nonce: "FOO".into(), ..request(&[ID, OWN]) });
    client.expect([OWN]).await;
    client.subscribe([OWN]).await;
    client.expect_silence().await;
}

/// `TestStreamSecretsErrInSubscribeToCacheChanges`: SPIRE ends the stream; here a failing source changes nothing for
/// clients.
#[tokio::test]
async fn err_in_subscribe_to_cache_changes() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID]).await;
    client.expect([ID]).await;
    client.ack().await;
    world.issuer.fail_with(tonic::Status::unavailable("oh no"));
    let mut traffic = world.issuer.traffic();
    let before = traffic.borrow().streams;
    support::world::bounded(traffic.wait_for(|it| it.streams > before)).await.unwrap();
    client.expect_silence().await;
    let mut newcomer = Sotw::secrets(&world.unix().await).await;
    newcomer.subscribe([ID]).await;
    newcomer.expect([ID]).await;
    world.issuer.rotate().unwrap();
    world.issuer.recover();
    client.expect([ID]).await;
}

/// SPIRE answers only one of several names of the same thing, and ends the stream for the others.
#[tokio::test]
async fn several_aliases_at_once() {
    let world = World::with(fixture).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([OWN, "ROOTCA", "ALL", "default", ID]).await;
    client.expect(["ALL", "ROOTCA", OWN, "default", ID]).await;
}

/// SPIRE counts versions from 1 on each stream.
#[tokio::test]
async fn versions_survive_a_reconnect() {
    let world = World::with(fixture).await;
    let mut versions = Vec::new();
    for _ in 0..2 {
        let mut client = Sotw::secrets(&world.unix().await).await;
        client.subscribe([ID]).await;
        client.expect([ID]).await;
        client.ack().await;
        versions.push(client.version);
    }
    assert_eq!(versions[0], versions[1]);
}

/// SPIRE ends the stream when an identity goes; here its holders are told only what can be told.
#[tokio::test]
async fn an_identity_that_goes() {
    let world = World::with(|setup| {
        fixture(setup);
        setup.issuer = setup.issuer.clone().identity(id("second"), None);
    })
    .await;
    let second = SpiffeId::to_string(&id("second"));
    let mut sotw = Sotw::secrets(&world.unix().await).await;
    sotw.subscribe([&second, ID]).await;
    sotw.expect([&second, ID]).await;
    sotw.ack().await;
    let mut delta = Delta::secrets(&world.unix().await).await;
    delta.subscribe([&second, ID]).await;
    delta.expect([&second, ID]).await;
    delta.ack().await;
    world.issuer.revoke(&id("second")).unwrap();
    delta.expect_removed([&second]).await;
    delta.ack().await;
    sotw.expect_silence().await;
    world.issuer.rotate().unwrap();
    sotw.expect([ID]).await;
    delta.expect([ID]).await;
}
