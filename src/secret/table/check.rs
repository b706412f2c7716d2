//! What can be wrong with a table of names, all of it found at once.

use thiserror::Error;

use super::{BundleChoice, Bundles, Entry, SanKind, SanRule, Target, UnusableReason, Wanted, WantedContext};
use crate::secret::{Flavour, NameError, Naming, Re2Error, Template, name, re2};

/// Stands for the value of every variable while a table is checked.
const SAMPLE: &str = "x";

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Position in the table, from 0.
    pub entry: usize,
    /// Where in the entry.
    pub field: Field,
    /// What.
    pub error: TableError,
}

/// A part of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Its name.
    Name,
    /// Its identity.
    Svid,
    /// Its token.
    Jwt,
    /// Its list of trust domains, or one of it.
    Bundle(Option<usize>),
    /// One of the names that peers must have.
    SubjectAltName(usize),
}

/// What can be wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// No name for anything.
    #[error(transparent)]
    Name(#[from] NameError),
    /// One of the three names that always mean something.
    #[error("is the value of `{0}`; choose another name")]
    Reserved(&'static str),
    /// Two entries with one name.
    #[error("is the name of entry {0} too; remove one of them")]
    Duplicate(usize),
    /// A reference to a name, which could lead in a circle.
    #[error("is the name of entry {0}; a name stands for an identity or a trust domain, not for another name")]
    Refers(usize),
    /// No SPIFFE ID and neither of the other words.
    #[error("is no identity; write a SPIFFE ID, `default`, or `hint:` and a hint")]
    NotAnIdentity,
    /// Not the name of a token.
    #[error("is no name of a token; write such as jwt:payments (docs/names.md has the grammar)")]
    NotAToken,
    /// No trust domain and neither of the other words.
    #[error("is no trust domain; write such as example.org, or `own`, or `all`")]
    NotATrustDomain,
    /// Nobody would be trusted.
    #[error("is empty; write `own`, `all` or trust domains")]
    NoBundle,
    /// `all` and something else.
    #[error("`all` is every trust domain already; write it alone")]
    AllAndMore,
    /// Twice the same.
    #[error("is written twice; remove one")]
    Repeated,
    /// A pooled list lets every domain sign for every other (SPIFFE Federation, section 4.2).
    #[error(
        "is more than one trust domain, which the plain flavour cannot keep apart; write one, or `flavour: spiffe`"
    )]
    Pooled,
    /// The SPIFFE validator would let anyone in.
    #[error("is looked at by the plain flavour only; write `flavour: plain`, or match a `uri`")]
    OnlyPlain,
    /// It would match every name.
    #[error("is empty and would match every name; write what to compare with")]
    EmptyMatch,
    /// A value's dot would match anything.
    #[error("holds a variable, which a regular expression cannot; write another rule")]
    VariableInRegex,
    /// Envoy would reject the whole context.
    #[error("is no regular expression that Envoy takes (RE2, whole name): {0}")]
    Regex(Re2Error),
    /// Something else, which a sample did not show.
    #[error("cannot be used: {0}")]
    Other(String),
}

impl From<UnusableReason> for TableError {
    fn from(reason: UnusableReason) -> Self {
        Self::Other(reason.to_string())
    }
}

/// Everything that is wrong with `entries`.
pub(super) fn faults(entries: &[Entry], naming: &Naming) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let mut found = |field, error| faults.push(Fault { entry: at, field, error });
        if let Err(error) = check_name(entry, at, entries, naming) {
            found(Field::Name, error);
        }
        match &entry.wanted {
            Wanted::Svid(svid) => {
                if let Err(error) = check_reference(svid, Target::svid, entries) {
                    found(Field::Svid, error);
                }
            }
            Wanted::Jwt(jwt) => {
                if let Err(error) = check_reference(jwt, Target::jwt, entries) {
                    found(Field::Jwt, error);
                }
            }
            Wanted::Context(context) => {
                check_bundles(context, &mut found);
                check_sans(context, &mut found);
            }
        }
    }
    faults
}

fn check_name(entry: &Entry, at: usize, entries: &[Entry], naming: &Naming) -> Result<(), TableError> {
    name::check(&entry.name.sample(SAMPLE))?;
    if let Some(key) = naming.reserved(&entry.name.sample("")).filter(|_| entry.name.is_fixed()) {
        return Err(TableError::Reserved(key));
    }
    match entries.iter().take(at).position(|other| other.name == entry.name) {
        Some(first) => Err(TableError::Duplicate(first)),
        None => Ok(()),
    }
}

/// What is neither of its kind nor empty may be another entry's name.
fn check_reference(
    text: &Template,
    parse: impl Fn(&str) -> Result<Target, TableError>,
    entries: &[Entry],
) -> Result<(), TableError> {
    match parse(&text.sample(SAMPLE)) {
        Ok(_) => Ok(()),
        Err(error) => Err(entries.iter().position(|other| other.name == *text).map_or(error, TableError::Refers)),
    }
}

fn check_bundles(context: &WantedContext, found: &mut impl FnMut(Field, TableError)) {
    let texts: Vec<_> = context.bundles.iter().map(|template| template.sample(SAMPLE)).collect();
    if texts.is_empty() {
        return found(Field::Bundle(None), TableError::NoBundle);
    }
    for (at, (text, template)) in texts.iter().zip(&context.bundles).enumerate() {
        if text == "all" {
            if texts.len() > 1 {
                found(Field::Bundle(Some(at)), TableError::AllAndMore);
            }
        } else if let Err(error) = BundleChoice::parse(text) {
            found(Field::Bundle(Some(at)), error);
        } else if context.bundles.iter().take(at).any(|other| other == template) {
            found(Field::Bundle(Some(at)), TableError::Repeated);
        }
    }
    let several = texts.len() > 1 || matches!(Bundles::parse(&texts), Ok(Bundles::All));
    if several && context.flavour == Some(Flavour::Plain) {
        found(Field::Bundle(None), TableError::Pooled);
    }
}

fn check_sans(context: &WantedContext, found: &mut impl FnMut(Field, TableError)) {
    for (at, san) in context.subject_alt_names.iter().enumerate() {
        let field = Field::SubjectAltName(at);
        let text = san.value.sample(SAMPLE);
        if text.is_empty() {
            found(field, TableError::EmptyMatch);
        }
        if san.kind != SanKind::Uri && context.flavour != Some(Flavour::Plain) {
            found(field, TableError::OnlyPlain);
        }
        if san.rule == SanRule::Regex {
            if !san.value.is_fixed() {
                found(field, TableError::VariableInRegex);
            } else if let Err(error) = re2::check(&text) {
                found(field, TableError::Regex(error));
            }
        }
    }
}
