//! Tokens injected by real Envoys: every request of a rotating load carries a valid one, or gets 401 from Envoy itself.
//!
//! ```text
//!   Load --http--> Envoy (credential_injector) --http--> Verifier: is there a token, signed, for us, and not ended?
//!                    \____ SDS ____ App ____ Workload API ____ DevIssuer
//! ```
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

#[path = "e2e_jwt/chain.rs"]
mod chain;
#[path = "e2e_jwt/stage.rs"]
mod stage;

use std::time::Duration;

use chain::{Chain, domain};
use spiffe_sds::{
    dev::{CaStep, JwtFault, envoy::EnvoyBinary},
    envoy::Variant,
    identity::TrustDomain,
};
use stage::Stage;
use support::envoy::{latest, oldest};
use tokio::time::interval;
use tonic::Status;

/// Tokens live 4 s, so that each is replaced after 2 to 3 s.
const LOAD: Duration = Duration::from_secs(12);

async fn rotation(binary: EnvoyBinary, variant: Variant, token: &str) {
    let stage = Stage::start(&binary, variant, token).await;
    stage.until_status(200).await;
    let load = stage.load();
    let td = TrustDomain::new("example.org").unwrap();
    let mut clock = tokio::time::interval(LOAD / 4);
    // The keys roll over in between: tokens of the new key come at once.
    for step in [CaStep::Prepare, CaStep::Activate, CaStep::Retire] {
        clock.tick().await;
        stage.issuer.jwt_key_step(&td, step).unwrap();
    }
    clock.tick().await;
    clock.tick().await;
    let report = load.stop().await;
    assert_eq!(report.failures, 0, "{variant} on {}: {report:#?}", binary.version());
    let seen = stage.verified();
    assert_eq!(seen.bad, Vec::<String>::new(), "{variant}");
    assert!(report.requests > 200 && seen.tokens.len() >= 4, "{variant}: {} tokens", seen.tokens.len());
    stage.stop().await;
}

async fn outage(binary: EnvoyBinary, variant: Variant, token: &str) {
    let stage = Stage::start(&binary, variant, token).await;
    stage.until_status(200).await;
    let load = stage.load();
    stage.issuer.set_jwt_fault(Some(JwtFault::Unavailable));
    stage.until_status(401).await;
    let ended = stage.verified();
    assert_eq!(ended.bad, Vec::<String>::new(), "{variant}: a request carried a token that had ended");
    assert!(stage.nobody_passes().await, "{variant}: closed is closed");
    stage.issuer.set_jwt_fault(None);
    stage.until_status(200).await;
    let report = load.stop().await;
    assert!(report.samples.iter().all(|failure| failure.detail.starts_with("401")), "{report:#?}");
    assert_eq!(stage.verified().bad, Vec::<String>::new(), "{variant}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_goes_without_a_valid_token_while_they_rotate() {
    tokio::join!(
        rotation(latest(), Variant::Sotw, "jwt:payments"),
        rotation(latest(), Variant::Delta, "jwt:payments"),
        rotation(latest(), Variant::AdsDelta, "jwt-bearer:payments"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_envoy_gets_tokens_with_their_prefix() {
    rotation(oldest(), Variant::Delta, "jwt-bearer:payments").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_source_closes_the_door_and_a_living_one_opens_it() {
    tokio::join!(
        outage(latest(), Variant::Sotw, "jwt:payments"),
        outage(latest(), Variant::AdsSotw, "jwt:payments"),
        outage(oldest(), Variant::Delta, "jwt-bearer:payments"),
    );
}

/// The issuers have nothing in common but the trust domain: each has keys of its own.
async fn failover(binary: EnvoyBinary, variant: Variant) {
    let mut chain = Chain::start(&binary, variant, 2, Duration::from_secs(30)).await;
    chain.token_of(0).await;
    let load = chain.load().await;
    for _ in 0..2 {
        chain.issuers[0].fail_with(Status::unavailable("the agent is being upgraded"));
        let took = chain.switched_to(1).await;
        assert!(took < Duration::from_secs(10), "{variant}: {took:?}, though the token lives longer");
        chain.shows(1).await;
        chain.issuers[0].recover();
        let took = chain.switched_to(0).await;
        assert!(took < Duration::from_secs(10), "{variant}: {took:?}");
        chain.shows(1).await;
    }
    chain.expect_no_failure(load).await;
    chain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_refused_while_sources_take_turns() {
    tokio::join!(failover(latest(), Variant::Sotw), failover(latest(), Variant::AdsDelta));
    failover(oldest(), Variant::Delta).await;
}

/// Tokens are replaced every two seconds, and each key signs for four.
async fn key_roll_over(binary: EnvoyBinary, variant: Variant) {
    let mut chain = Chain::start(&binary, variant, 1, Duration::from_secs(4)).await;
    chain.token_of(0).await;
    let load = chain.load().await;
    let mut clock = interval(Duration::from_secs(2));
    for round in 0..3 {
        // Published for longer than verifiers take to look, and kept for longer than tokens take to be replaced.
        for (step, ticks) in [(CaStep::Prepare, 1), (CaStep::Activate, 2), (CaStep::Retire, 1)] {
            chain.issuers[0].jwt_key_step(&domain(), step).unwrap();
            for _ in 0..ticks + usize::from(round == 0 && step == CaStep::Prepare) {
                clock.tick().await;
            }
        }
    }
    chain.token_of(0).await;
    chain.expect_no_failure(load).await;
    chain.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_refused_while_keys_roll_over() {
    tokio::join!(
        key_roll_over(latest(), Variant::Delta),
        key_roll_over(latest(), Variant::AdsSotw),
        key_roll_over(oldest(), Variant::Sotw),
    );
}
