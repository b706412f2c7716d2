//! Tokens from a real Workload API to a real SDS client, over real sockets.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "jwt/fixture.rs"]
mod fixture;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fixture::{Client, ID, World, bounded, event, until};
use spiffe_sds::{
    dev::{CaStep, JwtConfig, JwtFault},
    identity::{JwtState, TrustDomain},
    source::{ErrorKind, RenewalEvent},
};
use tonic::Status;

const TWO_SECONDS: JwtConfig = JwtConfig { ttl: Duration::from_secs(2), cached_percent: 50 };

#[tokio::test]
async fn a_token_arrives_in_both_forms_and_spellings() {
    let world = World::start("payments,https://api.example.com", |_| {}).await;
    let mut client = Client::connect(&world).await;
    let dot_free = "jwt:https://api%2Eexample%2Ecom";
    client.subscribe(&["jwt:payments", "jwt-bearer:payments", dot_free]).await;
    let raw = client.token("jwt:payments").await;
    let claims = world.issuer.verify_jwt(&raw).expect("signed by the issuer");
    assert_eq!((&claims["sub"], &claims["aud"][0]), (&ID.into(), &"payments".into()));
    assert_eq!(client.token("jwt-bearer:payments").await, format!("Bearer {raw}"));
    let other = world.issuer.verify_jwt(&client.token(dot_free).await).unwrap();
    assert_eq!(other["aud"][0], "https://api.example.com");
    assert_eq!(world.issuer.traffic().borrow().jwt_fetches, 2, "one fetch a token, not one a name");
}

#[tokio::test]
async fn the_subject_is_in_the_name() {
    let yaml = format!("[{{audience: [a, b], id: '{ID}'}}, {{audience: [a], hint: internal}}]");
    let world = World::start(&yaml, |_| {}).await;
    let mut client = Client::connect(&world).await;
    let by_id = format!("jwt:a,b;id={ID}");
    client.subscribe(&[&by_id, "jwt:a;hint=internal"]).await;
    let subject = |token: &str| world.issuer.verify_jwt(token).unwrap()["sub"].as_str().unwrap().to_owned();
    assert_eq!(subject(&client.token(&by_id).await), ID);
    assert_eq!(subject(&client.token("jwt:a;hint=internal").await), "spiffe://example.org/api");
}

#[tokio::test]
async fn a_token_that_is_not_configured_is_impossible_and_never_fetched() {
    let world = World::start("payments", |_| {}).await;
    let mut client = Client::connect(&world).await;
    for name in ["jwt:billing", "jwt:payments,billing", "jwt:payments;hint=internal", "jwt:p%61yments", "jwt:"] {
        client.subscribe(&[name]).await;
        client.expect_removed(name).await;
    }
    client.subscribe(&["jwt:payments"]).await;
    client.token("jwt:payments").await;
    assert_eq!(world.issuer.traffic().borrow().jwt_fetches, 1);
}

#[tokio::test]
async fn tokens_are_renewed_before_their_end() {
    let world = World::start("payments", |issuer| issuer.jwt = TWO_SECONDS).await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments"]).await;
    let mut tokens = vec![client.token("jwt:payments").await];
    while tokens.len() < 4 {
        let next = client.token("jwt:payments").await;
        let exp = world.issuer.verify_jwt(tokens.last().unwrap()).unwrap()["exp"].as_u64().unwrap();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(exp);
        assert!(SystemTime::now() < end, "the successor came too late");
        tokens.push(next);
    }
    assert!(world.issuer.traffic().borrow().jwt_fetches < 12, "asked in a spin");
}

#[tokio::test]
async fn a_token_that_ends_is_emptied_and_comes_back() {
    let world = World::start("payments", |issuer| issuer.jwt = TWO_SECONDS).await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt-bearer:payments"]).await;
    client.token("jwt-bearer:payments").await;
    let mut renewals = world.renewals();
    world.issuer.set_jwt_fault(Some(JwtFault::Unavailable));
    while !client.next("jwt-bearer:payments").await.is_empty() {}
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(RenewalEvent::JwtExpired { .. })) {
        seen.push(bounded(renewals.recv()).await.unwrap());
    }
    assert!(
        seen.iter().any(|event| matches!(event, RenewalEvent::JwtRenewalFailed { kind: ErrorKind::Transient, .. }))
    );
    assert!(seen.iter().any(|event| matches!(event, RenewalEvent::JwtExpiring { .. })), "{seen:?}");
    world.issuer.set_jwt_fault(None);
    assert!(client.token("jwt-bearer:payments").await.starts_with("Bearer "));
}

#[tokio::test]
async fn one_that_never_came_is_waited_for() {
    let world = World::prepare("payments", |_| {}).await;
    world.issuer.set_jwt_fault(Some(JwtFault::Hang));
    let world = world.run().await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments", "default"]).await;
    client.next("default").await;
    client.subscribe(&["jwt:billing"]).await;
    client.expect_removed("jwt:billing").await;
    world.issuer.set_jwt_fault(None);
    client.token("jwt:payments").await;
}

#[tokio::test]
async fn a_denied_token_is_emptied_after_the_grace_time() {
    let world = World::start("payments", |_| {}).await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments"]).await;
    client.token("jwt:payments").await;
    let mut renewals = world.renewals();
    world.issuer.set_jwt_fault(Some(JwtFault::Deny));
    // The token has minutes to live: a new key makes it due at once.
    for step in [CaStep::Prepare, CaStep::Activate, CaStep::Retire] {
        world.issuer.jwt_key_step(&TrustDomain::new("example.org").unwrap(), step).unwrap();
    }
    assert_eq!(client.next("jwt:payments").await, "");
    event(&mut renewals, |event| matches!(event, RenewalEvent::JwtWithdrawn { .. })).await;
    world.issuer.set_jwt_fault(None);
    client.token("jwt:payments").await;
}

#[tokio::test]
async fn bad_tokens_never_reach_a_client() {
    let world = World::start("payments", |_| {}).await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments"]).await;
    let good = client.token("jwt:payments").await;
    for (fault, why) in [
        (JwtFault::WrongAudience, "not for the audience"),
        (JwtFault::WrongSubject, "its subject is"),
        (JwtFault::NoExpiry, "never expires"),
        (JwtFault::Expired, "it expired"),
        (JwtFault::AlgNone, "its algorithm is \"none\""),
        (JwtFault::Forged, "its signature is wrong"),
        (JwtFault::LineBreak, "neither base64url nor a dot"),
        (JwtFault::Oversized(20_000), "more than the 16384 allowed"),
    ] {
        let mut renewals = world.renewals();
        world.issuer.set_jwt_fault(Some(fault.clone()));
        world.roll_jwt_keys();
        let error = failure(&mut renewals).await;
        assert!(error.contains(why), "{fault:?}: {error}");
        assert!(!good.split('.').any(|part| error.contains(part)), "{error}");
        world.issuer.set_jwt_fault(None);
        let next = client.token("jwt:payments").await;
        assert!(world.issuer.verify_jwt(&next).is_some(), "{fault:?} reached the client");
    }
}

/// Why the next token could not be had.
async fn failure(renewals: &mut tokio::sync::broadcast::Receiver<RenewalEvent>) -> std::sync::Arc<str> {
    match event(renewals, |event| matches!(event, RenewalEvent::JwtRenewalFailed { .. })).await {
        RenewalEvent::JwtRenewalFailed { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

/// What of the own trust domain and of others is left out, each once, and what stays.
#[tokio::test]
async fn keys_follow_the_issuer_and_what_is_bad_takes_nothing_else_away() {
    let world = World::start("payments", |_| {}).await;
    let mut tokens = world.tokens();
    let (td, partner) = (TrustDomain::new("example.org").unwrap(), TrustDomain::new("partner.org").unwrap());
    let keys = |snapshot: &spiffe_sds::identity::JwtSnapshot| snapshot.bundles.get(&td).map_or(0, |it| it.keys().len());
    until(&mut tokens, |snapshot| keys(snapshot) == 1).await;
    world.issuer.jwt_key_step(&td, CaStep::Prepare).unwrap();
    until(&mut tokens, |snapshot| keys(snapshot) == 2).await;

    let honest = world.issuer.jwt_bundles();
    let set: serde_json::Value = serde_json::from_slice(&honest.bundles["spiffe://example.org"]).unwrap();
    let own = |text: String| {
        let mut message = honest.clone();
        message.bundles.insert("spiffe://example.org".to_owned(), Bytes::from(text));
        message
    };
    let tampered = |change: fn(&mut serde_json::Value)| {
        let mut set = set.clone();
        change(&mut set["keys"]);
        own(set.to_string())
    };
    let foreign = |text: &str| {
        let mut message = honest.clone();
        message.bundles.insert("spiffe://partner.org".to_owned(), Bytes::from(text.to_owned()));
        message
    };
    for (message, kind, why, kept) in [
        (tampered(|keys| keys[0]["kid"] = keys[1]["kid"].clone()), "jwt_key", "same kid", false),
        (tampered(|keys| keys[0]["kid"] = serde_json::Value::Null), "jwt_key", "has no kid", false),
        (tampered(|keys| keys[0]["d"] = "AA".into()), "jwt_key", "private part", true),
        (tampered(|keys| keys[0]["x"] = keys[0]["y"].clone()), "jwt_key", "no point of its curve", true),
        (own(String::new()), "jwt_bundle", "empty", true),
        (own("garbage".to_owned()), "jwt_bundle", "no JSON object", true),
        (foreign(""), "jwt_bundle", "empty", false),
        (foreign("garbage"), "jwt_bundle", "no JSON object", false),
    ] {
        let mut renewals = world.renewals();
        world.issuer.send_raw_jwt_bundles(message);
        let refused = event(&mut renewals, |event| matches!(event, RenewalEvent::ItemRefused { .. })).await;
        let RenewalEvent::ItemRefused { item, reason, kept: is_kept } = refused else { panic!("{refused:?}") };
        assert!(item.kind() == kind && reason.contains(why), "{item}: {reason}");
        assert_eq!(is_kept, kept, "{item}: {reason}");
        let shown = world.tokens().borrow().clone();
        let lost = usize::from(kind == "jwt_key" && !kept);
        assert_eq!(keys(&shown), 2 - lost, "{item}: {reason}");
        assert!(!shown.bundles.contains_key(&partner));
        world.issuer.recover();
        event(&mut renewals, |event| matches!(event, RenewalEvent::ItemAccepted { .. })).await;
        until(&mut tokens, |snapshot| keys(snapshot) == 2).await;
    }
    world.issuer.jwt_key_step(&td, CaStep::Activate).unwrap();
    world.issuer.jwt_key_step(&td, CaStep::Retire).unwrap();
    until(&mut tokens, |snapshot| keys(snapshot) == 1).await;
    assert!(tokens.borrow().svids.values().all(|state| matches!(state, JwtState::Valid(_))));
}

#[tokio::test]
async fn an_agent_without_tokens_serves_certificates() {
    let world = World::prepare("payments", |_| {}).await;
    let world = world.run().await;
    let mut client = Client::connect(&world).await;
    world.issuer.set_jwt_fault(Some(JwtFault::Unavailable));
    client.subscribe(&["default"]).await;
    let first = client.next("default").await;
    world.issuer.rotate().unwrap();
    assert_ne!(client.next("default").await, first);
    world.issuer.fail_with(Status::unavailable("down"));
    world.issuer.recover();
    client.subscribe(&["jwt:payments"]).await;
    client.token("jwt:payments").await;
}

#[tokio::test]
async fn a_token_without_a_subject_is_that_of_the_default_identity() {
    for choice in ["spiffe_id: spiffe://example.org/api", "pattern: 'spiffe://*/ap*'", "hint: internal"] {
        let more = format!("secrets: {{default_identity: {{{choice}}}}}");
        let world = World::with("payments", &more, |_| {}).await.run().await;
        let mut client = Client::connect(&world).await;
        client.subscribe(&["jwt:payments"]).await;
        let claims = world.issuer.verify_jwt(&client.token("jwt:payments").await).unwrap();
        assert_eq!(claims["sub"], "spiffe://example.org/api", "{choice}");
    }
    let world = World::with("payments", "secrets: {default_identity: {hint: nobody}}", |_| {}).await;
    let mut renewals = world.renewals();
    let world = world.run().await;
    let error = failure(&mut renewals).await;
    assert!(error.contains("nobody") && error.contains("secrets.default_identity"), "{error}");
    assert!(world.tokens().borrow().svids.values().all(|state| *state == JwtState::Pending), "nobody else's instead");
}

/// Tokens live for minutes, so it is the switch that replaces them.
#[tokio::test]
async fn tokens_and_keys_follow_the_source_in_service_there_and_back() {
    let world = World::with("payments", "bundle_endpoint: {refresh_hint: 1s}", |_| {}).await.run().await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments"]).await;
    let mut token = client.token("jwt:payments").await;
    let (mut tokens, td) = (world.tokens(), TrustDomain::new("example.org").unwrap());
    let keys = |snapshot: &spiffe_sds::identity::JwtSnapshot| snapshot.bundles.get(&td).map_or(0, |it| it.keys().len());
    for (to, from) in [(&world.standby, &world.issuer), (&world.issuer, &world.standby)] {
        until(&mut tokens, |snapshot| keys(snapshot) == 1).await;
        if std::ptr::eq(to, &world.standby) {
            world.issuer.fail_with(Status::unavailable("down"));
        } else {
            world.issuer.recover();
        }
        // Both keys are shown before the token changes, and after.
        let both = until(&mut tokens, |snapshot| keys(snapshot) == 2).await.svids.clone();
        let held = |state: &JwtState| matches!(state, JwtState::Valid(svid) if svid.token.compact() == token);
        assert!(both.values().all(held), "the token of the source before is in service until verifiers know the keys");
        token = client.token("jwt:payments").await;
        assert!(to.verify_jwt(&token).is_some() && from.verify_jwt(&token).is_none());
        assert_eq!(keys(&tokens.borrow()), 2);
    }
    until(&mut tokens, |snapshot| keys(snapshot) == 1).await;
}

#[tokio::test]
async fn tokens_come_anew_on_demand() {
    let never_cached = JwtConfig { ttl: Duration::from_secs(300), cached_percent: 0 };
    let world = World::prepare("payments,billing", |issuer| issuer.jwt = never_cached).await;
    let refresh = world.refresh();
    let world = world.run().await;
    let mut client = Client::connect(&world).await;
    client.subscribe(&["jwt:payments"]).await;
    let first = client.token("jwt:payments").await;
    assert_eq!(refresh.all(), 2);
    // Tokens count seconds: within one they are the same but for the signature.
    assert_ne!(client.token("jwt:payments").await, first);
}
