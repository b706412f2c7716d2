//! What a reload would change, and which of it only a restart can; and what is in force, key by key.

use std::{collections::BTreeMap, fmt};

use serde_json::Value as Json;

use super::{
    Origin, Problems, Sources, effective, keys,
    tree::{Node, Value},
};

/// Keys that change while the program runs: these, and everything below them. All others wait for a restart.
const LIVE: &[&str] = &[
    "drain_deadline",
    "keepalive",
    "limits.memory",
    "limits.memory_per_peer",
    "limits.name_bytes_per_stream",
    "limits.names_per_stream",
    "limits.request_bytes",
    "limits.request_timeout",
    "limits.streams",
    "limits.streams_per_connection",
    "limits.streams_per_peer",
    "log.filter",
    "secrets.default_all_bundles_name",
    "secrets.default_bundle_name",
    "secrets.default_svid_name",
    "secrets.disable_spiffe_cert_validation",
    "secrets.rollout_hold",
    "secrets.rollout_max_wait",
    "secrets.wildcard",
];

/// In place of what may be a credential.
const HIDDEN: &str = "(hidden)";

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

/// A key and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, such as `secrets.wildcard`.
    pub key: String,
    /// As it would be written; lists as JSON. What may be a credential (arguments of programs, all of a URL but its host)
    /// is hidden.
    pub value: String,
    /// Where it was written; `None` for a default.
    pub origin: Option<Origin>,
    /// Whether it changes while the program runs.
    pub live: bool,
}

/// A value as it is, and as it may be shown.
struct Leaf {
    text: String,
    shown: String,
    origin: Option<Origin>,
}

/// Every key that differs between two configurations, defaults included, in the order of their names. What may be a
/// credential is compared and not shown.
///
/// # Errors
/// One of them is not readable as YAML, or no mapping. Whether they are valid otherwise is not looked at.
pub fn diff(old: &Sources, new: &Sources) -> Result<Vec<Change>, Problems> {
    Ok(compare(&values(&effective(old)?.0), &values(&effective(new)?.0)))
}

/// The same of what is known of each by [`settings`], by key. A change that is hidden is not seen.
#[must_use]
pub fn changes(old: BTreeMap<String, String>, new: BTreeMap<String, String>) -> Vec<Change> {
    let leaf = |(key, shown): (String, String)| (key, Leaf { text: shown.clone(), shown, origin: None });
    compare(&old.into_iter().map(leaf).collect(), &new.into_iter().map(leaf).collect())
}

/// Every key that has a value, written or by default, in the order of their names.
///
/// # Errors
/// As [`diff`].
pub fn settings(sources: &Sources) -> Result<Vec<Setting>, Problems> {
    let setting = |(key, leaf): (String, Leaf)| {
        let live = is_live(&key);
        Setting { key, value: leaf.shown, origin: leaf.origin, live }
    };
    Ok(values(&effective(sources)?.0).into_iter().map(setting).collect())
}

fn compare(old: &BTreeMap<String, Leaf>, new: &BTreeMap<String, Leaf>) -> Vec<Change> {
    let mut all: Vec<_> = old.keys().chain(new.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let text = |values: &BTreeMap<String, Leaf>, key: &String| values.get(key).map(|leaf| leaf.text.clone());
    let shown = |values: &BTreeMap<String, Leaf>, key: &String| values.get(key).map(|leaf| leaf.shown.clone());
    let differs = all.into_iter().filter(|key| text(old, key) != text(new, key));
    differs
        .map(|key| Change { key: key.clone(), old: shown(old, key), new: shown(new, key), live: is_live(key) })
        .collect()
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
fn values(tree: &Node) -> BTreeMap<String, Leaf> {
    let mut values = BTreeMap::new();
    let defaults = keys().into_iter().filter(|key| !key.path.contains("[]"));
    let default = |text: String| Leaf { text: text.clone(), shown: text, origin: None };
    values.extend(defaults.filter_map(|key| Some((key.path, default(key.default?)))));
    collect("", tree, &mut values);
    values
}

fn collect(path: &str, node: &Node, values: &mut BTreeMap<String, Leaf>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                collect(&path, &entry.node, values);
            }
        }
        Value::Null => {}
        _ => {
            let mut json = node.to_json();
            let text = plain(&json);
            if path == "hooks" {
                hide(&mut json);
            }
            values.insert(path.to_owned(), Leaf { text, shown: plain(&json), origin: Some(node.origin.clone()) });
        }
    }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Takes out of callbacks whatever may be a credential: people put tokens into URLs and arguments.
fn hide(hooks: &mut Json) {
    for hook in hooks.as_array_mut().into_iter().flatten() {
        if let Some(command) = hook.pointer_mut("/exec/command").and_then(Json::as_array_mut) {
            command.iter_mut().skip(1).for_each(|argument| *argument = Json::from(HIDDEN));
        }
        if let Some(url) = hook.pointer_mut("/webhook/url") {
            let text = url.as_str().unwrap_or_default();
            let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            *url = Json::from(format!("{scheme}://{host}/{HIDDEN}"));
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

    #[test]
    fn every_value_is_told_with_its_place() {
        let mut sources = sources("drain_deadline: 1s\n");
        sources.variables.insert("SPIFFE_SDS_LOG_FILTER".to_owned(), "debug".to_owned());
        let settings = settings(&sources).unwrap();
        let of = |key: &str| {
            let found = settings.iter().find(|setting| setting.key == key).unwrap();
            (found.value.as_str(), found.origin.as_ref().map(ToString::to_string), found.live)
        };
        assert_eq!(of("drain_deadline"), ("1s", Some("sds.yaml:2:17".to_owned()), true));
        assert_eq!(of("log.filter"), ("debug", Some("SPIFFE_SDS_LOG_FILTER".to_owned()), true));
        assert_eq!(of("secrets.wildcard"), ("false", None, true));
    }

    #[test]
    fn what_may_be_a_credential_is_compared_and_not_shown() {
        let hook = |secret: &str| {
            sources(&format!(
                "hooks: [{{events: [all], webhook: {{url: 'https://me:{secret}@hooks.test/{secret}?t={secret}'}}}}, \
                 {{events: [all], exec: {{command: [/bin/tell, --token, {secret}]}}}}]"
            ))
        };
        let changes = diff(&hook("hunter1"), &hook("hunter2")).unwrap();
        assert_eq!(changes.len(), 1);
        let shown = format!("{} {:?}", changes[0], settings(&hook("hunter1")).unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("https://hooks.test/(hidden)") && shown.contains("/bin/tell"), "{shown}");
    }
}
