//! What flags and environment variables put over the file: flag, then variable, then file, then default.

use std::sync::Arc;

use super::{
    Flag, Origin, Problem, Sources, keys, nearest,
    tree::{Entry, Node, Value},
};
use crate::source::Endpoint;

/// What the name of every variable of ours starts with.
const PREFIX: &str = "SPIFFE_SDS_";
/// Names the configuration file; read by the command line, not a key of the file.
pub const FILE: &str = "SPIFFE_SDS_CONFIG";
/// Names the admin socket for whoever asks a running server; read by the command line, not a key of the file.
pub const ADMIN: &str = "SPIFFE_SDS_ADMIN";
/// Kubernetes sets such variables in every pod beside a Service called `spiffe-sds`. They are not meant for us.
const KUBERNETES: [&str; 2] = ["SPIFFE_SDS_SERVICE_", "SPIFFE_SDS_PORT"];

/// The variable that overrides the key at a dotted `path`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// Puts variables and flags over the file's tree, and complains about variables of ours that mean nothing.
pub(super) fn overlay(tree: &mut Node, sources: &Sources, problems: &mut Vec<Problem>) {
    let keys = keys();
    for key in &keys {
        let set = key.variable.as_ref().and_then(|name| Some((name, sources.variables.get(name)?)));
        // An empty variable is how compose files and shells spell "not set".
        if let Some((name, text)) = set.filter(|(_, text)| !text.is_empty())
            && let Some(node) = node(key.kind, text, name, &key.path, problems)
        {
            tree.set(&key.path, node);
        }
    }
    for Flag { flag, key, value } in &sources.flags {
        let kind = keys.iter().find(|known| known.path == *key).map_or("text", |known| known.kind);
        if let Some(node) = node(kind, value, flag, key, problems) {
            tree.set(key, node);
        }
    }
    let endpoint = "source.workload_api.endpoint";
    let chosen = [endpoint, "source.workload_api.endpoints", "source.files"];
    if let Some(text) = sources.variables.get(Endpoint::ENV).filter(|text| !text.is_empty())
        && !chosen.iter().any(|key| tree.holds(key))
    {
        tree.set(endpoint, Node { value: Value::Text(text.clone()), origin: Origin::of(Endpoint::ENV) });
    }
    unknown_variables(&keys, sources, problems);
}

fn unknown_variables(keys: &[super::Key], sources: &Sources, problems: &mut Vec<Problem>) {
    let known = || keys.iter().filter_map(|key| key.variable.as_deref()).chain([FILE, ADMIN]);
    for name in sources.variables.keys().filter(|name| name.starts_with(PREFIX)) {
        if known().any(|one| one == name) || KUBERNETES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let hint = nearest(name, known()).map_or_else(
            || "; docs/configuration.md lists those there are".to_owned(),
            |meant| format!("; did you mean {meant}?"),
        );
        problems.push(Problem::new(Origin::of(name), "", format!("unknown variable{hint}")));
    }
}

/// A variable's text as the value that the file would have at `key`. What does not fit is left as text, for the
/// comparison with the schema to complain about.
fn node(kind: &str, text: &str, source: &str, key: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let origin = Origin::of(source);
    let value = match kind {
        "list" | "list of texts" if text.trim_start().starts_with('[') => match Node::parse(text, &Arc::from(source)) {
            Ok(node) => return Some(node),
            Err(problem) => {
                problems.push(Problem { key: key.to_owned(), ..problem });
                return None;
            }
        },
        "list" if key.ends_with("listeners") => {
            Value::List(text.split(',').filter_map(|one| listener(one.trim(), &origin, key, problems)).collect())
        }
        "list" if key == "jwt.svids" => Value::List(text.split(',').map(|one| jwt_svid(one.trim(), &origin)).collect()),
        // No short form: the comparison with the schema says what to write.
        "list" if matches!(key, "hooks" | "outputs") => Value::Text(text.to_owned()),
        "list" | "list of texts" => {
            let item = |one: &str| Node { value: Value::Text(one.trim().to_owned()), origin: origin.clone() };
            Value::List(text.split(',').map(item).collect())
        }
        "true or false" => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Bool),
        "number" => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer),
        _ => Value::Text(text.to_owned()),
    };
    Some(Node { value, origin })
}

/// An audience as the item that the file's list of tokens would have.
fn jwt_svid(audience: &str, origin: &Origin) -> Node {
    let node = |value| Node { value, origin: origin.clone() };
    let audience = node(Value::List(vec![node(Value::Text(audience.to_owned()))]));
    node(Value::Map(vec![Entry { key: "audience".to_owned(), origin: origin.clone(), node: audience }]))
}

/// `unix:///path` or `tcp://address` as the item that the file's list of listeners would have.
fn listener(endpoint: &str, origin: &Origin, key: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    let parts = [("unix://", "unix", "path"), ("tcp://", "tcp", "address")];
    let found = parts.iter().find_map(|(scheme, kind, field)| Some((endpoint.strip_prefix(scheme)?, *kind, *field)));
    let Some((rest, kind, field)) = found else {
        let message = format!(
            "{} is not a listener; write unix:///absolute/path or tcp://127.0.0.1:port, separated by commas",
            super::quoted(endpoint)
        );
        problems.push(Problem::new(origin.clone(), key, message));
        return None;
    };
    let map = |key: &str, value| {
        let node = Node { value, origin: origin.clone() };
        Value::Map(vec![Entry { key: key.to_owned(), origin: origin.clone(), node }])
    };
    let value = map(kind, map(field, Value::Text(rest.to_owned())));
    Some(Node { value, origin: origin.clone() })
}
