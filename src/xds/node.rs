//! What a client says of itself.

use prost::Message as _;
use prost_types::{Struct, value::Kind};

/// Bytes of what is remembered of a node's metadata, and of its user agent.
const METADATA_KEPT: usize = 4096;
const AGENT_KEPT: usize = 128;

/// The version of Envoy that a node says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvoyVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// Which program a client says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserAgent {
    /// `node.user_agent_name`, such as `envoy`.
    pub name: String,
    /// Its version, if it says one.
    pub version: Option<AgentVersion>,
}

/// The version of a program, as a client says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentVersion {
    /// `node.user_agent_version`.
    Text(String),
    /// `node.user_agent_build_version`.
    Build {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
        /// Patch.
        patch: u32,
    },
}

/// Who a stream's client says it is, from its first message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.user_agent_build_version`, when the client tells it.
    pub version: Option<EnvoyVersion>,
    /// `node.metadata`.
    pub metadata: Option<Struct>,
    /// The program.
    pub agent: UserAgent,
}

/// What is remembered of a node for those who look, beside its name: bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Details {
    /// The program.
    pub agent: UserAgent,
    /// `node.metadata`, encoded: whole fields, as many as there is room for; the others are left out.
    pub metadata: Vec<u8>,
}

impl Node {
    /// A metadata value that is text.
    #[must_use]
    pub fn metadata_text(&self, key: &str) -> Option<&str> {
        match self.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    /// A metadata value that is a boolean, or a string that spells one as Go's `strconv.ParseBool` reads it;
    /// anything else is as good as absent (what SPIRE does with `disable_spiffe_cert_validation`).
    #[must_use]
    pub fn metadata_flag(&self, key: &str) -> Option<bool> {
        match self.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::BoolValue(value) => Some(*value),
            Kind::StringValue(text) => match text.as_str() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// What is remembered of it.
    #[must_use]
    pub fn details(&self) -> Details {
        let version = self.agent.version.as_ref().map(|version| match version {
            AgentVersion::Text(text) => AgentVersion::Text(start(text)),
            build @ AgentVersion::Build { .. } => build.clone(),
        });
        let agent = UserAgent { name: start(&self.agent.name), version };
        let mut metadata = Vec::new();
        for (key, value) in self.metadata.iter().flat_map(|metadata| &metadata.fields) {
            if key.len() + value.encoded_len() > METADATA_KEPT {
                continue;
            }
            // A message of one field after another is a message of all of them.
            let field = Struct { fields: [(key.clone(), value.clone())].into() }.encode_to_vec();
            if metadata.len() + field.len() <= METADATA_KEPT {
                metadata.extend_from_slice(&field);
            }
        }
        metadata.shrink_to_fit();
        Details { agent, metadata }
    }
}

impl Details {
    /// Bytes that it costs, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        let version = match &self.agent.version {
            Some(AgentVersion::Text(text)) => text.len(),
            Some(AgentVersion::Build { .. }) | None => 0,
        };
        size_of::<Self>() + self.agent.name.len() + version + self.metadata.len()
    }
}

/// The first bytes of a text of a client's.
fn start(text: &str) -> String {
    let end = (0..=text.len().min(AGENT_KEPT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use prost_types::Value;

    use super::*;

    fn node(fields: impl IntoIterator<Item = (String, String)>) -> Node {
        let text = |text| Value { kind: Some(Kind::StringValue(text)) };
        let fields = fields.into_iter().map(|(key, value)| (key, text(value))).collect();
        Node { metadata: Some(Struct { fields }), ..Node::default() }
    }

    #[test]
    fn what_is_remembered_of_a_node_has_a_bound_and_keeps_whole_fields() {
        let many = node((0..10_000).map(|at| (format!("key-{at:05}"), "value".to_owned()))).details();
        assert!((METADATA_KEPT - 32..=METADATA_KEPT).contains(&many.metadata.len()), "{}", many.metadata.len());
        let kept = Struct::decode(many.metadata.as_slice()).unwrap();
        assert!(kept.fields.len() > 100 && kept.fields.contains_key("key-00000"));
        // One that is too large costs no other.
        let large = [("a", "x".repeat(1 << 20)), ("app", "web".to_owned()), ("z", "y".repeat(METADATA_KEPT))];
        let large = node(large.map(|(key, value)| (key.to_owned(), value))).details();
        let kept = Struct::decode(large.metadata.as_slice()).unwrap();
        assert_eq!(kept.fields.keys().collect::<Vec<_>>(), ["app"]);
        assert!(large.weight() < 1024, "{}", large.weight());
    }

    #[test]
    fn what_is_remembered_of_a_user_agent_has_a_bound() {
        let version = Some(AgentVersion::Text("ä".repeat(1 << 20)));
        let agent = UserAgent { name: format!("x{}", "ä".repeat(1 << 20)), version };
        let details = Node { agent, ..Node::default() }.details();
        assert!(details.agent.name.len() < AGENT_KEPT + 1 && details.agent.name.starts_with("xä"));
        assert!(details.weight() < 1024, "{}", details.weight());
    }
}
