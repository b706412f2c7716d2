//! Sends events to a URL as JSON, signed as Standard Webhooks 1.0 describes (<https://www.standardwebhooks.com>), so that
//! receivers verify them with a library of their language.

mod connect;
mod sign;

use std::{io, path::PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, uri::Scheme};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::plan::Run;

pub use connect::ConnectError;
pub use sign::KeyError;

/// Where to send events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `http` or `https`, with a host.
    pub url: Uri,
    /// Connects to this Unix socket instead of the URL's host.
    pub socket: Option<PathBuf>,
    /// Holds the key that signs; read each time. Without one nothing is signed.
    pub key_file: Option<PathBuf>,
    /// PEM certificates to trust instead of those that the operating system trusts; read each time.
    pub ca_file: Option<PathBuf>,
    /// Events that wait, before the oldest are dropped.
    pub queue: usize,
}

/// Why the receiver did not get it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// Nobody there.
    #[error("cannot connect to {url}")]
    Connect {
        /// Where to.
        url: String,
        /// Why not.
        source: ConnectError,
    },
    /// The key is missing; unsigned it must not go.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The connection broke.
    #[error("the exchange with {url} failed")]
    Exchange {
        /// With whom.
        url: String,
        /// How.
        source: hyper::Error,
    },
    /// The answer is not 2xx.
    #[error("{url} answered {status}{}", hint(*status))]
    Refused {
        /// Who.
        url: String,
        /// What.
        status: StatusCode,
    },
    /// The request cannot be written.
    #[error("no request can be made for {url}")]
    Request {
        /// Where to.
        url: String,
        /// Why not.
        source: http::Error,
    },
    /// There is no randomness, or no thread.
    #[error("the operating system has no resources for a delivery")]
    Resources(#[source] io::Error),
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        300..=399 => "; redirects are not followed, write the final URL",
        401 | 403 => "; does it have the same key?",
        404 | 405 | 410 => "; check the path of the URL",
        _ => "",
    }
}

/// One attempt. The caller bounds its time.
pub(super) async fn deliver(config: &Config, run: &Run) -> Result<(), WebhookError> {
    let url = || shown(&config.url);
    let body = serde_json::Value::Object(run.notice.fields(run.attempt)).to_string();
    let request = Request::builder()
        .method(Method::POST)
        .uri(config.url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, config.url.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("spiffe-sds/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close");
    let request = sign::headers(config.key_file.as_deref(), run, &body)
        .await?
        .into_iter()
        .fold(request, |request, (name, value)| request.header(name, value));
    let request =
        request.body(Full::new(Bytes::from(body))).map_err(|source| WebhookError::Request { url: url(), source })?;

    let stream = connect::connect(config).await.map_err(|source| WebhookError::Connect { url: url(), source })?;
    let exchange = |source| WebhookError::Exchange { url: url(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(exchange)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    // The body of the answer says nothing that is wanted: it goes with the connection.
    let status = sender.send_request(request).await.map_err(exchange)?.status();
    if status.is_success() { Ok(()) } else { Err(WebhookError::Refused { url: url(), status }) }
}

/// The address without what may be a credential: path and query, where such services keep their tokens, and user names.
fn shown(url: &Uri) -> String {
    let (scheme, host) = (url.scheme_str().unwrap_or("http"), url.host().unwrap_or_default());
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let hidden = if url.path_and_query().is_none_or(|path| path == "/") { "" } else { "(hidden)" };
    format!("{scheme}://{host}{port}/{hidden}")
}

/// Whether the URL asks for TLS.
fn is_tls(url: &Uri) -> bool {
    url.scheme() == Some(&Scheme::HTTPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_credential_is_not_shown() {
        let text = |url: &str| shown(&url.parse().unwrap());
        assert_eq!(text("https://user:word@hooks.test:8443/T0/secret?key=1"), "https://hooks.test:8443/(hidden)");
        assert_eq!(text("http://[::1]:80/?key=1"), "http://[::1]:80/(hidden)");
        assert_eq!(text("http://hooks.test"), "http://hooks.test/");
    }
}
