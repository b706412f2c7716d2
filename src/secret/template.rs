//! Texts with variables that each client's node fills in: `sds://${node.metadata.app}`.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::xds::Node;

/// The longest value that a node may put into a name.
const LONGEST_VALUE: usize = 256;

/// A text with variables. `$${` stands for `${` itself.
///
/// Values are put in once and as they are: a value that looks like a variable stays what it is, so nothing can loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

/// Something that a node says about itself. Nobody checks that it is true: a template chooses among the identities that
/// the client may have anyway, and gives it no other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// `node.id`.
    NodeId,
    /// `node.cluster`.
    NodeCluster,
    /// `node.metadata.KEY`: a text at the top level of the metadata.
    Metadata(String),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// There is no such variable.
    #[error(
        "the variable {variable:?} is not known; known are ${{node.id}}, ${{node.cluster}} and ${{node.metadata.KEY}}"
    )]
    Unknown {
        /// As it was written, shortened.
        variable: String,
    },
    /// `${` without `}`.
    #[error("a variable has no end; close it with `}}`, or write `$${{` for the characters themselves")]
    Unclosed,
}

/// Why a node gives a variable no value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Unfilled {
    /// Nothing there, or no text.
    #[error("the node has no text for ${{{0}}}")]
    Absent(Variable),
    /// Text that could change the meaning of a name or of a SPIFFE ID.
    #[error("the node's text for ${{{0}}} is not made of letters, digits, `.`, `-` and `_` alone")]
    Unsafe(Variable),
}

impl Template {
    /// Whether it is the same for every node.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text with the values of `node`. Each must be a path segment of a SPIFFE ID (SPIFFE ID, section 2.2), so
    /// that it cannot reach beyond the place that it was meant for.
    ///
    /// # Errors
    /// [`Unfilled`] for the first variable without such a value.
    pub fn fill(&self, node: &Node) -> Result<String, Unfilled> {
        self.with(|variable| {
            let value = variable.of(node).ok_or_else(|| Unfilled::Absent(variable.clone()))?;
            if is_segment(value) { Ok(value) } else { Err(Unfilled::Unsafe(variable.clone())) }
        })
    }

    /// The text with the same value for every variable.
    #[must_use]
    pub fn sample<'a>(&'a self, value: &'a str) -> String {
        self.with(|_| Ok::<_, std::convert::Infallible>(value)).unwrap_or_default()
    }

    fn with<'a, E>(&'a self, value: impl Fn(&'a Variable) -> Result<&'a str, E>) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Variable(variable) => text.push_str(value(variable)?),
            }
        }
        Ok(text)
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = after;
                continue;
            }
            let (variable, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            text.push_str(before);
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(Part::Variable(variable.parse()?));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts, source: source.to_owned() })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Variable {
    fn of<'n>(&self, node: &'n Node) -> Option<&'n str> {
        match self {
            Self::NodeId => Some(node.id.as_str()),
            Self::NodeCluster => Some(node.cluster.as_str()),
            Self::Metadata(key) => node.metadata_text(key),
        }
        .filter(|value| !value.is_empty())
    }
}

impl FromStr for Variable {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        match text {
            "node.id" => Ok(Self::NodeId),
            "node.cluster" => Ok(Self::NodeCluster),
            _ => match text.strip_prefix("node.metadata.") {
                Some(key) if !key.is_empty() && !key.contains("${") => Ok(Self::Metadata(key.to_owned())),
                _ => Err(TemplateError::Unknown { variable: text.chars().take(128).collect() }),
            },
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId => f.write_str("node.id"),
            Self::NodeCluster => f.write_str("node.cluster"),
            Self::Metadata(key) => write!(f, "node.metadata.{key}"),
        }
    }
}

/// A path segment: not empty, no separator, and no way up.
fn is_segment(value: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(value, "" | "." | "..") && value.len() <= LONGEST_VALUE && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value, value::Kind};

    use super::*;

    fn node() -> Node {
        let text = |value: &str| Value { kind: Some(Kind::StringValue(value.into())) };
        let fields = [
            ("app".to_owned(), text("web-1.2_x")),
            ("up".to_owned(), text("..")),
            ("path".to_owned(), text("a/b")),
            ("again".to_owned(), text("${node.id}")),
            ("number".to_owned(), Value { kind: Some(Kind::NumberValue(1.0)) }),
            ("long".to_owned(), text(&"x".repeat(257))),
        ];
        let metadata = Some(Struct { fields: fields.into() });
        Node { id: "node-1".into(), cluster: "blue".into(), metadata, ..Node::default() }
    }

    fn filled(template: &str) -> Result<String, String> {
        template.parse::<Template>().unwrap().fill(&node()).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_become_what_the_node_says() {
        let text = "sds://${node.cluster}/${node.metadata.app}@${node.id}!";
        assert_eq!(filled(text).unwrap(), "sds://blue/web-1.2_x@node-1!");
        assert_eq!(filled("no $variables} {here}").unwrap(), "no $variables} {here}");
        assert_eq!(filled("$${node.id}").unwrap(), "${node.id}");
        assert!("$${node.id}".parse::<Template>().unwrap().is_fixed());
    }

    #[test]
    fn what_is_no_segment_is_no_value() {
        for (key, problem) in [
            ("up", "is not made of"),
            ("path", "is not made of"),
            ("again", "is not made of"),
            ("long", "is not made of"),
            ("number", "has no text"),
            ("nothing", "has no text"),
        ] {
            let error = filled(&format!("x${{node.metadata.{key}}}")).unwrap_err();
            assert!(error.contains(problem) && error.contains(&format!("${{node.metadata.{key}}}")), "{error}");
        }
    }

    #[test]
    fn mistakes_are_found_when_it_is_read() {
        let error = |text: &str| text.parse::<Template>().unwrap_err();
        for unknown in ["", "node", "node.name", "node.metadata.", "id", "node.metadata.${node.id"] {
            assert_eq!(error(&format!("a${{{unknown}}}")), TemplateError::Unknown { variable: unknown.into() });
        }
        assert_eq!(error("a${node.id"), TemplateError::Unclosed);
    }
}
