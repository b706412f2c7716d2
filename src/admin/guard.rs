//! What every request must pass before a page sees it.
//!
//! A browser on this machine can be made to send requests to loopback ports by any web page. So over TCP the request
//! must be addressed to us by a name that no stranger can point at us (else: DNS rebinding), and a request that changes
//! something must not come from another site.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::time::timeout;

use super::Via;

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

/// Which hosts we answer to.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Names besides `localhost`.
    pub(super) names: Vec<String>,
    /// Any IP address, not only loopback ones: a page cannot be rebound to a host without a name.
    pub(super) any_address: bool,
}

impl Hosts {
    /// Whether a request for `host` (`name`, `name:port`, `[address]:port`) is meant for us.
    fn admit(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        match name.parse::<IpAddr>() {
            Ok(address) => self.any_address || address.to_canonical().is_loopback(),
            Err(_) => ["localhost"]
                .into_iter()
                .chain(self.names.iter().map(String::as_str))
                .any(|ours| ours.eq_ignore_ascii_case(name)),
        }
    }
}

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
fn refuse(hosts: &Hosts, request: &Request<Body>) -> Option<(StatusCode, &'static str)> {
    let tcp = request.extensions().get::<Via>().is_none_or(|via| *via == Via::Tcp);
    let Ok(host) = host(request.uri(), request.headers()) else {
        return Some((StatusCode::BAD_REQUEST, "the Host header is missing, repeated or unreadable"));
    };
    // Nobody's browser speaks to Unix sockets, and clients there invent whatever host they like.
    if tcp && !host.is_some_and(|host| hosts.admit(host)) {
        let reason =
            "not addressed to this server; use localhost or a loopback address, or add the name to admin.hosts";
        return Some((StatusCode::MISDIRECTED_REQUEST, reason));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && is_foreign(request.headers(), host) {
        return Some((StatusCode::FORBIDDEN, "a request from another site must not change anything here"));
    }
    None
}

/// To whom the request is addressed; HTTP/2 says it in the URI.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, ()> {
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    let mut values = headers.get_all(header::HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(());
    }
    first.map(|value| value.to_str().map_err(|_| ())).transpose()
}

/// Whether a browser says that another site's page sends this.
fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let site = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let origin = text("origin").is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != host);
    site || origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(hosts: &Hosts, host: &str) -> bool {
        hosts.admit(host)
    }

    #[test]
    fn only_names_that_nobody_else_controls() {
        let hosts = Hosts { names: vec!["sds.internal".to_owned()], any_address: false };
        for host in [
            "localhost",
            "localhost:9",
            "LOCALHOST:9",
            "127.0.0.1:9",
            "127.8.8.8",
            "[::1]:9",
            "[::1]",
            "sds.internal:9",
            "[::ffff:127.0.0.1]:9",
        ] {
            assert!(admitted(&hosts, host), "{host}");
        }
        for host in
            ["", "evil.test", "evil.test:9", "localhost.evil.test", "127.0.0.1.evil.test:9", "10.0.0.1", "[::2]:9"]
        {
            assert!(!admitted(&hosts, host), "{host}");
        }
        assert!(admitted(&Hosts { names: Vec::new(), any_address: true }, "10.0.0.1:9"));
    }

    fn refused(via: Via, method: Method, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = axum::http::Request::builder().method(method).uri("/").extension(via);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let hosts = Hosts { names: Vec::new(), any_address: false };
        refuse(&hosts, &request.body(Body::empty()).unwrap()).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn the_host_counts_over_tcp_only() {
        assert_eq!(refused(Via::Tcp, Method::GET, &[("host", "localhost")]), None);
        assert_eq!(refused(Via::Tcp, Method::GET, &[("host", "evil.test")]), Some(421));
        assert_eq!(refused(Via::Tcp, Method::GET, &[]), Some(421));
        assert_eq!(refused(Via::Unix, Method::GET, &[]), None);
        assert_eq!(refused(Via::Unix, Method::GET, &[("host", "whatever")]), None);
        assert_eq!(refused(Via::Tcp, Method::GET, &[("host", "localhost"), ("host", "evil.test")]), Some(400));
    }

    #[test]
    fn changes_come_from_our_own_pages_or_from_no_page() {
        let post =
            |headers: &[(&str, &str)]| refused(Via::Tcp, Method::POST, &[&[("host", "localhost:9")], headers].concat());
        assert_eq!(post(&[]), None);
        assert_eq!(post(&[("origin", "http://localhost:9"), ("sec-fetch-site", "same-origin")]), None);
        assert_eq!(post(&[("origin", "http://localhost:8")]), Some(403));
        assert_eq!(post(&[("origin", "null")]), Some(403));
        assert_eq!(post(&[("sec-fetch-site", "cross-site")]), Some(403));
        assert_eq!(post(&[("sec-fetch-site", "same-site")]), Some(403));
    }
}
