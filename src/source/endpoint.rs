//! The address of a SPIFFE endpoint, as `SPIFFE_ENDPOINT_SOCKET` spells it.

use std::{
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
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
    /// `unix:relative/path`, or `unix://relative/path`: what follows the two slashes would be a host name.
    #[error("{0:?} has no absolute path; write unix:///absolute/path, with three slashes")]
    NotAbsolute(String),
    /// `unix:@name`: the specification allows paths only.
    #[error("{0:?} names an abstract socket, which no SPIFFE endpoint has; write unix:///absolute/path")]
    Abstract(String),
    /// A `%` without two hexadecimal digits.
    #[error("{0:?} holds a % that is no percent-encoding; write %25 for the character")]
    Escape(String),
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
    /// [`EndpointError::NotSet`] for none and for a blank one, else what [`Endpoint::from_str`] finds.
    pub fn from_env(value: Option<&OsStr>) -> Result<Self, EndpointError> {
        let value = value.unwrap_or_default().to_str().ok_or(EndpointError::NotUnicode)?;
        if value.trim().is_empty() { Err(EndpointError::NotSet) } else { value.parse() }
    }
}

/// As a URI that means the same when it is read.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self {
            Self::Unix(path) => path,
            Self::Tcp(address) => return write!(f, "tcp://{address}"),
        };
        f.write_str("unix://")?;
        for part in path.as_os_str().as_bytes().utf8_chunks() {
            for character in part.valid().chars() {
                let mut bytes = [0; 4];
                match character {
                    '%' | '?' | '#' | ' ' => percent(f, character.encode_utf8(&mut bytes).as_bytes())?,
                    _ if character.is_control() || character.is_whitespace() => {
                        percent(f, character.encode_utf8(&mut bytes).as_bytes())?;
                    }
                    _ => f.write_char(character)?,
                }
            }
            percent(f, part.invalid())?;
        }
        Ok(())
    }
}

fn percent(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Lenient where nothing else can be meant: white space around it (a file's last line), the scheme in upper case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(rest) = after_scheme(text, "unix:") {
            unix(text, rest)
        } else if let Some(rest) = after_scheme(text, "tcp://") {
            tcp(text, rest)
        } else {
            Err(EndpointError::UnknownScheme(text.to_owned()))
        }
    }
}

/// Schemes are the same in upper case (RFC 3986, section 3.1).
fn after_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let (its, rest) = text.split_at_checked(scheme.len())?;
    its.eq_ignore_ascii_case(scheme).then_some(rest)
}

fn unix(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
    // "unix:/path" is not in the specification, but an equal URI, and what many tools print.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let problem = if path.starts_with('@') {
        EndpointError::Abstract
    } else if !path.starts_with('/') {
        EndpointError::NotAbsolute
    } else if path.contains(['?', '#']) {
        EndpointError::NotOnlyAPath
    } else if path.ends_with('/') {
        EndpointError::NotASocket
    } else {
        match decoded(path) {
            None => EndpointError::Escape,
            Some(path) if path.contains(&0) => EndpointError::NotOnlyAPath,
            Some(path) if path.len() > Endpoint::PATH_BYTES => EndpointError::TooLong,
            Some(path) => return Ok(Endpoint::Unix(PathBuf::from(OsString::from_vec(path)))),
        }
    };
    Err(problem(text.to_owned()))
}

/// The bytes that a percent-encoded text stands for.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| plain)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
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
            ("unix:///run/agent.sock\n", "unix:///run/agent.sock"),
            (" \tunix:/run/agent.sock \r\n", "unix:///run/agent.sock"),
            ("tcp://127.0.0.1:8000\n", "tcp://127.0.0.1:8000"),
            ("UNIX:///run/Agent.sock", "unix:///run/Agent.sock"),
            ("Unix:/run/agent.sock", "unix:///run/agent.sock"),
            ("TCP://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
            ("unix:///run/my%20agent.sock", "unix:///run/my%20agent.sock"),
            ("unix:///run/my agent.sock", "unix:///run/my%20agent.sock"),
            ("unix:///run/%61gent.sock", "unix:///run/agent.sock"),
            ("unix:///run%2fagent.sock", "unix:///run/agent.sock"),
            ("unix:///run/100%25/%3f%23", "unix:///run/100%25/%3F%23"),
            ("unix:///run/%ff.sock", "unix:///run/%FF.sock"),
            ("unix:///run/größe.sock", "unix:///run/größe.sock"),
            ("unix:///run/gr%C3%B6%c3%9Fe.sock", "unix:///run/größe.sock"),
            ("unix:///run/a%0Ab", "unix:///run/a%0Ab"),
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
            ("unix:@abstract", E::Abstract),
            ("unix://@abstract", E::Abstract),
            ("unix-abstract:agent", E::UnknownScheme),
            ("unix//run/agent.sock", E::UnknownScheme),
            ("unix://./agent.sock", E::NotAbsolute),
            ("unix://localhost/agent.sock", E::NotAbsolute),
            ("unix:///run/100%.sock", E::Escape),
            ("unix:///run/%2", E::Escape),
            ("unix:///run/%+1", E::Escape),
            ("unix:///run/%0é", E::Escape),
            ("unix:///run/%00", E::NotOnlyAPath),
            ("unix:///run/\0", E::NotOnlyAPath),
            ("tcp://127.0.0.1:65536", E::NotAnIp),
            ("tcp://127.0.0.1:80?x", E::TcpPath),
            ("tcp://127.0.0.1:80#x", E::TcpPath),
            ("tcp://[::1:80", E::NoPort),
            ("tcp://", E::NotAnIp),
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
        assert!(format!("unix:///{}", "%61".repeat(106)).parse::<Endpoint>().is_ok(), "what it means counts");
        assert!(format!("unix:///{}", "%61".repeat(107)).parse::<Endpoint>().is_err());
    }

    #[test]
    fn environment_values() {
        assert_eq!(Endpoint::from_env(None), Err(EndpointError::NotSet));
        assert_eq!(Endpoint::from_env(Some(OsStr::new(""))), Err(EndpointError::NotSet));
        assert_eq!(Endpoint::from_env(Some(OsStr::new(" \n"))), Err(EndpointError::NotSet));
        assert!(Endpoint::from_env(Some(OsStr::new("tcp://127.0.0.1:1"))).is_ok());
        let garbage = std::os::unix::ffi::OsStrExt::from_bytes(b"unix:///\xff");
        assert_eq!(Endpoint::from_env(Some(garbage)), Err(EndpointError::NotUnicode));
    }
}
