//! `DeltaSecrets`: what changes, and what is not to be had.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use spiffe_sds::identity::Availability;
use support::{
    secrets::{certificate, content, plain, spiffe},
    world::{DOMAIN, World, id, td},
    xds::{Delta, envoy},
};

const ID: &str = "spiffe://domain.test/workload";

#[tokio::test]
async fn a_subscription_is_answered_and_an_acknowledgement_is_not() {
    let world = World::start().await;
    for channel in [world.unix().await, world.tcp().await] {
        let mut client = Delta::secrets(&channel).await;
        client.subscribe(["default", "ROOTCA"]).await;
        let found = client.expect(["ROOTCA", "default"]).await;
        assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN]));
        assert_eq!(content(&found[1]), certificate(&world.svid("workload")));
        client.ack().await;
        client.expect_silence().await;
    }
}

#[tokio::test]
async fn a_rotation_sends_only_what_it_changed() {
    let world = World::with(|setup| setup.issuer = setup.issuer.clone().identity(id("other"), None)).await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", ID, "spiffe://domain.test/other"]).await;
    client.expect(["ROOTCA", "spiffe://domain.test/other", ID]).await;
    client.ack().await;
    world.issuer.rotate_one(&id("other")).unwrap();
    client.expect(["spiffe://domain.test/other"]).await;
    client.ack().await;
    client.expect_silence().await;
}

#[tokio::test]
async fn trust_arrives_before_the_certificate_that_needs_it() {
    let world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    world.issuer.hang();
    world.issuer.prepare_ca().unwrap();
    world.issuer.activate_ca().unwrap();
    world.issuer.retire_ca().unwrap();
    world.issuer.recover();
    client.expect(["ROOTCA", "default", "ROOTCA"]).await;
    client.ack().await;
    client.expect_silence().await;
}

#[tokio::test]
async fn a_reconnect_with_known_versions_is_silent_even_after_a_restart() {
    let mut world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["ROOTCA", "default"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;

    let mut again = Delta::secrets(&world.unix().await).await.holding(&client.held);
    again.subscribe(["ROOTCA", "default"]).await;
    again.expect_silence().await;

    world.restart().await;
    let mut after = Delta::secrets(&world.unix().await).await.holding(&client.held);
    after.subscribe(["ROOTCA", "default"]).await;
    after.expect_silence().await;
    world.issuer.rotate().unwrap();
    after.expect(["default"]).await;

    let mut outdated = Delta::secrets(&world.unix().await).await.holding(&client.held);
    outdated.subscribe(["ROOTCA", "default"]).await;
    outdated.expect(["default"]).await;
    outdated.ack().await;
    outdated.expect_silence().await;
}

#[tokio::test]
async fn two_replicas_give_equal_versions() {
    let world = World::with(|setup| setup.issuer.federated = vec![td("otherdomain.test"), td("a.test")]).await;
    let replica = world.replica().await;
    let mut held = Vec::new();
    for channel in [world.unix().await, replica.unix().await] {
        let mut client = Delta::secrets(&channel).await;
        client.subscribe(["ALL", "default", "spiffe://a.test"]).await;
        client.expect(["ALL", "spiffe://a.test", "default"]).await;
        held.push(client.held);
    }
    assert_eq!(held[0], held[1]);
}

#[tokio::test]
async fn a_pending_identity_is_waited_for_and_never_said_to_be_gone() {
    let world = World::pending().await;
    let mut events = world.events();
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default", "ROOTCA", ID]).await;
    events.opened(1).await;
    world.issuer.recover();
    client.expect(["ROOTCA", "default", ID]).await;
}

#[tokio::test]
async fn an_identity_is_served_as_soon_as_it_is_issued() {
    let world = World::with(|setup| setup.issuer.identities.clear()).await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default", "spiffe://domain.test"]).await;
    client.expect(["spiffe://domain.test"]).await;
    client.ack().await;
    world.issuer.issue(&id("workload"), None).unwrap();
    client.expect(["default"]).await;
    client.ack().await;
    client.expect_silence().await;
}

#[tokio::test]
async fn what_can_never_be_is_said_once_and_hurts_no_other() {
    let world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await;
    let foreign = "spiffe://elsewhere.test/x";
    client.subscribe(["default", "no such thing", foreign, "spiffe://domain.test/later"]).await;
    client.expect(["default"]).await;
    client.expect_removed(["no such thing", foreign]).await;
    client.ack().await;
    world.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    client.ack().await;
    client.expect_silence().await;
    world.issuer.issue(&id("later"), None).unwrap();
    client.expect(["spiffe://domain.test/later"]).await;
}

#[tokio::test]
async fn what_is_denied_is_withdrawn_and_given_to_nobody() {
    let world = World::with(|setup| setup.issuer.bundles_need_identity = true).await;
    let mut holder = Delta::secrets(&world.unix().await).await;
    holder.subscribe(["default"]).await;
    holder.expect(["default"]).await;
    holder.ack().await;
    world.issuer.revoke(&id("workload")).unwrap();
    world.until(|state| matches!(state, Availability::Denied(_))).await;
    holder.expect_removed(["default"]).await;
    holder.ack().await;
    let mut events = world.events();
    let mut newcomer = Delta::secrets(&world.unix().await).await;
    newcomer.subscribe(["default"]).await;
    events.opened(1).await;
    world.issuer.issue(&id("workload"), None).unwrap();
    for client in [&mut holder, &mut newcomer] {
        assert_eq!(content(&client.expect(["default"]).await[0]), certificate(&world.svid("workload")));
    }
}

#[tokio::test]
async fn a_withdrawn_trust_domain_leaves_its_context_empty() {
    let world = World::with(|setup| setup.issuer.federated = vec![td("otherdomain.test")]).await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["ALL", "spiffe://otherdomain.test"]).await;
    client.expect(["ALL", "spiffe://otherdomain.test"]).await;
    client.ack().await;
    world.issuer.defederate(&td("otherdomain.test")).unwrap();
    let found = client.expect(["ALL", "spiffe://otherdomain.test"]).await;
    assert_eq!(content(&found[0]), spiffe(&world, &[DOMAIN]));
    assert_eq!(content(&found[1]), spiffe(&world, &[]));
}

#[tokio::test]
async fn clients_without_the_validator_get_plain_roots() {
    let world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await.node(Some(envoy(17)));
    client.subscribe(["spiffe://domain%2Etest"]).await;
    assert_eq!(content(&client.expect(["spiffe://domain%2Etest"]).await[0]), plain(&world, DOMAIN));
}

#[tokio::test]
async fn unsubscribing_forgets_and_subscribing_again_is_answered() {
    let world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    client.unsubscribe(["default"]).await;
    world.issuer.rotate().unwrap();
    client.expect_silence().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
}

#[tokio::test]
async fn a_refused_secret_is_not_sent_again_until_it_changes() {
    let world = World::start().await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
    client.nack("no").await;
    client.expect_silence().await;
    world.issuer.rotate().unwrap();
    client.expect(["default"]).await;
}
