//! `StreamSecrets`: the whole list of names each time.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use spiffe_sds::identity::Availability;
use support::{
    secrets::{certificate, content, plain, spiffe},
    world::{DOMAIN, World, bounded, id, td},
    xds::{Sotw, envoy, request},
};
use tonic_health::pb::health_check_response::ServingStatus;

const ID: &str = "spiffe://domain.test/workload";

#[tokio::test]
async fn a_subscription_is_answered_and_an_acknowledgement_is_not() {
    let world = World::start().await;
    for channel in [world.unix().await, world.tcp().await] {
        let mut client = Sotw::secrets(&channel).await;
        client.subscribe(["default"]).await;
        let [secret] = client.expect(["default"]).await.try_into().unwrap();
        assert_eq!(content(&secret), certificate(&world.svid("workload")));
        client.ack().await;
        client.expect_silence().await;
    }
}

#[tokio::test]
async fn every_alias_of_one_thing_resolves_at_once() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe([ID, "default", "spiffe://domain.test", "ROOTCA", "ALL", "spiffe://domain%2Etest/workload"]).await;
    let found = client
        // Trust first, by name within it.
        .expect(["ALL", "ROOTCA", "spiffe://domain.test", "default", "spiffe://domain%2Etest/workload", ID])
        .await;
    for secret in &found[..3] {
        assert_eq!(content(secret), spiffe(&world, &[DOMAIN]));
    }
    for secret in &found[3..] {
        assert_eq!(content(secret), certificate(&world.svid("workload")));
    }
}

#[tokio::test]
async fn a_rotation_sends_only_what_it_changed() {
    let world = World::with(|setup| setup.issuer = setup.issuer.clone().identity(id("other"), None)).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default", "spiffe://domain.test/other"]).await;
    client.expect(["ROOTCA", "default", "spiffe://domain.test/other"]).await;
    client.ack().await;

    world.issuer.rotate_one(&id("workload")).unwrap();
    let rotated = client.expect(["default"]).await;
    assert_eq!(content(&rotated[0]), certificate(&world.svid("workload")));
    client.ack().await;
    world.issuer.resend();
    client.expect_silence().await;
}

#[tokio::test]
async fn trust_arrives_before_the_certificate_that_needs_it_and_shrinks_after() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;

    // One message replaces both the root and the leaf, as a source that was away for a while says it.
    world.issuer.hang();
    let old = world.roots(DOMAIN);
    world.issuer.prepare_ca().unwrap();
    world.issuer.activate_ca().unwrap();
    world.issuer.retire_ca().unwrap();
    let started = std::time::Instant::now();
    world.issuer.recover();
    let new = world.roots(DOMAIN);

    let grown = client.expect(["ROOTCA"]).await;
    let support::secrets::Content::Spiffe(domains) = content(&grown[0]) else { panic!("not a context") };
    assert!(domains[0].1.contains(old.trim()) && domains[0].1.contains(new.trim()));
    client.ack().await;
    let leaf = client.expect(["default"]).await;
    assert_eq!(content(&leaf[0]), certificate(&world.svid("workload")));
    let hold = world.setup.secrets.rollout_hold;
    assert!(started.elapsed() >= hold, "the leaf was held back");
    client.ack().await;
    let shrunk = client.expect(["ROOTCA"]).await;
    assert_eq!(content(&shrunk[0]), spiffe(&world, &[DOMAIN]));
    assert!(started.elapsed() >= 2 * hold);
    client.ack().await;
    client.expect_silence().await;
}

#[tokio::test]
async fn a_reconnect_with_known_versions_is_silent_even_after_a_restart() {
    let mut world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;

    let mut events = world.events();
    let mut again = Sotw::secrets(&world.unix().await).await.holding(&client.version);
    again.subscribe(["ROOTCA", "default"]).await;
    events.opened(1).await;
    again.expect_silence().await;

    world.restart().await;
    let mut events = world.events();
    let mut after = Sotw::secrets(&world.unix().await).await.holding(&client.version);
    after.subscribe(["ROOTCA", "default"]).await;
    events.opened(1).await;
    after.expect_silence().await;
    world.issuer.rotate().unwrap();
    after.expect(["default"]).await;

    let mut outdated = Sotw::secrets(&world.unix().await).await.holding(&client.version);
    outdated.subscribe(["ROOTCA", "default"]).await;
    outdated.expect(["ROOTCA", "default"]).await;
}

#[tokio::test]
async fn two_replicas_give_equal_versions() {
    let world = World::with(|setup| setup.issuer.federated = vec![td("otherdomain.test"), td("a.test")]).await;
    let replica = world.replica().await;
    let mut versions = Vec::new();
    for channel in [world.unix().await, replica.unix().await] {
        let mut client = Sotw::secrets(&channel).await;
        client.subscribe(["ALL", "default"]).await;
        client.expect(["ALL", "default"]).await;
        client.ack().await;
        versions.push(client.version);
    }
    assert_eq!(versions[0], versions[1]);
}

#[tokio::test]
async fn a_pending_identity_is_waited_for() {
    let world = World::pending().await;
    let mut events = world.events();
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default", "ROOTCA"]).await;
    events.opened(1).await;
    world.issuer.recover();
    client.expect(["ROOTCA", "default"]).await;
}

#[tokio::test]
async fn an_identity_is_served_as_soon_as_it_is_issued() {
    let world = World::with(|setup| setup.issuer.identities.clear()).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default", ID, "spiffe://domain.test"]).await;
    client.expect(["spiffe://domain.test"]).await;
    client.ack().await;
    world.issuer.issue(&id("workload"), None).unwrap();
    let found = client.expect(["default", ID]).await;
    assert_eq!(content(&found[0]), certificate(&world.svid("workload")));
}

#[tokio::test]
async fn an_unknown_name_hurts_no_other() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    let odd = "spiffe://elsewhere.test/x";
    client.subscribe(["default", "no such thing", odd, "spiffe://domain.test/later", "", "*"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    client.expect_silence().await;
    world.issuer.issue(&id("later"), None).unwrap();
    client.expect(["spiffe://domain.test/later"]).await;
}

#[tokio::test]
async fn what_is_denied_is_kept_by_its_holders_and_given_to_nobody_else() {
    let world = World::with(|setup| setup.issuer.bundles_need_identity = true).await;
    let mut holder = Sotw::secrets(&world.unix().await).await;
    holder.subscribe(["default"]).await;
    holder.expect(["default"]).await;
    holder.ack().await;

    world.issuer.revoke(&id("workload")).unwrap();
    world.until(|state| matches!(state, Availability::Denied(_))).await;
    let mut events = world.events();
    let mut newcomer = Sotw::secrets(&world.unix().await).await;
    newcomer.subscribe(["default"]).await;
    events.opened(1).await;

    world.issuer.issue(&id("workload"), None).unwrap();
    let issued = certificate(&world.svid("workload"));
    for client in [&mut holder, &mut newcomer] {
        assert_eq!(content(&client.expect(["default"]).await[0]), issued, "nothing came in between");
    }
}

#[tokio::test]
async fn an_expired_certificate_goes_to_no_newcomer() {
    let world = World::with(|setup| setup.issuer.ttl = std::time::Duration::from_secs(8)).await;
    let mut holder = Sotw::secrets(&world.unix().await).await;
    holder.subscribe(["default"]).await;
    holder.expect(["default"]).await;
    holder.ack().await;

    let end = world.svid("workload").svid.validity.not_after;
    support::world::eventually("the certificate expires", || std::time::SystemTime::now() > end).await;
    world.until_health(ServingStatus::NotServing).await;
    let mut newcomer = Sotw::secrets(&world.unix().await).await;
    newcomer.subscribe(["default"]).await;
    newcomer.expect_silence().await;
    holder.expect_silence().await;

    world.issuer.set_ttl(std::time::Duration::from_secs(60)).unwrap();
    world.issuer.rotate().unwrap();
    holder.expect(["default"]).await;
    newcomer.expect(["default"]).await;
}

#[tokio::test]
async fn a_withdrawn_trust_domain_leaves_its_context_empty() {
    let world = World::with(|setup| setup.issuer.federated = vec![td("otherdomain.test")]).await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["ALL", "spiffe://otherdomain.test"]).await;
    let found = client.expect(["ALL", "spiffe://otherdomain.test"]).await;
    assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN, "otherdomain.test"]));
    client.ack().await;
    world.issuer.defederate(&td("otherdomain.test")).unwrap();
    let found = client.expect(["ALL", "spiffe://otherdomain.test"]).await;
    assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN]));
    assert_eq!(content(&found[1]), spiffe(&world, &[]), "a context that trusts nobody");
}

#[tokio::test]
async fn clients_without_the_validator_get_plain_roots_and_others_do_not() {
    let world = World::start().await;
    let (old, new) = (world.unix().await, world.unix().await);
    let mut old = Sotw::secrets(&old).await.node(Some(envoy(17)));
    let mut new = Sotw::secrets(&new).await;
    for client in [&mut old, &mut new] {
        client.subscribe(["ROOTCA"]).await;
    }
    assert_eq!(content(&old.expect(["ROOTCA"]).await[0]), plain(&world, DOMAIN));
    assert_eq!(content(&new.expect(["ROOTCA"]).await[0]), spiffe(&world, &[DOMAIN]));
    assert_ne!(old.nonce, new.nonce);
    old.ack().await;
    new.ack().await;
    world.issuer.prepare_ca().unwrap();
    assert_eq!(content(&old.expect(["ROOTCA"]).await[0]), plain(&world, DOMAIN));
    assert_eq!(content(&new.expect(["ROOTCA"]).await[0]), spiffe(&world, &[DOMAIN]));
}

#[tokio::test]
async fn an_empty_list_ends_interest_and_asks_for_nothing() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    client.subscribe([]).await;
    world.issuer.rotate().unwrap();
    client.expect_silence().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;

    let mut first = Sotw::secrets(&world.unix().await).await;
    first.subscribe([]).await;
    first.expect_silence().await;
}

#[tokio::test]
async fn a_refused_secret_is_not_sent_again_until_it_changes() {
    let world = World::start().await;
    let mut client = Sotw::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.nack("no").await;
    client.expect_silence().await;
    world.issuer.resend();
    client.expect_silence().await;
    world.issuer.rotate().unwrap();
    client.expect(["default"]).await;
}

#[tokio::test]
async fn a_client_that_has_said_all_hears_the_end() {
    let world = World::start().await;
    let client = Sotw::secrets(&world.unix().await).await;
    client.send(request(&["default"]));
    client.hang_up().await.unwrap();
}

/// What `grpcurl -d` and every client with a list of requests does.
#[tokio::test]
async fn a_client_that_asks_and_hangs_up_is_answered_before_the_end() {
    let world = World::start().await;
    world.until_ready().await;
    for _ in 0..50 {
        let mut client = SecretDiscoveryServiceClient::new(world.unix().await);
        let requests = tokio_stream::iter([request(&["default"])]);
        let mut responses = bounded(client.stream_secrets(requests)).await.unwrap().into_inner();
        let response = bounded(responses.message()).await.unwrap().expect("an answer before the end");
        assert_eq!(response.resources.len(), 1);
        assert!(bounded(responses.message()).await.unwrap().is_none());
    }
}
