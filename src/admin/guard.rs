//! What every request must pass before a page sees it.
//!
//! A browser on this machine can be made to send requests to loopback ports by any web page. So over TCP the request
//! must be addressed to us by a name that no stranger can point at us (else: DNS rebinding), and a request that changes
//! something must not come from another site.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::time::timeout;

use crate::listen::{
    Transport,
    guard::{Hosts, Refusal, host},
};

/// Where everything is that changes something.
const ACTIONS: &str = "/actions/";
/// How long a page may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// On every answer: nothing is kept, guessed at, embedded, or loaded from elsewhere unless a page says so itself.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
];

/// Checks the request, bounds its time, and completes the answer's headers.
pub(super) async fn guard(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let mut response = match refuse(&hosts, &request) {
        Some((status, reason)) => {
            let path = request.uri().path();
            tracing::debug!(status = status.as_u16(), path, reason, "admin request refused");
            (status, format!("{reason}\n")).into_response()
        }
        None => timeout(PATIENCE, next.run(request))
            .await
            .unwrap_or_else(|_| (StatusCode::SERVICE_UNAVAILABLE, "the page took too long\n").into_response()),
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}

/// Why the request is not answered.
fn refuse(hosts: &Hosts, request: &Request<Body>) -> Option<Refusal> {
    let transport = request.extensions().get::<Transport>().copied().unwrap_or(Transport::Public);
    if let Some(refusal) = hosts.refuse_host(request, transport) {
        return Some(refusal);
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let foreign = is_foreign(request.headers(), host(request.uri(), request.headers()).ok().flatten());
    match (reads, foreign) {
        // A link to a page may be followed from anywhere; who follows it is no page that could read it.
        (true, true) if !is_navigation(request.headers()) => {
            Some((StatusCode::FORBIDDEN, "a page of another site must not read anything here"))
        }
        (false, true) => Some((StatusCode::FORBIDDEN, "a request from another site must not change anything here")),
        (false, false) if transport == Transport::Public && request.uri().path().starts_with(ACTIONS) => {
            Some((StatusCode::FORBIDDEN, "this listener is only read; act over the Unix socket or a loopback address"))
        }
        _ => None,
    }
}

/// Whether a browser says that another site's page sends this.
fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let origin = text("origin").is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != host);
    site || origin
}

fn is_navigation(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") && !headers.contains_key(header::ORIGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(via: Transport, method: Method, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = axum::http::Request::builder().method(method).uri("/").extension(via);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let hosts = Hosts { names: Vec::new(), any_address: false };
        refuse(&hosts, &request.body(Body::empty()).unwrap()).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn the_host_counts_over_tcp_only() {
        assert_eq!(refused(Transport::Loopback, Method::GET, &[("host", "localhost")]), None);
        assert_eq!(refused(Transport::Loopback, Method::GET, &[("host", "evil.test")]), Some(421));
        assert_eq!(refused(Transport::Loopback, Method::GET, &[]), Some(421));
        assert_eq!(refused(Transport::Unix, Method::GET, &[]), None);
        assert_eq!(refused(Transport::Unix, Method::GET, &[("host", "whatever")]), None);
        assert_eq!(
            refused(Transport::Loopback, Method::GET, &[("host", "localhost"), ("host", "evil.test")]),
            Some(400)
        );
    }

    #[test]
    fn changes_come_from_our_own_pages_or_from_no_page() {
        let post = |headers: &[(&str, &str)]| {
            refused(Transport::Loopback, Method::POST, &[&[("host", "localhost:9")], headers].concat())
        };
        assert_eq!(post(&[]), None);
        assert_eq!(post(&[("origin", "http://localhost:9"), ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(post(&[("origin", "http://localhost:8")]), Some(403));
        assert_eq!(post(&[("origin", "null")]), Some(403));
        assert_eq!(post(&[("sec-fetch-site", "cross-site")]), Some(403));
        assert_eq!(post(&[("sec-fetch-site", "same-site")]), Some(403));
    }

    #[test]
    fn other_sites_link_to_pages_and_do_not_load_them() {
        let get = |mode| {
            let headers = [("host", "localhost:9"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode)];
            refused(Transport::Loopback, Method::GET, &headers)
        };
        assert_eq!(get("navigate"), None);
        for mode in ["no-cors", "cors", "same-origin"] {
            assert_eq!(get(mode), Some(403), "{mode}");
        }
    }

    #[test]
    fn a_public_listener_is_only_read() {
        let hosts = Hosts { names: Vec::new(), any_address: true };
        let asked = |via: Transport, method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).extension(via).header("host", "192.0.2.1");
            refuse(&hosts, &request.body(Body::empty()).unwrap()).map(|(status, _)| status.as_u16())
        };
        for path in ["/actions/resend", "/actions/refresh-tokens", "/actions/log-level", "/actions/later"] {
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
                assert_eq!(asked(Transport::Public, method.clone(), path), Some(403), "{method} {path}");
                assert_eq!(asked(Transport::Loopback, method, path), None);
            }
        }
        assert_eq!(asked(Transport::Public, Method::GET, "/debug/sources"), None);
        assert_eq!(
            asked(Transport::Public, Method::POST, "/envoy.service.status.v3.ClientStatusDiscoveryService/x"),
            None
        );
    }
}
