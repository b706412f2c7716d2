//! The endpoint's clock: what waits, and for how long.

use serde_json::json;

use super::*;
use crate::identity::{IdentitySnapshot, IdentityStore, JwtBundle, TrustBundle, TrustDomain, Workload};
use pages::Found;

fn td() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn x509() -> Availability {
    let bundles = [(td(), Arc::new(TrustBundle::new(td(), Vec::new())))].into();
    Availability::Ready(Arc::new(IdentitySnapshot { bundles, trust_domain: Some(td()), ..IdentitySnapshot::default() }))
}

fn jwt() -> JwtSnapshot {
    let key = json!({"kty": "EC", "kid": "a", "crv": "P-256", "x": "Xx", "y": "Yy"});
    let bundles = [(td(), Arc::new(JwtBundle::new(td(), vec![key])))].into();
    JwtSnapshot { bundles, ..JwtSnapshot::default() }
}

/// Follows a store in a task of its own.
fn start(store: &IdentityStore) -> (watch::Receiver<Arc<Pages>>, CancellationToken) {
    let (publish, pages) = watch::channel(Arc::new(Pages::default()));
    let stop = CancellationToken::new();
    let (x509, jwt) = (store.watch(&Workload::Own), store.watch_jwt(&Workload::Own));
    tokio::spawn(follow(Renderer::new(Duration::from_secs(60)), x509, jwt, publish, stop.clone()));
    (pages, stop)
}

fn keys(pages: &Pages, path: &str) -> Option<usize> {
    let Found::Page(page) = pages.find(path) else { return None };
    let document: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
    Some(document["keys"].as_array().unwrap().len())
}

#[tokio::test(start_paused = true)]
async fn a_bundle_waits_for_jwt_keys_but_not_for_ever() {
    let store = IdentityStore::new();
    let (mut pages, _stop) = start(&store);
    let begun = Instant::now();
    store.publish(&Workload::Own, x509());
    pages.wait_for(|pages| keys(pages, "/bundle").is_some()).await.unwrap();
    assert!((JWT_KEYS_PATIENCE..JWT_KEYS_PATIENCE * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(keys(&pages.borrow(), "/bundle"), Some(0));

    store.publish_jwt(&Workload::Own, jwt());
    pages.wait_for(|pages| keys(pages, "/bundle") == Some(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_jwt_keys_a_bundle_is_there_at_once_and_whole() {
    let store = IdentityStore::new();
    let (mut pages, _stop) = start(&store);
    let begun = Instant::now();
    store.publish(&Workload::Own, x509());
    store.publish_jwt(&Workload::Own, jwt());
    let first = pages.wait_for(|pages| keys(pages, "/bundle").is_some()).await.unwrap();
    assert_eq!(keys(&first, "/bundle"), Some(1));
    assert!(begun.elapsed() < JWT_KEYS_PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_new_token_renders_nothing_anew() {
    let store = IdentityStore::new();
    let (mut pages, _stop) = start(&store);
    store.publish(&Workload::Own, x509());
    store.publish_jwt(&Workload::Own, jwt());
    pages.wait_for(|pages| keys(pages, "/bundle") == Some(1)).await.unwrap();
    let request = crate::identity::JwtRequest {
        subject: crate::identity::JwtSubject::Default,
        audience: ["backend".to_owned()].into(),
    };
    let svids = [(request, crate::identity::JwtState::Pending)].into();
    assert!(store.publish_jwt(&Workload::Own, JwtSnapshot { svids, ..jwt() }));
    // Long enough for the other task in paused time; nothing must come.
    let changed = tokio::time::timeout(Duration::from_secs(1), pages.changed()).await;
    assert!(changed.is_err(), "rendered again");
}
