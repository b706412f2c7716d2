use std::time::UNIX_EPOCH;

use super::*;
use crate::{dev::Identity, source::Endpoint};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap()
}

fn config(identities: &[(&str, Option<&str>)]) -> Config {
    let mut config = Config::new(td("example.org"), Endpoint::Unix("/unused".into()));
    config.identities =
        identities.iter().map(|(path, hint)| Identity { id: id(path), hint: hint.map(str::to_owned) }).collect();
    config
}

fn state(identities: &[(&str, Option<&str>)]) -> State {
    State::new(&config(identities), now()).unwrap().0
}

fn order(state: &State) -> Vec<String> {
    let svids = state.svid_response().map(|it| it.svids).unwrap_or_default();
    svids.iter().map(|it| format!("{}#{}", it.spiffe_id.trim_start_matches("spiffe://example.org/"), it.hint)).collect()
}

#[test]
fn the_message_keeps_the_order_and_the_hints() {
    let mut state = state(&[("a", None), ("b", Some("blue")), ("c", None)]);
    assert_eq!(order(&state), ["a#", "b#blue", "c#"]);
    state.set_order(&[id("c"), id("unknown"), id("b")]);
    assert_eq!(order(&state), ["c#", "b#blue", "a#"]);
    state.issue(&id("b"), Some("navy"), now()).unwrap();
    assert_eq!(order(&state), ["c#", "b#navy", "a#"], "an identity that is there keeps its place");
}

#[test]
fn rotation_renews_leaf_and_key_and_nothing_else() {
    let mut state = state(&[("a", Some("red")), ("b", None)]);
    let before = state.svid_response().unwrap();
    let serials: Vec<_> = state.svids().iter().map(|it| it.serial.clone()).collect();

    let event = state.rotate_one(&id("a"), now()).unwrap();
    let after = state.svid_response().unwrap();
    assert_eq!(after.svids[1], before.svids[1]);
    assert_ne!(after.svids[0].x509_svid, before.svids[0].x509_svid);
    assert_ne!(after.svids[0].x509_svid_key, before.svids[0].x509_svid_key);
    assert_eq!(after.svids[0].bundle, before.svids[0].bundle);
    assert_eq!(after.svids[0].hint, "red");
    assert!(matches!(event, Event::Rotated { previous, serial, .. }
        if previous == serials[0] && serial == state.svids()[0].serial));

    assert_eq!(state.rotate(now()).unwrap().len(), 2);
    assert!(state.svids().iter().all(|it| !serials.contains(&it.serial)));
    assert_eq!(order(&state), ["a#red", "b#"]);
}

#[test]
fn what_cannot_be_issued_is_refused_and_changes_nothing() {
    let mut state = state(&[("a", Some("red"))]);
    let before = state.svid_response();
    let foreign = SpiffeId::new("spiffe://other.org/a").unwrap();
    let pathless = SpiffeId::new("spiffe://example.org").unwrap();
    assert!(matches!(state.issue(&foreign, None, now()), Err(DevError::ForeignId { .. })));
    assert!(matches!(state.issue(&pathless, None, now()), Err(DevError::NoPath(_))));
    assert!(
        matches!(state.issue(&id("b"), Some("red"), now()), Err(DevError::DuplicateHint { id: owner, .. }) if owner == id("a"))
    );
    assert!(matches!(state.rotate_one(&id("b"), now()), Err(DevError::UnknownId(_))));
    assert!(matches!(state.revoke(&id("b")), Err(DevError::UnknownId(_))));
    assert!(matches!(state.federate(td("example.org"), now()), Err(DevError::OwnTrustDomain(_))));
    assert!(matches!(state.defederate(&td("other.org")), Err(DevError::UnknownTrustDomain(_))));
    assert!(matches!(state.set_ttl(Duration::from_millis(1999)), Err(DevError::Ttl(_))));
    assert_eq!(state.svid_response(), before);
}

#[test]
fn without_identities_only_bundles_are_left() {
    let mut state = state(&[("a", None)]);
    state.revoke(&id("a")).unwrap();
    assert_eq!(state.svid_response(), None);
    assert!(state.bundles_response().bundles.contains_key("spiffe://example.org"));
}

#[test]
fn federated_bundles_come_and_go() {
    let mut config = config(&[("a", None)]);
    config.federated = vec![td("one.org")];
    let (mut state, _) = State::new(&config, now()).unwrap();
    let elsewhere = Ca::new(td("two.org"), false, now()).unwrap();
    let bundle = TrustBundle::new(td("two.org"), elsewhere.roots().cloned().collect());
    state.federate_with(bundle.clone()).unwrap();

    let response = state.svid_response().unwrap();
    assert_eq!(response.federated_bundles.len(), 2);
    assert_eq!(response.federated_bundles["spiffe://two.org"], bundle.authorities()[0].der());
    assert_eq!(state.bundles_response().bundles.len(), 3);
    assert_eq!(state.bundle(&td("two.org")), Some(bundle));

    let before = response.federated_bundles["spiffe://one.org"].len();
    state.ca_step(&td("one.org"), CaStep::Prepare, now()).unwrap();
    assert!(state.svid_response().unwrap().federated_bundles["spiffe://one.org"].len() > before);
    assert!(state.ca_step(&td("two.org"), CaStep::Prepare, now()).is_err(), "its CA lives elsewhere");

    state.defederate(&td("one.org")).unwrap();
    assert!(!state.svid_response().unwrap().federated_bundles.contains_key("spiffe://one.org"));
}

#[test]
fn activating_the_own_ca_replaces_every_leaf_at_once() {
    let mut state = state(&[("a", None), ("b", None)]);
    let serials: Vec<_> = state.svids().iter().map(|it| it.serial.clone()).collect();
    state.ca_step(&td("example.org"), CaStep::Prepare, now()).unwrap();
    assert_eq!(state.svids().iter().map(|it| it.serial.clone()).collect::<Vec<_>>(), serials);
    let events = state.ca_step(&td("example.org"), CaStep::Activate, now()).unwrap();
    assert!(matches!(
        events.as_slice(),
        [Event::Ca { step: CaStep::Activate, .. }, Event::Rotated { .. }, Event::Rotated { .. }]
    ));
    assert!(state.svids().iter().all(|it| !serials.contains(&it.serial)));
}

#[test]
fn anything_can_be_signed_by_any_ca_that_is_here() {
    let mut state = state(&[]);
    state.federate(td("one.org"), now()).unwrap();
    state.federate_with(TrustBundle::new(td("two.org"), Vec::new())).unwrap();
    let template = Template::leaf(id("a"), now(), Duration::from_secs(60));
    assert!(state.sign(&template, &td("example.org")).is_ok());
    assert!(state.sign(&template, &td("one.org")).is_ok());
    assert!(matches!(state.sign(&template, &td("two.org")), Err(DevError::UnknownTrustDomain(_))));
}
