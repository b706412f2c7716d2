//! The rules themselves: layers, what is kept out of the pure modules, how long a file may be.

use super::scan::Named;

/// Top-level modules, highest first; those of one row do not know each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    // Composes the small `Config` of each subsystem; only what starts the program reads it.
    &["config"],
    // Shows what the ones below do.
    &["admin"],
    &["server", "source", "dev", "client", "hooks", "output"],
    // What all that listens shares.
    &["listen"],
    &["authz", "secret", "telemetry", "envoy"],
    &["identity", "xds"],
    &["lifecycle", "detached", "systemd"],
    // Pure text.
    &["printable"],
    // Generated from `proto/`.
    &["workload_api_proto"],
];

/// Imports within one layer, each with its reason.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("dev", "source::Endpoint", "the issuer listens on the same kind of address that the client dials"),
    ("client", "source::Endpoint", "servers are dialled at the same kind of address as sources"),
    ("hooks", "source::backoff", "one way to wait between attempts"),
    ("output", "source::backoff", "one way to wait between attempts"),
    ("output", "source::decode::serial", "serial numbers look the same in all events"),
];

/// Modules that only the named ones may import, whatever their layer.
const RESERVED: &[(&str, &[&str])] = &[("workload_api_proto", &["source", "dev"])];

/// Modules in which everything is a function of its arguments.
const PURE: &[&str] = &["xds", "secret", "envoy"];

/// What a pure module must not name, and what to do instead.
const IMPURE: &[(&[&str], &str)] = &[
    (&["tokio"], "keep tasks, channels and timers in server or source and pass values in"),
    (&["tokio_stream"], "keep streams in server or source and pass values in"),
    (&["tokio_util"], "keep tasks in server or source and pass values in"),
    (&["tonic"], "keep the transport in server; a pure module returns bytes or its own error"),
    (&["tonic_health"], "keep the transport in server"),
    (&["tonic_reflection"], "keep the transport in server"),
    (&["hyper"], "keep the transport in server; a pure module returns bytes or its own error"),
    (&["hyper_util"], "keep the transport in server"),
    (&["rand"], "take randomness as a parameter"),
    (&["fastrand"], "take randomness as a parameter"),
    (&["std", "env"], "read the environment in config and pass the value in"),
    (&["std", "fs"], "read and write files above this layer and pass bytes"),
    (&["std", "thread"], "start threads above this layer"),
    (&["std", "process"], "start and end processes above this layer"),
    (&["std", "time", "Instant"], "take the time as a parameter"),
];

/// Types of `std::net` that are values; the rest of it opens sockets.
const ADDRESSES: &[&str] = &["SocketAddr", "SocketAddrV4", "SocketAddrV6", "IpAddr", "Ipv4Addr", "Ipv6Addr"];

/// Lines of a file outside its test modules.
pub(super) const LINES: usize = 350;

/// Files that may be longer, each with its reason.
pub(super) const LONGER: &[(&str, &str)] =
    &[("src/xds/subscription.rs", "the one state machine of all variants, read as a whole or not understood")];

/// What is wrong with naming `named` in the module `module`, and what to do about it.
pub(super) fn objection(module: &str, named: &Named) -> Option<String> {
    let mut segments = named.path.iter().map(String::as_str);
    match segments.next() {
        Some("crate") => match segments.next() {
            Some(target) if target != module => layering(module, target, named),
            _ => None,
        },
        Some(_) if PURE.contains(&module) => purity(module, &named.path),
        _ => None,
    }
}

fn layering(module: &str, target: &str, named: &Named) -> Option<String> {
    let shown = named.path.join("::");
    let Some(to) = layer(target) else {
        return Some(format!(
            "`{shown}` goes through the crate root: name the module that defines it, or give the new module a layer in \
             tests/architecture/rules.rs"
        ));
    };
    let Some(from) = layer(module) else {
        return Some(format!("`{module}` has no layer: give it one in tests/architecture/rules.rs"));
    };
    if let Some((_, readers)) = RESERVED.iter().find(|(reserved, _)| *reserved == target)
        && !readers.contains(&module)
    {
        return Some(format!("`{module}` uses `{shown}`, which is for {} only", readers.join(" and ")));
    }
    let below = named.path.get(1..).unwrap_or_default().join("::");
    let excused = NEIGHBOURS
        .iter()
        .any(|(who, what, _)| *who == module && (below == *what || below.starts_with(&format!("{what}::"))));
    if to > from || excused {
        None
    } else if to == from {
        Some(format!(
            "`{module}` uses its neighbour (`{shown}`): move what they share below both, pass it as a parameter, or list \
             it with a reason in NEIGHBOURS"
        ))
    } else {
        Some(format!("`{module}` uses `{shown}` of a layer above it: move it down, or pass it as a parameter"))
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

fn purity(module: &str, path: &[String]) -> Option<String> {
    let shown = path.join("::");
    let path: Vec<_> = path.iter().map(|segment| if segment == "core" { "std" } else { segment.as_str() }).collect();
    if let Some((_, instead)) = IMPURE.iter().find(|(prefix, _)| path.starts_with(prefix)) {
        return Some(format!("`{module}` is pure but names `{shown}`: {instead}"));
    }
    if path.starts_with(&["std", "net"]) && !path.get(2).is_some_and(|kind| ADDRESSES.contains(kind)) {
        return Some(format!("`{module}` is pure but names `{shown}`: open sockets above this layer"));
    }
    let clock = path.windows(2).any(|pair| matches!(pair, ["SystemTime" | "Instant", "now"]));
    clock.then(|| format!("`{module}` is pure but reads a clock (`{shown}`): take the time as a parameter"))
}
