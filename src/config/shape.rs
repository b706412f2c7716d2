//! Which keys exist: the schema of the types in `raw`, and a tree held against it.

use schemars::{generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::Value as Schema;

use super::{
    Problem,
    raw::Raw,
    tree::{Entry, Node, Value},
};

/// One thing that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Dotted, as error messages write it; `[]` stands for each item of a list.
    pub path: String,
    /// The environment variable that overrides it; none inside lists, which are overridden whole.
    pub variable: Option<String>,
    /// What it takes: `text`, `true or false`, `number`, `list`, `list of texts`.
    pub kind: &'static str,
    /// The smallest and largest number.
    pub bounds: Option<(i64, i64)>,
    /// The value it has when nothing is written, as it would be written.
    pub default: Option<String>,
    /// What it means.
    pub description: String,
}

/// The JSON Schema (2020-12) of the configuration file, generated from the types that read it.
#[must_use]
pub fn schema() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let settings = settings.with_transform(RecursiveTransform(without_implied_default));
    settings.for_deserialize().into_generator().into_root_schema_for::<Raw>().to_value()
}

/// `#[serde(default)]` becomes "default: nothing", which says nothing and hides that some defaults are computed.
fn without_implied_default(schema: &mut schemars::Schema) {
    if schema.get("default").is_some_and(|default| default.is_null() || default.is_object()) {
        schema.remove("default");
    }
}

/// Every key of the configuration, in the order of the schema.
#[must_use]
pub fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    collect(&schema(), "", &mut keys);
    keys
}

fn collect(schema: &Schema, path: &str, keys: &mut Vec<Key>) {
    if let Some(properties) = properties(schema) {
        for (name, property) in properties {
            collect(property, &join(path, name), keys);
        }
        return;
    }
    keys.push(Key {
        path: path.to_owned(),
        variable: (!path.contains("[]")).then(|| super::env::variable(path)),
        kind: kind(schema),
        bounds: bounds(schema),
        default: schema.get("default").map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        description: schema.get("description").and_then(Schema::as_str).unwrap_or_default().replace('\n', " "),
    });
    if let Some(items) = schema.get("items").filter(|items| properties(items).is_some()) {
        collect(items, &format!("{path}[]"), keys);
    }
}

fn kind(schema: &Schema) -> &'static str {
    match (accepts(schema, "string"), accepts(schema, "integer")) {
        (true, true) => "text or number",
        (true, false) if accepts(schema, "array") => "text or list",
        (true, false) => "text",
        (false, true) => "number",
        (false, false) if accepts(schema, "boolean") => "true or false",
        (false, false) if schema.get("items").is_some_and(|items| accepts(items, "string")) => "list of texts",
        (false, false) if accepts(schema, "array") => "list",
        (false, false) => "mapping",
    }
}

fn accepts(schema: &Schema, kind: &str) -> bool {
    match schema.get("type") {
        Some(Schema::String(only)) => only == kind,
        Some(Schema::Array(several)) => several.iter().any(|one| one == kind),
        _ => false,
    }
}

fn properties(schema: &Schema) -> Option<&serde_json::Map<String, Schema>> {
    schema.get("properties").and_then(Schema::as_object)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Removes from `root` whatever the schema does not allow, and says what that was: unknown and repeated keys, values
/// of the wrong kind, numbers out of range and words that are none of those allowed.
pub(super) fn prune(root: &mut Node, problems: &mut Vec<Problem>) {
    Pruning { problems, keys: keys() }.keep(root, &schema(), "");
}

/// What to say of a file that holds something else than keys.
pub(super) fn not_a_mapping(root: &Node) -> Option<Problem> {
    let wrong = !matches!(root.value, Value::Map(_) | Value::Null);
    wrong.then(|| Problem::new(root.origin.clone(), "", wrong_kind(&root.value, &schema())))
}

/// What a name without a value could mean, and how to say it.
const NULL_NAME: &str = "null without quotes means that nothing is written; write \"null\" for this very name, or leave \
                         the key out";

/// Whether the key at `path` is the name of a secret or of a client.
fn is_a_name(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    key == "name" || key.ends_with("_name")
}

struct Pruning<'a> {
    problems: &'a mut Vec<Problem>,
    keys: Vec<Key>,
}

impl Pruning<'_> {
    /// Whether `node` may stay, after everything inside it that may not was removed.
    fn keep(&mut self, node: &mut Node, schema: &Schema, path: &str) -> bool {
        let expected = match &mut node.value {
            // `default_bundle_name: null` comes from SPIRE's own documentation, where it is a name that nobody asks for.
            Value::Null if is_a_name(path) => Some(NULL_NAME.to_owned()),
            Value::Null => None,
            Value::Map(entries) if properties(schema).is_some() => {
                self.keep_entries(entries, schema, path);
                None
            }
            Value::List(items) if accepts(schema, "array") => {
                self.keep_items(items, schema, path);
                None
            }
            Value::Bool(_) if accepts(schema, "boolean") => None,
            Value::Integer(value) if accepts(schema, "integer") => out_of_range(*value, schema),
            Value::Text(text) if accepts(schema, "string") => not_a_choice(text, schema),
            wrong => Some(wrong_kind(wrong, schema)),
        };
        let good = expected.is_none();
        if let Some(message) = expected {
            self.problems.push(Problem::new(node.origin.clone(), path, message));
        }
        good
    }

    fn keep_entries(&mut self, entries: &mut Vec<Entry>, schema: &Schema, path: &str) {
        let Some(properties) = properties(schema) else { return };
        let mut seen: Vec<Entry> = Vec::new();
        for mut entry in entries.drain(..) {
            let key = join(path, &entry.key);
            let Some(property) = properties.get(&entry.key) else {
                let message = self.unknown(&entry.key, path, properties.keys().map(String::as_str));
                self.problems.push(Problem::new(entry.origin, &key, message));
                continue;
            };
            if let Some(first) = seen.iter().find(|earlier| earlier.key == entry.key) {
                let message = format!("written twice; remove this one or the one at {}", first.origin);
                self.problems.push(Problem::new(entry.origin, &key, message));
            } else if self.keep(&mut entry.node, property, &key) {
                seen.push(entry);
            }
        }
        *entries = seen;
    }

    /// A bad item leaves an empty mapping (or text) behind, so that the others keep their numbers.
    fn keep_items(&mut self, items: &mut [Node], schema: &Schema, path: &str) {
        let Some(schema) = schema.get("items") else { return };
        for (index, item) in items.iter_mut().enumerate() {
            let path = format!("{path}[{index}]");
            let missing = matches!(item.value, Value::Null);
            if missing {
                self.problems.push(Problem::new(item.origin.clone(), &path, wrong_kind(&item.value, schema)));
            }
            if missing || !self.keep(item, schema, &path) {
                item.value =
                    if accepts(schema, "string") { Value::Text(String::new()) } else { Value::Map(Vec::new()) };
            }
        }
    }

    fn unknown<'k>(&self, name: &str, path: &str, siblings: impl Iterator<Item = &'k str> + Clone) -> String {
        if let Some(meant) = super::nearest(name, siblings.clone()) {
            return format!("unknown key; did you mean `{meant}`?");
        }
        let elsewhere = self.keys.iter().find(|key| key.path.rsplit('.').next() == Some(name));
        if let Some(key) = elsewhere {
            return format!("unknown key; did you mean `{}`?", key.path);
        }
        let known: Vec<_> = siblings.map(|key| format!("`{key}`")).collect();
        let place = if path.is_empty() { "at the top" } else { "here" };
        format!("unknown key; known {place}: {}", known.join(", "))
    }
}

fn wrong_kind(value: &Value, schema: &Schema) -> String {
    match (kind(schema), value) {
        ("text", Value::Integer(_) | Value::Bool(_) | Value::Float(_)) => {
            format!("{value} is {}, not text; write it in quotes", value.kind())
        }
        (
            wanted @ ("mapping" | "list" | "list of texts"),
            Value::Text(_) | Value::Integer(_) | Value::Bool(_) | Value::Float(_),
        ) => {
            format!("{value} is not a {wanted}; {}", layout(wanted))
        }
        (wanted @ ("mapping" | "list" | "list of texts"), _) => {
            format!("is {}, not a {wanted}; {}", value.kind(), layout(wanted))
        }
        ("true or false", _) => format!("{value} is not a boolean; write true or false"),
        ("number", _) => format!("{value} is not a whole number; write digits only, without quotes"),
        (wanted, _) => format!("{value} cannot stand here; write {wanted}"),
    }
}

fn layout(wanted: &str) -> &'static str {
    if wanted.starts_with("list") {
        "start each item with `- `"
    } else {
        "write its keys indented on the following lines"
    }
}

fn out_of_range(value: i128, schema: &Schema) -> Option<String> {
    let (low, high) = bounds(schema)?;
    (!(i128::from(low)..=i128::from(high)).contains(&value))
        .then(|| format!("{value} is out of range; allowed are {low} to {high}"))
}

fn bounds(schema: &Schema) -> Option<(i64, i64)> {
    let bound = |name| schema.get(name).and_then(Schema::as_i64);
    Some((bound("minimum")?, bound("maximum")?))
}

fn not_a_choice(text: &str, schema: &Schema) -> Option<String> {
    let choices: Vec<_> = schema.get("enum")?.as_array()?.iter().filter_map(Schema::as_str).collect();
    if choices.contains(&text) {
        return None;
    }
    let hint = super::nearest(text, choices.iter().copied()).map(|meant| format!("; did you mean `{meant}`?"));
    let hint = hint.unwrap_or_else(|| format!("; write one of {}", choices.join(", ")));
    Some(format!("{} is not known{hint}", super::quoted(text)))
}
