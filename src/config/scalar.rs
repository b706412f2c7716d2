//! Texts of the configuration that mean something. The errors say what to write instead.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{Group, User};

use super::{quoted, raw::Account};
use crate::{
    identity::{Hint, SpiffeId, TrustDomain},
    secret::is_reserved,
    source::{Endpoint, EndpointError},
    telemetry::logs,
};

/// The longest path that fits into `sockaddr_un` on Linux (108 bytes with the final NUL; unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// A duration with its unit, within bounds.
pub(super) fn duration(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("{} is not a duration; write a number with its unit, such as 250ms, 5s or 1m", quoted(text))
    })?;
    if allowed.contains(&duration) {
        return Ok(duration);
    }
    let bound = |bound| humantime::format_duration(bound);
    Err(format!("{text} is out of range; allowed are {} to {}", bound(*allowed.start()), bound(*allowed.end())))
}

/// A SPIFFE endpoint. Its errors say the fix, and show the value.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|error: EndpointError| error.to_string())
}

/// An absolute path that the operating system can bind.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if text.contains('\0') {
        return Err(format!("{} holds a NUL character; remove it", quoted(text)));
    }
    if !path.is_absolute() {
        return Err(format!("{} is not absolute; start it with `/`", quoted(text)));
    }
    if text.ends_with('/') || path.file_name().is_none() {
        return Err(format!("{} is a directory; add the name of the socket file", quoted(text)));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "{} has {} bytes, but a socket path may have {MAX_SOCKET_PATH}; choose a shorter one",
            quoted(text),
            text.len()
        ));
    }
    Ok(path.to_path_buf())
}

/// The absolute path of a file or directory.
pub(super) fn file_path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') {
        return Err(format!("{} holds a NUL character; remove it", quoted(text)));
    }
    let path = Path::new(text);
    if path.is_absolute() {
        Ok(path.to_path_buf())
    } else {
        Err(format!("{} is not absolute; start it with `/`", quoted(text)))
    }
}

/// A TCP address. Port 0 lets the operating system choose.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{} is not an IP address with a port; write such as 127.0.0.1:18000 or [::1]:18000", quoted(text))
    })
}

/// A TCP address that only this machine can reach.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{} is not a loopback address; nothing is authenticated on TCP, so anybody could be given private keys, or could \
         give forged public ones: listen on 127.0.0.1 or [::1], or on a Unix socket",
        quoted(text)
    ))
}

/// A TCP address for operators that only this machine can reach.
pub(super) fn admin_address(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{} is not a loopback address; whoever reaches it sees every SPIFFE ID and every client: listen on 127.0.0.1 or \
         [::1] or on a Unix socket, or set `allow_public: true`",
        quoted(text)
    ))
}

/// A trust domain, as a name or as a SPIFFE ID without a path.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    let name = text.strip_prefix("spiffe://").unwrap_or(text);
    TrustDomain::new(name).map_err(|_| {
        format!(
            "{} is not a trust domain; write such as example.org: lower case letters, digits, `.`, `-`, `_`",
            quoted(text)
        )
    })
}

/// A resource name that stands for something; it must not look like a name that already means something else.
pub(super) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; write the name that Envoy asks for".to_owned());
    }
    if is_reserved(&text.to_ascii_lowercase()) && !text.to_ascii_lowercase().starts_with("spiffe:") {
        return Err(format!("{} looks like the name of a token, which names itself; write another name", quoted(text)));
    }
    if text.to_ascii_lowercase().starts_with("spiffe:") {
        return Err(format!("{} looks like a SPIFFE ID, which names itself; write another name", quoted(text)));
    }
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!("{} holds white space or control characters; write another name", quoted(text)));
    }
    if text.to_ascii_lowercase().contains("%2e") {
        return Err(format!("{} holds `%2E`, which stands for a dot in every name; write the dot", quoted(text)));
    }
    Ok(text.to_owned())
}

/// Who verifies a token.
pub(super) fn audience(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; write for whom the token is".to_owned());
    }
    if text.contains(char::is_control) {
        return Err(format!("{} holds control characters; remove them", quoted(text)));
    }
    Ok(text.to_owned())
}

/// The SPIFFE ID of a workload.
pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    let fix = "write such as spiffe://example.org/web";
    match SpiffeId::new(text) {
        Ok(id) if id.path().is_empty() => Err(format!("{} names a trust domain, no workload; {fix}", quoted(text))),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("{} is no SPIFFE ID ({error}); {fix}", quoted(text))),
    }
}

/// The hint of an identity.
pub(super) fn hint(text: &str) -> Result<Hint, String> {
    Hint::new(text).ok_or_else(|| "is empty; write the hint, or remove the key".to_owned())
}

/// Permission bits, octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(format!(
            "{} is not a file mode; write three octal digits after a zero, in quotes: \"0660\"",
            quoted(text)
        )),
    }
}

/// A user by name or number.
pub(super) fn user(account: Account) -> Result<u32, String> {
    by_name(account, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// A group by name or number.
pub(super) fn group(account: Account) -> Result<u32, String> {
    by_name(account, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

fn by_name(account: Account, kind: &str, find: impl FnOnce(&str) -> nix::Result<Option<u32>>) -> Result<u32, String> {
    let name = match account {
        // The range is the schema's, which was checked; a number in quotes is a number too.
        Account::Id(id) => return u32::try_from(id).map_err(|_| format!("{id} is not the number of a {kind}")),
        Account::Name(name) => name,
    };
    if let Ok(id) = name.parse::<u32>() {
        return Ok(id);
    }
    match find(&name) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!("there is no {kind} {}; create it, or write a number", quoted(&name))),
        Err(errno) => Err(format!("cannot look up the {kind} {} ({errno}); write a number", quoted(&name))),
    }
}

/// A log filter.
pub(super) fn filter(text: &str) -> Result<logs::Filter, String> {
    text.parse().map_err(|error: logs::FilterError| error.to_string())
}

/// Names that requests may be addressed to, separated by commas.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    let name = |name: &str| {
        let fits =
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'));
        let fix = "write names without port, separated by commas; IP addresses need no entry";
        if fits { Ok(name.to_owned()) } else { Err(format!("{} is not the name of a host; {fix}", quoted(name))) }
    };
    text.split(',').map(|part| name(part.trim())).collect()
}
