//! Metrics move as they should: a script of what happens, and exact counts.

use super::{
    fixture::Site,
    support::xds::{Delta, Sotw, envoy, fetch},
};
use tonic::Status;

const SOTW: [(&str, &str); 3] = [("service", "sds"), ("variant", "sotw"), ("peer", "unix")];
const DELTA: [(&str, &str); 3] = [("service", "ads"), ("variant", "delta"), ("peer", "unix")];

/// A metric without our prefix, some of its labels, and the sum of what has them.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Every expectation at once, so that one look says everything that is wrong.
fn assert_counts(samples: &super::fixture::Samples, expected: &[Expected<'_>]) {
    let wrong: Vec<_> = expected
        .iter()
        .map(|(name, labels, value)| (name, labels, value, samples.sum(&format!("spiffe_sds_{name}"), labels)))
        .filter(|(_, _, wanted, found)| (*wanted - found).abs() > 1e-9)
        .map(|(name, labels, wanted, found)| format!("{name} {labels:?}: {found} in place of {wanted}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_stream_is_counted_from_its_first_word_to_its_end() {
    let site = Site::ready(&[]).await;
    let channel = site.xds().await;
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["default", "ROOTCA"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    let samples = site.scraped("spiffe_sds_acks_total", &SOTW, 2.0).await;
    assert_counts(
        &samples,
        &[
            ("streams", &SOTW, 1.0),
            ("streams_opened_total", &SOTW, 1.0),
            ("requests_total", &SOTW, 3.0),
            ("responses_total", &SOTW, 2.0),
            ("nacks_total", &[], 0.0),
            ("push_to_ack_seconds_count", &SOTW[..2], 2.0),
            // What was there before it asked is no update.
            ("update_to_push_seconds_count", &[], 0.0),
            ("pushes_suppressed_total", &[], 0.0),
            ("subscriptions_pending", &[], 0.0),
            ("connections", &[("peer", "unix")], 1.0),
            ("source_up", &[], 1.0),
            ("renewal_events_total", &[("event", "svid_renewed")], 1.0),
            ("svid_not_after_timestamp_seconds", &[("spiffe_id", "spiffe://other.test/w")], 0.0),
            ("trust_bundle_authorities", &[("trust_domain", "domain.test")], 1.0),
            ("ready", &[], 1.0),
            ("ready_condition", &[], 3.0),
        ],
    );
    assert!(samples.sum("spiffe_sds_response_bytes_total", &SOTW) > 1000.0);
    let life = samples.sum("spiffe_sds_svid_remaining_life_ratio", &[("spiffe_id", "spiffe://domain.test/workload")]);
    assert!(life > 0.5 && life <= 1.0, "{life}");

    site.issuer.rotate().unwrap();
    client.expect(["default"]).await;
    client.nack("no, thank you").await;
    let samples = site.scraped("spiffe_sds_nacks_total", &SOTW, 1.0).await;
    assert_counts(
        &samples,
        &[
            ("responses_total", &SOTW, 3.0),
            ("acks_total", &SOTW, 2.0),
            ("update_to_push_seconds_count", &[("rollout", "direct")], 1.0),
            ("renewal_events_total", &[("event", "svid_renewed")], 2.0),
        ],
    );

    client.hang_up().await.unwrap();
    let samples = site.scraped("spiffe_sds_streams", &[], 0.0).await;
    assert_counts(&samples, &[("streams_closed_total", &[("code", "ok"), ("service", "sds")], 1.0)]);
    drop(channel);
    site.scraped("spiffe_sds_connections", &[], 0.0).await;
    site.stop().await;
}

#[tokio::test]
async fn who_waits_is_counted_until_it_is_answered_or_gone() {
    let site = Site::ready(&[("admin.starved_after", "0s")]).await;
    let channel = site.xds().await;
    let mut client = Sotw::secrets(&channel).await;
    client.subscribe(["default", "spiffe://domain.test/later", "spiffe://domain.test/never"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    let samples = site.scraped("spiffe_sds_subscriptions_pending", &[], 2.0).await;
    assert_counts(&samples, &[("subscriptions_starved", &[], 2.0)]);
    // No name that a client asks for becomes a label.
    assert!(samples.values("spiffe_id").iter().all(|id| *id == "spiffe://domain.test/workload"));

    let events = site.until("/debug/events?q=names_awaited", |answer| answer.body.contains("not registered")).await;
    assert!(events.body.contains("spiffe://domain.test/later"), "{}", events.body);

    site.issuer.issue(&super::id("later"), None).unwrap();
    client.expect(["spiffe://domain.test/later"]).await;
    site.scraped("spiffe_sds_subscriptions_pending", &[], 1.0).await;
    client.hang_up().await.unwrap();
    site.scraped("spiffe_sds_subscriptions_starved", &[], 0.0).await;
    site.stop().await;
}

#[tokio::test]
async fn what_is_not_sent_is_counted_too() {
    let site = Site::ready(&[]).await;
    let channel = site.xds().await;
    let mut trusting = Delta::aggregated(&channel).await;
    trusting.subscribe(["ROOTCA"]).await;
    trusting.expect(["ROOTCA"]).await;
    trusting.ack().await;
    site.scraped("spiffe_sds_acks_total", &DELTA, 1.0).await;
    site.issuer.rotate().unwrap();
    let unchanged = [("reason", "unchanged"), ("variant", "delta")];
    site.scraped("spiffe_sds_pushes_suppressed_total", &unchanged, 1.0).await;

    let mut back = Delta::aggregated(&channel).await.holding(&trusting.held);
    back.subscribe(["ROOTCA"]).await;
    let samples = site.scraped("spiffe_sds_pushes_suppressed_total", &[("reason", "resumed")], 1.0).await;
    assert_counts(&samples, &[("responses_total", &DELTA, 1.0), ("streams", &DELTA, 2.0)]);
    site.stop().await;
}

#[tokio::test]
async fn the_steps_of_a_rollout_are_counted() {
    let site = Site::ready(&[("secrets.rollout_hold", "50ms")]).await;
    let mut client = Sotw::secrets(&site.xds().await).await;
    client.subscribe(["default", "ROOTCA"]).await;
    client.expect(["ROOTCA", "default"]).await;
    client.ack().await;
    let before = site.scrape().await.sum("spiffe_sds_publications_total", &[]);
    // One message replaces both the root and the leaf.
    site.issuer.hang();
    site.issuer.prepare_ca().unwrap();
    site.issuer.activate_ca().unwrap();
    site.issuer.retire_ca().unwrap();
    site.issuer.recover();
    for name in ["ROOTCA", "default", "ROOTCA"] {
        client.expect([name]).await;
        client.ack().await;
    }
    let samples = site.scraped("spiffe_sds_rollout_streams_waited_for", &[], 0.0).await;
    assert_counts(
        &samples,
        &[
            ("rollout_holding", &[], 0.0),
            ("rollout_holds_total", &[("reason", "certificates")], 1.0),
            ("rollout_holds_total", &[("reason", "withdrawal")], 1.0),
            ("rollout_holds_total", &[("reason", "returning")], 0.0),
            ("rollout_timeouts_total", &[], 0.0),
            ("publications_total", &[], before + 3.0),
            ("update_to_push_seconds_count", &[("rollout", "direct")], 1.0),
            ("update_to_push_seconds_count", &[("rollout", "held")], 2.0),
            ("update_to_push_seconds_bucket", &[("rollout", "held"), ("le", "0.05")], 0.0),
        ],
    );
    site.stop().await;
}

#[tokio::test]
async fn failures_of_the_source_are_counted_by_kind() {
    let site = Site::ready(&[]).await;
    site.issuer.fail_with(Status::unavailable("away"));
    let down = site.until("/metrics", |answer| {
        let samples = super::fixture::Samples::parse(&answer.body);
        samples.sum("spiffe_sds_source_consecutive_failures", &[]) >= 2.0
    });
    let samples = super::fixture::Samples::parse(&down.await.body);
    assert!(samples.sum("spiffe_sds_source_failures_total", &[("kind", "transient")]) >= 2.0);
    assert_counts(
        &samples,
        &[("source_up", &[], 0.0), ("source_failures_total", &[("kind", "not_entitled")], 0.0), ("ready", &[], 1.0)],
    );
    site.issuer.recover();
    let samples = site.scraped("spiffe_sds_source_up", &[], 1.0).await;
    assert_counts(&samples, &[("source_consecutive_failures", &[], 0.0)]);
    assert!(samples.sum("spiffe_sds_source_last_update_timestamp_seconds", &[]) > 1e9);

    let channel = site.xds().await;
    fetch(&channel, envoy(40), &["default"]).await.unwrap();
    fetch(&channel, envoy(40), &["nothing"]).await.unwrap_err();
    let samples = site.scraped("spiffe_sds_fetches_total", &[("api", "grpc"), ("code", "ok")], 1.0).await;
    assert_counts(&samples, &[("fetches_total", &[("code", "not_found")], 1.0)]);
    site.stop().await;
}
