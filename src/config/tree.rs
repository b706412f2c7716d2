//! The configuration as it was written: YAML with the place of every key and value.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::{Origin, Problem};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What YAML can say. Duplicate keys are kept, so that the one who reads can complain about each of them.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Wider than anything the configuration takes, so that a number out of range is reported as what it is.
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One line of a mapping. The key has a place of its own.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) node: Node,
}

impl Node {
    /// Parses one YAML document; `source` (the file's name, as the user gave it) becomes part of every [`Origin`].
    /// An empty document is an empty mapping.
    pub(super) fn parse(text: &str, source: &Arc<str>) -> Result<Self, Problem> {
        let options = serde_saphyr::options! {
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            // `mode: 0660` must arrive as it was written, not as the decimal number 660.
            leading_zero_numbers_as_strings: true,
            // YAML 1.1's `no` and `on` are words here: a bundle may be called `on`.
            strict_booleans: true,
            with_snippet: false,
        };
        match serde_saphyr::from_str_with_options::<Option<Spanned<Parsed>>>(text, options) {
            Ok(Some(root)) => Ok(root.value.place(&root.referenced, source)),
            Ok(None) => Ok(Self::empty(Origin::of(source))),
            Err(error) => {
                let origin = error.location().map_or_else(|| Origin::of(source), |at| place(source, &at));
                Err(Problem::new(origin, "", format!("not readable as YAML: {}", syntax_message(&error))))
            }
        }
    }

    /// A mapping without entries.
    pub(super) fn empty(origin: Origin) -> Self {
        Self { value: Value::Map(Vec::new()), origin }
    }

    /// The value as plain data, without places. Whatever is `null` is left out: it means "as if it were not written".
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Integer(value) => i64::try_from(*value).map_or(Json::Null, Json::from),
            Value::Float(value) => Json::from(*value),
            Value::Text(value) => Json::from(value.as_str()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .filter(|entry| !matches!(entry.node.value, Value::Null))
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Whether something is written at a dotted `key`; `null` is nothing.
    pub(super) fn holds(&self, key: &str) -> bool {
        let mut node = self;
        for part in key.split('.') {
            let Some(entry) = node.entries().iter().find(|entry| entry.key == part) else { return false };
            node = &entry.node;
        }
        !matches!(node.value, Value::Null)
    }

    /// Sets the value at a dotted `key`, over whatever was there. A scalar in the way stays: it is reported as what it is.
    pub(super) fn set(&mut self, key: &str, node: Self) {
        if matches!(self.value, Value::Null) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
        let position = entries.iter().position(|entry| entry.key == first).unwrap_or(entries.len());
        if position == entries.len() {
            let empty = Self { value: Value::Null, origin: node.origin.clone() };
            entries.push(Entry { key: first.to_owned(), origin: node.origin.clone(), node: empty });
        }
        let Some(entry) = entries.get_mut(position) else { return };
        match rest {
            Some(rest) => entry.node.set(rest, node),
            None => {
                entry.origin = node.origin.clone();
                entry.node = node;
            }
        }
    }
}

impl Value {
    /// What kind of thing this is, as an error message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a number",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Scalars as they were written, bounded: an error message repeats the value that is wrong.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(&super::quoted(value)),
            Self::Null | Self::List(_) | Self::Map(_) => f.write_str(self.kind()),
        }
    }
}

/// The deserializer's view of a [`Value`], before the places know the name of their file.
enum Parsed {
    Scalar(Value),
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

impl Parsed {
    fn place(self, at: &Location, source: &Arc<str>) -> Node {
        let value = match self {
            Self::Scalar(value) => value,
            Self::List(items) => {
                Value::List(items.into_iter().map(|item| item.value.place(&item.referenced, source)).collect())
            }
            Self::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, item)| Entry {
                        origin: place(source, &key.referenced),
                        key: key.value,
                        node: item.value.place(&item.referenced, source),
                    })
                    .collect(),
            ),
        };
        Node { value, origin: place(source, at) }
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        Parsed::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Integer(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Integer(value)))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parsed, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Parsed::Map(map))
    }
}

fn place(source: &Arc<str>, at: &Location) -> Origin {
    Origin { source: Arc::clone(source), at: Some((at.line(), at.column())) }
}

/// The parser's words without its own "at line, column", which stands in front of the message already.
fn syntax_message(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::MultipleDocuments { .. } = error.without_snippet() {
        return "a second document starts here; keep one, without `---` inside".to_owned();
    }
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    text.split(" at line ").next().unwrap_or(text).trim_end_matches([',', ':']).to_owned()
}
