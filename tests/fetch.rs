//! Unary calls: `FetchSecrets` and `grpc.health.v1`.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use spiffe_sds::identity::Availability;
use support::{
    secrets::{certificate, content, decode, plain, spiffe},
    world::{DOMAIN, World, bounded, id},
    xds::{Sotw, envoy, fetch},
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
