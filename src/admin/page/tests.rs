use axum::{Router, body::Body, http::Request, routing::get};
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::{
    admin::debug,
    server::registry::crowd,
    telemetry::journal::{Journal, Weight},
};

/// The pages of a server with these streams, and nothing else.
fn router(streams: crate::server::Streams) -> Router {
    let sight = Sight {
        started: SystemTime::now(),
        readiness: crate::lifecycle::Readiness::default(),
        sources: watch::Sender::new(Arc::from([])).subscribe(),
        refused: watch::Sender::new(Arc::from([])).subscribe(),
        source: watch::Sender::default().subscribe(),
        configuration: watch::Sender::default().subscribe(),
        identities: watch::Sender::default().subscribe(),
        tokens: watch::Sender::default().subscribe(),
        withdrawn: watch::Sender::default().subscribe(),
        streams,
        journal: Journal::default(),
        actions: super::super::actions::Actions::default(),
    };
    for number in 0..3_000 {
        sight.journal.note(Weight::Notice, "resource_sent", "default", &number.to_string(), &"envoy");
    }
    Router::new()
        .route("/", get(page))
        .route("/debug/clients", get(debug::clients))
        .layer(Extension(Transport::Unix))
        .with_state(Arc::new(sight))
}

async fn body(router: &Router, path: &str) -> String {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn links_carry_whatever_was_searched_for() {
    assert_eq!(encoded("a b&c=\"<ü"), "a%20b%26c%3D%22%3C%C3%BC");
}

#[test]
fn nothing_that_nobody_sees_gets_onto_the_page() {
    let mut html = String::new();
    Shown.write_escaped_str(&mut html, "<b>\u{202e}\u{2066}\u{200b}\u{feff}\u{1b}[2J\n").unwrap();
    assert_eq!(html, "&#60;b&#62;\\u{202e}\\u{2066}\\u{200b}\\u{feff}\\u{1b}[2J\n");
}

#[test]
fn nonces_differ() {
    assert_ne!(nonce(), nonce());
}

#[tokio::test]
async fn ten_thousand_streams_fit_on_pages() {
    let (streams, _seats) = crowd(10_000);
    let router = router(streams);
    let clients = |html: &str| html.matches("<tbody role=\"rowgroup\">\n    <tr role=\"row\">\n      <th").count();
    let first = body(&router, "/").await;
    assert_eq!(clients(&first), 50);
    assert!(first.contains("Streams 1 to 50 of 10000") && first.contains("29900 up to date"), "{first}");
    assert!(first.len() < 250_000, "a page is {} bytes", first.len());
    let last = body(&router, "/?offset=9990&q=envoy").await;
    assert_eq!(clients(&last), 10);
    assert!(last.contains("Streams 9991 to 10000 of 10000") && last.contains("envoy-09999"));
    assert!(!last.contains("rel=\"next\"") && last.contains("offset=9940&#38;limit=50&#38;q=envoy#clients"), "{last}");
    let refused = body(&router, "/?state=error&q=envoy-05").await;
    assert_eq!(clients(&refused), 10);
    let json: Value = serde_json::from_str(&body(&router, "/debug/clients?state=error&limit=1000").await).unwrap();
    assert_eq!((&json["matched"], json["streams"].as_array().unwrap().len()), (&100.into(), 100));
}
