//! Keeps web pages out.
//!
//! A browser on this machine can be made to send requests to loopback ports by any web page. It reads no answer across
//! origins, unless the page's own name points at us (DNS rebinding), so over TCP a request must be addressed to us by a
//! name that no stranger can point here. And browsers say that they are browsers.

use std::net::IpAddr;

use http::{HeaderMap, Request, StatusCode, Uri, Version, header};

use super::Transport;

/// Which hosts we answer to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    /// Names besides `localhost`.
    pub(crate) names: Vec<String>,
    /// Any IP address, not only loopback ones: a page cannot be rebound to a host without a name.
    pub(crate) any_address: bool,
}

/// What a refused request is answered with.
pub(crate) type Refusal = (StatusCode, &'static str);

const UNREADABLE: Refusal = (StatusCode::BAD_REQUEST, "the Host header is missing, repeated or unreadable");
const ANOTHER_HOST: Refusal = (
    StatusCode::MISDIRECTED_REQUEST,
    "not addressed to this server; use localhost or a loopback address, or add the name to `hosts` (admin: `admin.hosts`)",
);
const BROWSER: Refusal = (StatusCode::FORBIDDEN, "requests of web pages are not answered here");

impl Hosts {
    /// Whether a request for `host` (`name`, `name:port`, `[address]:port`) is meant for us.
    pub(crate) fn admit(&self, host: &str) -> bool {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').unwrap_or((rest, "no end")),
            None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
        };
        // Anything else after the name may be another name.
        if !port.strip_prefix(':').unwrap_or(port).bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        match name.parse::<IpAddr>() {
            Ok(address) => self.any_address || address.to_canonical().is_loopback(),
            Err(_) => ["localhost"]
                .into_iter()
                .chain(self.names.iter().map(String::as_str))
                .any(|ours| ours.eq_ignore_ascii_case(name)),
        }
    }

    /// Why a request to a listener that has nothing for web pages is not answered.
    pub(crate) fn refuse<B>(&self, request: &Request<B>, transport: Transport) -> Option<Refusal> {
        if is_of_a_browser(request.headers()) {
            return Some(BROWSER);
        }
        // No browser speaks HTTP/2 without TLS, and gRPC clients name the server as they like: Envoy by a cluster.
        let grpc = request.version() == Version::HTTP_2 && is_grpc(request.headers());
        if grpc { None } else { self.refuse_host(request, transport) }
    }

    /// Why a request that is addressed like this is not answered.
    pub(crate) fn refuse_host<B>(&self, request: &Request<B>, transport: Transport) -> Option<Refusal> {
        let Ok(host) = host(request.uri(), request.headers()) else { return Some(UNREADABLE) };
        // Nobody's browser speaks to Unix sockets, and clients there invent whatever host they like.
        let ours = transport == Transport::Unix || host.is_some_and(|host| self.admit(host));
        (!ours).then_some(ANOTHER_HOST)
    }
}

/// To whom the request is addressed; HTTP/2 says it in the URI.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, ()> {
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

fn is_of_a_browser(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let rest = content.and_then(|content| content.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(hosts.admit(host), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "evil.test:9",
            "localhost.evil.test",
            "127.0.0.1.evil.test:9",
            "10.0.0.1",
            "[::2]:9",
            "localhost@evil.test",
            "localhost:9@evil.test",
            "localhost:evil.test",
            "[::1].evil.test",
            "[::1",
            "[::1]:9@evil.test",
            "127.0.0.1 evil.test",
        ] {
            assert!(!hosts.admit(host), "{host}");
        }
        assert!(Hosts { names: Vec::new(), any_address: true }.admit("10.0.0.1:9"));
    }

    fn refused(transport: Transport, version: Version, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().version(version).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let refusal = Hosts::default().refuse(&request.body(()).unwrap(), transport);
        refusal.map(|(status, _)| status.as_u16())
    }

    #[test]
    fn web_pages_are_refused_by_what_browsers_say() {
        for transport in [Transport::Unix, Transport::Loopback, Transport::Public] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let said = |name, value| {
                    let headers = [("host", "localhost"), ("content-type", "application/grpc"), (name, value)];
                    refused(transport, version, &headers)
                };
                for (name, value) in [
                    ("origin", "http://localhost"),
                    ("origin", "null"),
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-mode", "no-cors"),
                    ("Sec-Fetch-Dest", "empty"),
                ] {
                    assert_eq!(said(name, value), Some(403), "{name}");
                }
                assert_eq!(said("user-agent", "Mozilla"), None);
            }
        }
    }

    #[test]
    fn the_host_counts_where_a_browser_could_be() {
        let evil = [("host", "evil.test")];
        assert_eq!(refused(Transport::Unix, Version::HTTP_11, &evil), None);
        assert_eq!(refused(Transport::Loopback, Version::HTTP_11, &evil), Some(421));
        assert_eq!(refused(Transport::Loopback, Version::HTTP_2, &evil), Some(421));
        assert_eq!(refused(Transport::Loopback, Version::HTTP_11, &[]), Some(421));
        assert_eq!(refused(Transport::Loopback, Version::HTTP_11, &[("host", "127.0.0.1:1")]), None);
        let twice = [("host", "localhost"), ("host", "evil.test")];
        assert_eq!(refused(Transport::Loopback, Version::HTTP_11, &twice), Some(400));
        for (kind, status) in [
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/grpc-web", Some(421)),
            ("text/plain", Some(421)),
        ] {
            let headers = [evil[0], ("content-type", kind)];
            assert_eq!(refused(Transport::Loopback, Version::HTTP_2, &headers), status, "{kind}");
            assert_eq!(refused(Transport::Loopback, Version::HTTP_11, &headers), Some(421), "{kind}");
        }
    }
}
