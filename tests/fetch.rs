//! Unary calls: `FetchSecrets` and `grpc.health.v1`.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use spiffe_sds::identity::Availability;
use support::{
    secrets::{certificate, content, decode, plain, spiffe},
    world::{DOMAIN, World, bounded, id},
    xds::{SENTINEL, Sotw, envoy, fetch, request},
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const ID: &str = "spiffe://domain.test/workload";

#[tokio::test]
async fn everything_asked_for_comes_at_once_in_its_order() {
    let world = World::start().await;
    for channel in [world.unix().await, world.tcp().await] {
        let answer = fetch(&channel, envoy(40), &[ID, "ROOTCA", "no such thing", "default", ID]).await.unwrap();
        let found: Vec<_> = answer.resources.iter().map(decode).collect();
        assert_eq!(found.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), [ID, "ROOTCA", "default"]);
        assert_eq!(content(&found[0]), certificate(&world.svid("workload")));
        assert_eq!(content(&found[1]), spiffe(&world, &[DOMAIN]));
        assert!(answer.control_plane.unwrap().identifier.starts_with("spiffe-sds/"));
        let old = fetch(&channel, envoy(17), &["ROOTCA"]).await.unwrap();
        assert_eq!(content(&decode(&old.resources[0])), plain(&world, DOMAIN));
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_status() {
    let world = World::pending().await;
    let channel = world.unix().await;
    let code = async |names: &[&str]| fetch(&channel, envoy(40), names).await.map(drop).map_err(|it| it.code());
    assert_eq!(code(&["default"]).await, Err(Code::Unavailable), "not yet");
    world.issuer.recover();
    world.until_ready().await;
    // The publisher follows the store; the first secret on a stream says that it has.
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    assert_eq!(code(&["default"]).await, Ok(()));
    assert_eq!(code(&["no such thing", "spiffe://domain.test/later"]).await, Err(Code::NotFound));
    assert_eq!(code(&[]).await, Err(Code::NotFound), "an empty list asks for nothing");
    assert_eq!(code(&["x"; 20_000]).await, Err(Code::ResourceExhausted));
}

/// The same lists of names on a stream and in a call: what comes, but for its order.
#[tokio::test]
async fn a_call_reads_a_list_of_names_as_a_stream_does() {
    for wildcard in [false, true] {
        let world = World::with(|setup| setup.secrets.wildcard = wildcard).await;
        let channel = world.unix().await;
        let mut first = Sotw::secrets(&channel).await;
        first.subscribe(["default"]).await;
        first.expect(["default"]).await;
        let everything = [ID, "spiffe://domain.test"];
        for (names, on, off) in [
            (&[][..], &everything[..], &[][..]),
            (&[""], &everything, &[]),
            (&["", ""], &everything, &[]),
            (&["*"], &everything, &[]),
            (&["*", ""], &everything, &[]),
            (&["default", "*", ID], &["default", ID, "spiffe://domain.test"], &["default", ID]),
            (&["", "default"], &["default"], &["default"]),
        ] {
            let wanted: BTreeSet<_> = if wildcard { on } else { off }.iter().copied().collect();
            let answer = fetch(&channel, envoy(40), names).await;
            let called = answer.map(|answer| answer.resources.iter().map(|it| decode(it).name).collect::<Vec<_>>());
            let called = called.or_else(|it| if it.code() == Code::NotFound { Ok(Vec::new()) } else { Err(it) });
            let called = called.unwrap();
            assert_eq!(called.len(), wanted.len(), "{names:?}: {called:?}");
            assert_eq!(called.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{names:?}");
            let mut stream = Sotw::secrets(&channel).await;
            stream.send(DiscoveryRequest { node: Some(envoy(40)), ..request(names) });
            let (mut streamed, mut response_nonce) = (BTreeSet::new(), String::new());
            for _ in 0..wanted.len() {
                let response = stream.response().await;
                streamed.extend(response.resources.iter().map(|it| decode(it).name));
                response_nonce = response.nonce;
            }
            assert_eq!(streamed.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{names:?}");
            let last: Vec<_> = names.iter().copied().chain([SENTINEL]).collect();
            stream.send(DiscoveryRequest { response_nonce, ..request(&last) });
            stream.expect([SENTINEL]).await;
        }
    }
}

#[tokio::test]
async fn health_follows_the_identity() {
    let world = World::prepare(|setup| setup.issuer.bundles_need_identity = true).await;
    world.issuer.hang();
    let mut world = world;
    world.serve().await;
    let mut client = HealthClient::new(world.unix().await);
    for service in
        ["", "envoy.service.secret.v3.SecretDiscoveryService", "envoy.service.discovery.v3.AggregatedDiscoveryService"]
    {
        let request = HealthCheckRequest { service: service.into() };
        let status = bounded(client.check(request)).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::NotServing, "{service}");
    }
    world.issuer.recover();
    world.until_health(ServingStatus::Serving).await;
    world.issuer.revoke(&id("workload")).unwrap();
    world.until(|state| matches!(state, Availability::Denied(_))).await;
    world.until_health(ServingStatus::NotServing).await;
    world.issuer.issue(&id("workload"), None).unwrap();
    world.until_health(ServingStatus::Serving).await;
}

#[tokio::test]
async fn a_workload_that_only_verifies_is_healthy() {
    let world = World::with(|setup| setup.issuer.identities.clear()).await;
    world.until_health(ServingStatus::Serving).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["spiffe://domain.test"]).await;
    assert_eq!(content(&client.expect(["spiffe://domain.test"]).await[0]), spiffe(&world, &[DOMAIN]));
}
