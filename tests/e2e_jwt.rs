//! Tokens injected by real Envoys: every request of a rotating load carries a valid one, or gets 401 from Envoy itself.
//!
//! ```text
//!   Load --http--> Envoy (credential_injector) --http--> Verifier: is there a token, signed, for us, and not ended?
//!                    \____ SDS ____ App ____ Workload API ____ DevIssuer
//! ```
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

#[path = "e2e_jwt/stage.rs"]
mod stage;

use std::time::Duration;

use spiffe_sds::{
    dev::{CaStep, JwtFault, envoy::EnvoyBinary},
    envoy::Variant,
    identity::TrustDomain,
};
use stage::Stage;
use support::envoy::{latest, oldest};

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
