//! The operator's own names: what each stands for, checked before anything is served.

mod check;
mod target;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use check::{Fault, Field, TableError};
pub(super) use target::{BundleChoice, Bundles, Context, SvidChoice, Target};
pub use target::{SanKind, SanRule, SubjectAltName};

use super::{Flavour, Naming, Template, name};
use crate::{identity::JwtRequest, xds::Node};

/// One name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Any text that means nothing else.
    pub name: Template,
    /// What it stands for.
    pub wanted: Wanted,
}

/// What a name can stand for, as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A certificate and its key: `default`, a SPIFFE ID, or `hint:` and a hint.
    Svid(Template),
    /// A validation context.
    Context(WantedContext),
    /// A token: its name, such as `jwt:payments`. One that is not configured is never served.
    Jwt(Template),
}

/// A validation context, as an operator writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedContext {
    /// Each `own`, `all` or a trust domain, with or without `spiffe://`; at least one.
    pub bundles: Vec<Template>,
    /// `None` is what the client gets under every other name.
    pub flavour: Option<Flavour>,
    /// The peer must have one of these names; none means any. They are alternatives to those in Envoy's own
    /// configuration, not a restriction of them.
    pub subject_alt_names: Vec<SubjectAltName<Template>>,
    /// Do not tell TLS clients which authorities are trusted. Left out for an Envoy before 1.39, which rejects it.
    pub suppress_client_ca_list: bool,
}

/// Names that were found to be without contradiction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    fixed: Vec<(String, Target)>,
    templates: Vec<Entry>,
}

/// What the templates of a table are for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames {
    pub(super) names: Vec<(String, Target)>,
    /// Names that there are, for things that cannot be.
    pub unusable: Vec<Unusable>,
}

/// An entry that means nothing for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Its position among the table's templates.
    pub template: usize,
    /// As it was written.
    pub name: String,
    /// Why.
    pub reason: UnusableReason,
}

/// Why an entry means nothing for one node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UnusableReason {
    /// A variable has no value.
    #[error(transparent)]
    Unfilled(#[from] super::Unfilled),
    /// The node's values make a name that means something else.
    #[error("the node's values make {0:?}, a name that has another meaning")]
    Taken(String),
    /// The node's values make nothing that could be asked for.
    #[error("the node's values make something that is neither an identity nor a trust domain")]
    Meaningless(#[source] TableError),
}

impl NameTable {
    /// Checks the entries against each other and against the names that have a meaning of their own.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn new(entries: Vec<Entry>, naming: &Naming) -> Result<Self, Vec<Fault>> {
        let faults = check::faults(&entries, naming);
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut table = Self::default();
        // A fixed name beats whatever a template becomes.
        let mut entries: Vec<_> = entries.into_iter().enumerate().collect();
        entries.sort_by_key(|(_, entry)| !entry.name.is_fixed());
        for (at, entry) in entries {
            if !entry.is_fixed() {
                table.templates.push(entry);
                continue;
            }
            let target = entry.wanted.target(&Node::default());
            let target = target.map_err(|error| vec![Fault { entry: at, field: Field::Name, error: error.into() }])?;
            table.fixed.push((entry.name.sample(""), target));
        }
        Ok(table)
    }

    /// Whether any name depends on who asks.
    #[must_use]
    pub fn has_templates(&self) -> bool {
        !self.templates.is_empty()
    }

    /// How many entries depend on who asks.
    #[must_use]
    pub fn templates(&self) -> usize {
        self.templates.len()
    }

    /// The tokens that names stand for and are the same for everyone.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &JwtRequest)> {
        self.fixed.iter().filter_map(|(name, target)| match target {
            Target::Jwt(jwt) => Some((name.as_str(), &jwt.request)),
            _ => None,
        })
    }

    /// The names that are the same for everyone.
    pub(super) fn fixed(&self) -> &[(String, Target)] {
        &self.fixed
    }

    /// What the templates are for `node`. Where two of them make one name, the first counts; a fixed name beats both.
    #[must_use]
    pub fn bind(&self, node: &Node, naming: &Naming) -> NodeNames {
        let mut bound = NodeNames::default();
        for (template, entry) in self.templates.iter().enumerate() {
            match self.bind_one(entry, node, naming, &bound) {
                Ok(named) => bound.names.push(named),
                Err(reason) => bound.unusable.push(Unusable { template, name: entry.name.source().to_owned(), reason }),
            }
        }
        bound
    }

    fn bind_one(
        &self,
        entry: &Entry,
        node: &Node,
        naming: &Naming,
        bound: &NodeNames,
    ) -> Result<(String, Target), UnusableReason> {
        let name = entry.name.fill(node)?;
        let taken = naming.reserves(&name) || self.fixed.iter().chain(&bound.names).any(|(other, _)| *other == name);
        if taken || name::check(&name).is_err() {
            return Err(UnusableReason::Taken(name));
        }
        let target = entry.wanted.target(node)?;
        Ok((name, target))
    }
}

impl Entry {
    /// Whether it is the same for every node. What only newer Envoys know is not: an older one rejects a message with
    /// a field that it does not know.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        let all_fixed = |templates: &[Template]| templates.iter().all(Template::is_fixed);
        self.name.is_fixed()
            && match &self.wanted {
                Wanted::Svid(text) | Wanted::Jwt(text) => text.is_fixed(),
                Wanted::Context(context) => {
                    !context.suppress_client_ca_list
                        && all_fixed(&context.bundles)
                        && context.subject_alt_names.iter().all(|san| san.value.is_fixed())
                }
            }
    }
}
