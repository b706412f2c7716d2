//! Requests and the responses they get.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::super::pages::{Known, Renderer};
use super::*;
use crate::identity::{Availability, IdentitySnapshot, JwtBundle, JwtSnapshot, TrustBundle, TrustDomain};

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// Trust domains with X.509 trust; the first one is our own.
fn x509(domains: &[&str]) -> Availability {
    let bundles = domains.iter().map(|name| (td(name), Arc::new(TrustBundle::new(td(name), Vec::new()))));
    let trust_domain = domains.first().map(|name| td(name));
    Availability::Ready(Arc::new(IdentitySnapshot {
        bundles: bundles.collect(),
        trust_domain,
        ..IdentitySnapshot::default()
    }))
}

/// Trust domains with one JWT key each, named after them.
fn jwt(domains: &[&str]) -> JwtSnapshot {
    let key = |name: &str| json!({"kty": "EC", "kid": format!("key of {name}"), "crv": "P-256", "x": "Xx", "y": "Yy"});
    let bundles = domains.iter().map(|name| (td(name), Arc::new(JwtBundle::new(td(name), vec![key(name)]))));
    JwtSnapshot { bundles: bundles.collect(), ..JwtSnapshot::default() }
}

fn rendered(x509: &Availability, jwt: &JwtSnapshot) -> Pages {
    Renderer::new(Duration::from_secs(30)).render(&Known::new(x509, jwt), SystemTime::UNIX_EPOCH)
}

fn both() -> Pages {
    rendered(&x509(&["example.org", "b.test"]), &jwt(&["example.org", "b.test"]))
}

fn ask(pages: &Pages, method: Method, path: &str, held: Option<&str>) -> Response<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(held) = held {
        request = request.header(header::IF_NONE_MATCH, held);
    }
    answer(pages, &request.body(()).unwrap())
}

fn get(pages: &Pages, path: &str) -> Response<Full<Bytes>> {
    ask(pages, Method::GET, path, None)
}

fn status(pages: &Pages, path: &str) -> u16 {
    get(pages, path).status().as_u16()
}

fn body(response: Response<Full<Bytes>>) -> Bytes {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(response.into_body().collect()).poll(&mut context) {
        std::task::Poll::Ready(body) => body.unwrap().to_bytes(),
        std::task::Poll::Pending => panic!("the body is there at once"),
    }
}

fn parsed(response: Response<Full<Bytes>>) -> Value {
    serde_json::from_slice(&body(response)).unwrap()
}

fn header(response: &Response<Full<Bytes>>, name: header::HeaderName) -> &str {
    response.headers()[name].to_str().unwrap()
}

#[test]
fn each_trust_domain_has_its_own_documents() {
    let pages = both();
    let kids = |path: &str| {
        let document = parsed(get(&pages, path));
        let keys = document["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for kind in ["jwks", "bundle"] {
        assert_eq!(kids(&format!("/{kind}/example.org")), ["key of example.org"]);
        assert_eq!(kids(&format!("/{kind}/b.test")), ["key of b.test"]);
        assert_eq!(kids(&format!("/{kind}")), ["key of example.org"], "the own domain's");
    }
    assert_eq!(
        parsed(get(&pages, "/?a=query")),
        json!({
            "trust_domain": "example.org",
            "jwks": {"b.test": "/jwks/b.test", "example.org": "/jwks/example.org"},
            "bundles": {"b.test": "/bundle/b.test", "example.org": "/bundle/example.org"},
        })
    );
}

#[test]
fn a_document_says_what_it_is_and_how_long_it_is_good_for() {
    let pages = both();
    let set = get(&pages, "/jwks/b.test");
    assert_eq!(header(&set, header::CONTENT_TYPE), "application/jwk-set+json");
    assert_eq!(header(&set, header::CACHE_CONTROL), "max-age=30");
    let bundle = get(&pages, "/bundle/b.test");
    assert_eq!(header(&bundle, header::CONTENT_TYPE), "application/json");
    assert_eq!(parsed(bundle)["spiffe_refresh_hint"], 30);
}

#[test]
fn head_is_get_without_the_body() {
    let pages = both();
    for path in ["/jwks/b.test", "/nowhere"] {
        let (get, head) = (get(&pages, path), ask(&pages, Method::HEAD, path, None));
        assert_eq!((get.status(), get.headers()), (head.status(), head.headers()));
        let length = header(&get, header::CONTENT_LENGTH).to_owned();
        assert_eq!(length, body(get).len().to_string());
        assert!(body(head).is_empty());
    }
}

#[test]
fn whoever_has_it_already_gets_304() {
    let pages = both();
    let etag = header(&get(&pages, "/jwks/b.test"), header::ETAG).to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 30, "{etag} is strong");
    let status = |held: &str| ask(&pages, Method::GET, "/jwks/b.test", Some(held)).status().as_u16();
    let other = header(&get(&pages, "/jwks/example.org"), header::ETAG).to_owned();
    for held in [etag.clone(), format!("W/{etag}"), format!("{other} , {etag}"), "*".to_owned()] {
        assert_eq!(status(&held), 304, "{held}");
    }
    for held in [other, etag.trim_matches('"').to_owned(), String::new(), "\"".to_owned()] {
        assert_eq!(status(&held), 200, "{held}");
    }
    let unchanged = ask(&pages, Method::HEAD, "/jwks/b.test", Some(&etag));
    assert_eq!((unchanged.status().as_u16(), header(&unchanged, header::ETAG)), (304, etag.as_str()));
    assert_eq!(header(&unchanged, header::CACHE_CONTROL), "max-age=30");
    assert!(body(unchanged).is_empty());
}

#[test]
fn other_methods_are_told_which_ones_there_are() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
        let refused = ask(&both(), method, "/jwks/b.test", None);
        assert_eq!((refused.status().as_u16(), header(&refused, header::ALLOW)), (405, "GET, HEAD"));
    }
}

#[test]
fn what_there_is_not_is_404() {
    let pages = both();
    for path in
        ["/jwks/c.test", "/bundle/c.test", "/jwks/", "/jwks/b.test/", "/jwks/B.test", "/jwks//b.test", "/x", "//"]
    {
        assert_eq!(status(&pages, path), 404, "{path}");
    }
    assert_eq!(header(&get(&pages, "/x"), header::CACHE_CONTROL), "no-store");
}

#[test]
fn what_is_not_known_yet_is_503() {
    let pending = Pages::default();
    for path in ["/", "/jwks", "/bundle", "/jwks/b.test", "/bundle/b.test"] {
        let response = get(&pending, path);
        assert_eq!(response.status().as_u16(), 503, "{path}");
        assert_eq!(header(&response, header::RETRY_AFTER), "1");
    }
    assert_eq!(status(&pending, "/x"), 404, "never a document, whatever the source says");
    assert_eq!(status(&pending, "/jwks/no trust domain".replace(' ', "%20").as_str()), 404);

    let x509_only = rendered(&x509(&["example.org"]), &JwtSnapshot::default());
    let found = |path| status(&x509_only, path);
    assert_eq!([found("/"), found("/jwks"), found("/jwks/example.org"), found("/bundle/x")], [200, 503, 503, 404]);
    assert_eq!([found("/bundle"), found("/bundle/example.org")], [200, 200]);

    for unknown in [Availability::Pending, Availability::Denied("no identity issued".into())] {
        let jwt_only = rendered(&unknown, &jwt(&["example.org"]));
        let found = |path| status(&jwt_only, path);
        assert_eq!([found("/jwks"), found("/jwks/example.org"), found("/jwks/b.test")], [503, 200, 404]);
        assert_eq!([found("/"), found("/bundle/example.org")], [200, 503]);
    }
}

#[test]
fn a_verifier_without_a_domain_of_its_own_has_no_short_paths() {
    let pages = rendered(&x509(&[]), &jwt(&["b.test"]));
    assert_eq!([status(&pages, "/jwks"), status(&pages, "/bundle"), status(&pages, "/jwks/b.test")], [404, 404, 200]);
    assert_eq!(parsed(get(&pages, "/"))["trust_domain"], Value::Null);
}
