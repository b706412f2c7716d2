//! What a reload would change, and which of it only a restart can.

use std::{collections::BTreeMap, fmt};

use super::{Problems, Sources, effective, keys, tree::Node};

/// Keys that change while the program runs: these, and everything below them. All others wait for a restart.
const LIVE: &[&str] = &[
    "drain_deadline",
    "keepalive",
    "limits.names_per_stream",
    "limits.request_bytes",
    "limits.streams_per_connection",
    "limits.streams_per_peer",
    "log.filter",
    "secrets.default_all_bundles_name",
    "secrets.default_bundle_name",
    "secrets.default_svid_name",
    "secrets.disable_spiffe_cert_validation",
    "secrets.rollout_hold",
    "secrets.wildcard",
];

/// A key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted, such as `secrets.wildcard`.
    pub key: String,
    /// What it is now; `None` where nothing is written and there is no plain default.
    pub old: Option<String>,
    /// What it would be.
    pub new: Option<String>,
    /// Whether it changes while the program runs.
    pub live: bool,
}

/// Every key that differs between two configurations, defaults included, in the order of their names.
///
/// # Errors
/// One of them is not readable as YAML, or no mapping. Whether they are valid otherwise is not looked at.
pub fn diff(old: &Sources, new: &Sources) -> Result<Vec<Change>, Problems> {
    let (old, new) = (values(&effective(old)?.0), values(&effective(new)?.0));
    let mut all: Vec<_> = old.keys().chain(new.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let differs = all.into_iter().filter(|key| old.get(*key) != new.get(*key));
    Ok(differs
        .map(|key| Change {
            key: key.clone(),
            old: old.get(key).cloned(),
            new: new.get(key).cloned(),
            live: is_live(key),
        })
        .collect())
}

fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        write!(f, "{}: {} -> {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// Lists count as one value. What is not written has its default.
fn values(tree: &Node) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let defaults = keys().into_iter().filter(|key| !key.path.contains("[]"));
    values.extend(defaults.filter_map(|key| Some((key.path, key.default?))));
    collect("", &tree.to_json(), &mut values);
    values
}

fn collect(path: &str, value: &serde_json::Value, values: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&path, value, values);
            }
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => {
            values.insert(path.to_owned(), text.clone());
        }
        other => {
            values.insert(path.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::File;

    fn sources(text: &str) -> Sources {
        let text = format!("source: {{workload_api: {{endpoint: 'unix:///a'}}}}\n{text}");
        Sources { file: Some(File { path: "sds.yaml".into(), text }), ..Sources::default() }
    }

    #[test]
    fn each_difference_is_said_with_what_it_takes() {
        let old = sources("drain_deadline: 1s\nlisteners: [{tcp: {address: '127.0.0.1:1'}}]\n");
        let new =
            sources("secrets: {wildcard: true}\nlisteners: [{tcp: {address: '127.0.0.1:2'}}]\nlog: {filter: info}\n");
        let changes = diff(&old, &new).unwrap();
        let shown: Vec<_> = changes.iter().map(|change| (change.to_string(), change.live)).collect();
        assert_eq!(
            shown,
            [
                ("drain_deadline: 1s -> 5s".to_owned(), true),
                (
                    r#"listeners: [{"tcp":{"address":"127.0.0.1:1"}}] -> [{"tcp":{"address":"127.0.0.1:2"}}]"#
                        .to_owned(),
                    false
                ),
                ("secrets.wildcard: false -> true".to_owned(), true),
            ]
        );
        assert!(diff(&old, &old).unwrap().is_empty());
    }

    #[test]
    fn live_keys_exist() {
        let keys = keys();
        for live in LIVE {
            assert!(keys.iter().any(|key| is_live(&key.path) && key.path.starts_with(live)), "{live}");
        }
    }
}
