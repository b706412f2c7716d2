//! What a name stands for, with every variable filled in.

use super::{TableError, UnusableReason, Wanted, WantedContext};
use crate::{
    identity::{SpiffeId, TrustDomain},
    secret::{Flavour, JwtName, Template},
    xds::{EnvoyVersion, Node},
};

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::secret) enum Target {
    /// A certificate and its key.
    Svid(SvidChoice),
    /// A validation context.
    Context(Context),
    /// A token.
    Jwt(JwtName),
}

/// One of the workload's identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::secret) enum SvidChoice {
    /// The default one.
    Default,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The one with this hint.
    Hint(String),
}

/// A validation context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::secret) struct Context {
    pub(in crate::secret) bundles: Bundles,
    /// `None` is the client's.
    pub(in crate::secret) flavour: Option<Flavour>,
    pub(in crate::secret) subject_alt_names: Vec<SubjectAltName<String>>,
    pub(in crate::secret) suppress_client_ca_list: bool,
}

/// Whose authorities a context has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::secret) enum Bundles {
    /// Those of every known trust domain.
    All,
    /// Those of these.
    Chosen(Vec<BundleChoice>),
}

/// One trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::secret) enum BundleChoice {
    /// The workload's own.
    Own,
    /// This one.
    Domain(TrustDomain),
}

/// What a name in a peer's certificate must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectAltName<T> {
    /// Which kind of name.
    pub kind: SanKind,
    /// How it is compared.
    pub rule: SanRule,
    /// With what.
    pub value: T,
}

/// A kind of subject alternative name (`SubjectAltNameMatcher.SanType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SanKind {
    /// A SPIFFE ID, for example. The only kind that Envoy's SPIFFE validator looks at.
    Uri,
    /// A DNS name.
    Dns,
    /// An e-mail address.
    Email,
    /// An IP address.
    IpAddress,
}

/// How texts are compared (`StringMatcher`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SanRule {
    /// The whole name.
    Exact,
    /// Its beginning.
    Prefix,
    /// Its end.
    Suffix,
    /// Some part of it.
    Contains,
    /// The whole name, as an RE2 expression.
    Regex,
}

impl Target {
    /// `default`, a SPIFFE ID, or `hint:` and a hint.
    pub(super) fn svid(text: &str) -> Result<Self, TableError> {
        if text == "default" {
            return Ok(Self::Svid(SvidChoice::Default));
        }
        if let Some(hint) = text.strip_prefix("hint:").filter(|hint| !hint.is_empty()) {
            return Ok(Self::Svid(SvidChoice::Hint(hint.to_owned())));
        }
        // The parser also takes a trust domain and folds upper case; what is written must be the ID itself.
        let id = SpiffeId::new(text).ok().filter(|id| id.to_string() == text && !id.path().is_empty());
        id.map(|id| Self::Svid(SvidChoice::Id(id))).ok_or(TableError::NotAnIdentity)
    }

    /// The name of a token.
    pub(super) fn jwt(text: &str) -> Result<Self, TableError> {
        JwtName::parse(text).map(Self::Jwt).ok_or(TableError::NotAToken)
    }
}

impl Bundles {
    /// `all`, or each `own` or a trust domain.
    pub(super) fn parse(texts: &[String]) -> Result<Self, TableError> {
        if matches!(texts, [only] if only == "all") {
            return Ok(Self::All);
        }
        let mut chosen = texts.iter().map(|text| BundleChoice::parse(text)).collect::<Result<Vec<_>, _>>()?;
        // Templates may make two of them one for some node.
        chosen.sort_unstable();
        chosen.dedup();
        Ok(Self::Chosen(chosen))
    }
}

impl BundleChoice {
    pub(super) fn parse(text: &str) -> Result<Self, TableError> {
        if text == "own" {
            return Ok(Self::Own);
        }
        let name = text.strip_prefix("spiffe://").unwrap_or(text);
        let td = TrustDomain::new(name).ok().filter(|td| td.as_ref() == name);
        td.map(Self::Domain).ok_or(TableError::NotATrustDomain)
    }
}

impl Wanted {
    /// With the values of `node`.
    pub(super) fn target(&self, node: &Node) -> Result<Target, UnusableReason> {
        match self {
            Self::Svid(svid) => Target::svid(&svid.fill(node)?).map_err(UnusableReason::Meaningless),
            Self::Context(context) => context.target(node),
            Self::Jwt(name) => Target::jwt(&name.fill(node)?).map_err(UnusableReason::Meaningless),
        }
    }
}

impl WantedContext {
    fn target(&self, node: &Node) -> Result<Target, UnusableReason> {
        let fill = |template: &Template| template.fill(node);
        let bundles = self.bundles.iter().map(fill).collect::<Result<Vec<_>, _>>()?;
        let sans = self
            .subject_alt_names
            .iter()
            .map(|san| Ok(SubjectAltName { kind: san.kind, rule: san.rule, value: san.value.fill(node)? }));
        Ok(Target::Context(Context {
            bundles: Bundles::parse(&bundles).map_err(UnusableReason::Meaningless)?,
            flavour: self.flavour,
            subject_alt_names: sans.collect::<Result<_, UnusableReason>>()?,
            suppress_client_ca_list: self.suppress_client_ca_list && knows_suppression(node),
        }))
    }
}

/// `suppress_client_ca_list` came with Envoy 1.39; 1.36 rejects a context that has it. A client that does not tell its
/// version is taken for a new one.
fn knows_suppression(node: &Node) -> bool {
    node.version.is_none_or(|version| version >= EnvoyVersion { major: 1, minor: 39 })
}
