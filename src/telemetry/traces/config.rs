//! Where traces are sent.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use http::{Uri, uri::Scheme};

/// Where traces are sent, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The receiver, which speaks OTLP over gRPC.
    pub endpoint: Endpoint,
    /// `service.name` of the spans.
    pub service_name: String,
    /// Of a hundred rotations so many are traced, each whole or not at all.
    pub sample_percent: u8,
    /// A file of headers for every request, one `name: value` a line. They may be secret, so they stand in no configuration.
    pub headers_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
}

impl Config {
    /// How long one request may take unless something else is said.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Everything to `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let service_name = "spiffe-sds".to_owned();
        Self { endpoint, service_name, sample_percent: 100, headers_file: None, timeout: Self::TIMEOUT }
    }
}

/// The address of a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://host:port`.
    Http(Uri),
    /// `unix:///path`.
    Unix(PathBuf),
}

/// Why a text is no [`Endpoint`]. The text may hold a password, and is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Something else in front.
    #[error("is neither http:// nor unix://; write such as http://127.0.0.1:4317 or unix:///run/otel/otlp.sock")]
    Scheme,
    /// `https`.
    #[error("is https, which is not spoken to receivers; send to a collector on this machine, and let it encrypt")]
    Https,
    /// No host, or one that is none.
    #[error("has no host; write such as http://127.0.0.1:4317")]
    Host,
    /// More than scheme, host and port.
    #[error("has more than a host and a port; gRPC needs no path, and a password belongs into `headers_file`")]
    More,
    /// A relative path, or a directory.
    #[error("has no absolute path of a socket; write unix:///run/otel/otlp.sock, with three slashes")]
    Path,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file with the headers cannot be read.
    #[error("cannot read the headers of traces in {}; correct telemetry.traces.headers_file", path.display())]
    Headers {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it is no header. The line itself may be secret.
    #[error("line {line} of {} is no header; write `name: value`", path.display())]
    Header {
        /// Its path.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The exporter cannot be built.
    #[error("traces cannot be sent as configured: {0}")]
    Exporter(String),
    /// This build cannot send traces.
    #[error("this build cannot send traces; build with `--features otlp`")]
    NotBuilt,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let good = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
            return if good { Ok(Self::Unix(path.into())) } else { Err(EndpointError::Path) };
        }
        if text.starts_with("https:") {
            return Err(EndpointError::Https);
        }
        if !text.starts_with("http:") {
            return Err(EndpointError::Scheme);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::Host)?;
        if uri.host().is_none_or(str::is_empty) || uri.scheme() != Some(&Scheme::HTTP) {
            return Err(EndpointError::Host);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.contains('@') {
            return Err(EndpointError::More);
        }
        Ok(Self::Http(uri))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(uri) => write!(f, "http://{}", uri.authority().map_or("", |authority| authority.as_str())),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_host_and_a_port_or_a_socket() {
        let shown = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(shown("http://127.0.0.1:4317/"), Ok("http://127.0.0.1:4317".to_owned()));
        assert_eq!(shown("unix:/run/otlp.sock"), Ok("unix:///run/otlp.sock".to_owned()));
        assert_eq!(shown("unix:///run/otlp.sock"), Ok("unix:///run/otlp.sock".to_owned()));
        assert_eq!(shown("https://a:4317"), Err(EndpointError::Https));
        assert_eq!(shown("127.0.0.1:4317"), Err(EndpointError::Scheme));
        assert_eq!(shown("http://"), Err(EndpointError::Host));
        for more in ["http://a/v1/traces", "http://a?x", "http://user:password@a"] {
            assert_eq!(shown(more), Err(EndpointError::More), "{more}");
        }
        assert_eq!(shown("unix:otlp.sock"), Err(EndpointError::Path));
    }
}
