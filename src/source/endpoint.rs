//! The address of a SPIFFE endpoint, as `SPIFFE_ENDPOINT_SOCKET` spells it.

use std::{
    ffi::OsStr,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// Where a SPIFFE endpoint listens: `unix:///absolute/path` or `tcp://IP:port` (SPIFFE Workload Endpoint, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix domain socket.
    Unix(PathBuf),
    /// A TCP address; the specification allows IP literals only.
    Tcp(SocketAddr),
}

/// Why a text is not the address of a SPIFFE endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Neither configuration nor environment name one.
    #[error("no SPIFFE endpoint is given; set {} to unix:///absolute/path or tcp://IP:port", Endpoint::ENV)]
    NotSet,
    /// The variable holds something that is not text.
    #[error("{} is not valid UTF-8; write unix:///absolute/path or tcp://IP:port", Endpoint::ENV)]
    NotUnicode,
    /// Something else than `unix:` or `tcp:` in front, or nothing.
    #[error("{0:?} is no SPIFFE endpoint; write unix:///absolute/path or tcp://IP:port")]
    UnknownScheme(String),
    /// `unix://relative/path`: what follows the two slashes would be a host name.
    #[error("{0:?} has no absolute path; write unix:///absolute/path, with three slashes")]
    NotAbsolute(String),
    /// `unix:///`, or a path that ends in a slash.
    #[error("{0:?} names a directory; write the path of the socket itself")]
    NotASocket(String),
    /// `?`, `#` or NUL: the specification allows a path and nothing else.
    #[error("{0:?} has more than a path; take the query, fragment or NUL byte away")]
    NotOnlyAPath(String),
    /// Longer than what fits into `sockaddr_un`.
    #[error("{0:?} is longer than the 107 bytes that the operating system allows for a socket; use a shorter path")]
    TooLong(String),
    /// `tcp://name:port`: the specification allows IP literals only.
    #[error("{0:?} names no IP address; write tcp://IP:port, the specification allows no host names")]
    NotAnIp(String),
    /// No port, or port 0.
    #[error("{0:?} has no port; write tcp://IP:port, for IPv6 tcp://[IP]:port")]
    NoPort(String),
    /// `tcp://IP:port/path`.
    #[error("{0:?} has a path; write tcp://IP:port and nothing behind it")]
    TcpPath(String),
}

impl Endpoint {
    /// The environment variable that names the endpoint wherever nothing else does.
    pub const ENV: &str = "SPIFFE_ENDPOINT_SOCKET";

    /// Room for a path in `sockaddr_un`, without the closing NUL.
    const PATH_BYTES: usize = 107;

    /// The endpoint that the value of [`Endpoint::ENV`] names.
    ///
    /// # Errors
    /// [`EndpointError::NotSet`] for none and for the empty one, else what [`Endpoint::from_str`] finds.
    pub fn from_env(value: Option<&OsStr>) -> Result<Self, EndpointError> {
        let value = value.filter(|value| !value.is_empty()).ok_or(EndpointError::NotSet)?;
        value.to_str().ok_or(EndpointError::NotUnicode)?.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("unix:") {
            unix(text, rest)
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            tcp(text, rest)
        } else {
            Err(EndpointError::UnknownScheme(text.to_owned()))
        }
    }
}

fn unix(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    // "unix:/path" is not in the specification, but an equal URI, and what many tools print.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let problem = if !path.starts_with('/') {
        EndpointError::NotAbsolute
    } else if path.contains(['?', '#', '\0']) {
        EndpointError::NotOnlyAPath
    } else if path.ends_with('/') {
        EndpointError::NotASocket
    } else if path.len() > Endpoint::PATH_BYTES {
        EndpointError::TooLong
    } else {
        return Ok(Endpoint::Unix(PathBuf::from(path)));
    };
    Err(problem(text.to_owned()))
}

fn tcp(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let problem = match host.parse::<SocketAddr>() {
        Ok(address) if host.len() == rest.len() && address.port() != 0 => return Ok(Endpoint::Tcp(address)),
        Ok(address) if address.port() == 0 => EndpointError::NoPort,
        Ok(_) => EndpointError::TcpPath,
        Err(_) if is_ip(host.trim_end_matches(':')) => EndpointError::NoPort,
        Err(_) => EndpointError::NotAnIp,
    };
    Err(problem(text.to_owned()))
}

fn is_ip(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_forms_and_how_they_print() {
        for (text, shown) in [
            ("unix:///run/spire/agent.sock", "unix:///run/spire/agent.sock"),
            ("unix:/run/spire/agent.sock", "unix:///run/spire/agent.sock"),
            ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("tcp://[::1]:8000", "tcp://[::1]:8000"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn refused_forms_say_what_to_write() {
        use EndpointError as E;
        let long = format!("unix:///{}", "a".repeat(107));
        for (text, error) in [
            ("", E::UnknownScheme as fn(String) -> E),
            ("/run/agent.sock", E::UnknownScheme),
            ("http://127.0.0.1:80", E::UnknownScheme),
            ("tcp:127.0.0.1:80", E::UnknownScheme),
            ("unix://relative", E::NotAbsolute),
            ("unix:relative", E::NotAbsolute),
            ("unix:", E::NotAbsolute),
            ("unix:///", E::NotASocket),
            ("unix:///run/spire/", E::NotASocket),
            ("unix:///a.sock?x=1", E::NotOnlyAPath),
            ("unix:///a.sock#x", E::NotOnlyAPath),
            (&long, E::TooLong),
            ("tcp://localhost:80", E::NotAnIp),
            ("tcp://user@127.0.0.1:80", E::NotAnIp),
            ("tcp://127.0.0.1", E::NoPort),
            ("tcp://127.0.0.1:", E::NoPort),
            ("tcp://127.0.0.1:0", E::NoPort),
            ("tcp://[::1]", E::NoPort),
            ("tcp://::1", E::NoPort),
            ("tcp://127.0.0.1:80/path", E::TcpPath),
            ("tcp://127.0.0.1:80/", E::TcpPath),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error(text.to_owned())), "{text}");
            assert!(text.parse::<Endpoint>().unwrap_err().to_string().len() > text.len() + 20);
        }
    }

    #[test]
    fn the_longest_path_that_fits_is_accepted() {
        assert!(format!("unix:///{}", "a".repeat(106)).parse::<Endpoint>().is_ok());
    }

    #[test]
    fn environment_values() {
        assert_eq!(Endpoint::from_env(None), Err(EndpointError::NotSet));
        assert_eq!(Endpoint::from_env(Some(OsStr::new(""))), Err(EndpointError::NotSet));
        assert!(Endpoint::from_env(Some(OsStr::new("tcp://127.0.0.1:1"))).is_ok());
        let garbage = std::os::unix::ffi::OsStrExt::from_bytes(b"unix:///\xff");
        assert_eq!(Endpoint::from_env(Some(garbage)), Err(EndpointError::NotUnicode));
    }
}
