//! How identities become xDS resources: pure, so that every name, flavour and order can be tested without a socket.

mod builder;
mod contents;
mod encode;
mod files;
pub mod jwks;
mod missing;
mod name;
mod pattern;
mod re2;
mod revocation;
mod rollout;
mod select;
pub mod table;
mod template;
mod view;
mod vouching;
mod x509;

use std::{collections::BTreeSet, sync::Arc, time::Duration, time::SystemTime};

pub use builder::Part;
pub use contents::{Contents, Note};
pub use encode::{EncodeError, certificate_version};
pub use missing::Missing;
pub use name::{
    JwtName, NameError, Naming, SecretName, TokenForm, check as check_name, dot_free, is_file, is_reserved,
};
pub use pattern::{Pattern, PatternError};
pub use re2::Re2Error;
pub use revocation::CrlPolicy;
pub use rollout::{Change, Hold, HoldReason, Plan, Rollout, Timing};
pub use select::DefaultIdentity;
pub use table::{NameTable, NodeNames};
pub use template::{Template, TemplateError, Unfilled, Variable};
pub use view::View;
pub use vouching::{TrustFault, Vouching, vouching};

use crate::{
    identity::{FilePolicy, FileRequest, FileSnapshot, IdentitySnapshot, JwtRequest, JwtSnapshot, JwtState},
    xds::{EnvoyVersion, Node, Origin, ResourceSet},
};
use builder::Builder;
use table::Target;

/// What the catalog serves and how a change of it is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The names that stand for "the default identity", "our bundle" and "all bundles".
    pub naming: Naming,
    /// Further names, as the operator has them.
    pub names: NameTable,
    /// Which of several identities is the default one.
    pub default_identity: DefaultIdentity,
    /// The only names that are answered, beside those of the table; `None` is all that have a meaning. A name that is
    /// not allowed is impossible, even where it would otherwise be waited for.
    pub allowed: Option<Vec<Pattern>>,
    /// When the source's revocation lists are served.
    pub crls: CrlPolicy,
    /// Serve plain `trusted_ca` contexts instead of the SPIFFE certificate validator (SPIRE's option of this name).
    pub disable_spiffe_cert_validation: bool,
    /// Answer an empty first name list with everything the peer may have, as SPIRE does. Off: it gets nothing,
    /// because Envoy also sends an empty list when its last listener goes.
    pub wildcard: bool,
    /// How long new trust is in place at least before certificates that need it, and old trust after the last that
    /// needed it.
    pub rollout_hold: Duration,
    /// How long at most for clients that do not acknowledge; not shorter than `rollout_hold`.
    pub rollout_max_wait: Duration,
    /// The tokens that are served. Every other token name is impossible, so that no client makes us mint one.
    pub jwt_svids: BTreeSet<JwtRequest>,
    /// The files that clients may ask for. Every other name of a file is a name without meaning.
    pub files: FilePolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            names: NameTable::default(),
            default_identity: DefaultIdentity::default(),
            allowed: None,
            crls: CrlPolicy::default(),
            disable_spiffe_cert_validation: false,
            wildcard: false,
            rollout_hold: Duration::from_millis(250),
            rollout_max_wait: Duration::from_secs(5),
            jwt_svids: BTreeSet::new(),
            files: FilePolicy::default(),
        }
    }
}

/// Only the names differ from the default.
impl From<Naming> for Config {
    fn from(naming: Naming) -> Self {
        Self { naming, ..Self::default() }
    }
}

impl Config {
    /// How long the steps of a roll-out wait for each other.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing { hold: self.rollout_hold, max_wait: self.rollout_max_wait }
    }

    /// What a client that asks for `name` wants read; `None` if that is no file, or none that it may ask for.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<FileRequest> {
        // Cheap where there are no files, and for all other names.
        if !self.files.is_open() || !name.starts_with("file-") {
            return None;
        }
        match SecretName::parse(name, &self.naming) {
            Some(SecretName::File(request)) if self.files.permits(&request) => {
                builder::is_allowed(&name::decode_dots(name), self.allowed.as_deref()).then_some(request)
            }
            _ => None,
        }
    }
}

/// How trust is expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// Envoy's SPIFFE certificate validator: each trust domain's authorities vouch for that domain only.
    Spiffe,
    /// A plain list of authorities, one trust domain at a time.
    Plain,
}

impl Flavour {
    /// The flavour for a client, with SPIRE's exact rules (`pkg/agent/endpoints/sdsv3/handler.go`): node metadata
    /// `disable_spiffe_cert_validation` beats the configuration in both directions if it is a boolean or spells one;
    /// Envoy older than 1.18 has no such validator; a client that tells no version is taken for a new one.
    #[must_use]
    pub fn of(node: &Node, config: &Config) -> Self {
        let (usual, disabled) = Self::either(node);
        if config.disable_spiffe_cert_validation { disabled } else { usual }
    }

    /// The same for both states of that key of the configuration: not disabled, and disabled.
    #[must_use]
    pub fn either(node: &Node) -> (Self, Self) {
        let flag = node.metadata_flag("disable_spiffe_cert_validation");
        let supported = node.version.is_none_or(|version| version >= EnvoyVersion { major: 1, minor: 18 });
        let flavour = |disabled| if !flag.unwrap_or(disabled) && supported { Self::Spiffe } else { Self::Plain };
        (flavour(false), flavour(true))
    }
}

/// Turns identity snapshots into resource sets.
#[derive(Clone, Debug)]
pub struct SecretCatalog {
    config: Arc<Config>,
    origin: Arc<Origin>,
}

impl SecretCatalog {
    /// A catalog whose resources say that they come from `origin`.
    #[must_use]
    pub fn new(config: impl Into<Config>, origin: Arc<Origin>) -> Self {
        Self { config: Arc::new(config.into()), origin }
    }

    /// The same by another configuration.
    #[must_use]
    pub fn configured(self, config: Config) -> Self {
        Self { config: Arc::new(config), ..self }
    }

    /// What `snapshot` has to give at `now`, encoded once for every name and flavour.
    ///
    /// A certificate that has expired is withheld: who holds it keeps it (its peers will refuse it), and nobody gets
    /// it anew.
    ///
    /// # Errors
    /// [`EncodeError`]; then nothing of the snapshot must be published.
    pub fn contents(&self, snapshot: &Arc<IdentitySnapshot>, now: SystemTime) -> Result<Arc<Contents>, EncodeError> {
        Contents::new(snapshot, &self.config, now).map(Arc::new)
    }

    /// The certificates and contexts that these contents are to a client of this flavour.
    ///
    /// # Errors
    /// [`EncodeError`]; then nothing of the snapshot must be published.
    pub fn x509(&self, contents: &Arc<Contents>, flavour: Flavour) -> Result<Part, EncodeError> {
        x509::part(contents, flavour, &self.config, &self.origin)
    }

    /// The tokens at `now`: one that is not there yet is withheld, one that is gone is an empty secret.
    ///
    /// Whatever has not changed since `before` keeps its frames.
    #[must_use]
    pub fn tokens(&self, snapshot: &JwtSnapshot, now: SystemTime, before: Option<&Part>) -> Part {
        let mut set = Builder::new(&self.origin).reusing(before);
        let named = |jwt: &JwtName| {
            let names = self.config.names.fixed().iter();
            let names = names.filter(|(_, target)| matches!(target, Target::Jwt(named) if named == jwt));
            names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        for request in &self.config.jwt_svids {
            let state = snapshot.svids.get(request).unwrap_or(&JwtState::Pending);
            for form in TokenForm::ALL {
                let name = JwtName { form, request: request.clone() };
                let content = match state {
                    JwtState::Pending => None,
                    // The end of its life is inclusive for certificates and exclusive for tokens (RFC 7519, 4.1.4).
                    JwtState::Valid(svid) if now < svid.validity.not_after => {
                        Some(encode::generic(Some(&svid.token), form))
                    }
                    JwtState::Valid(_) | JwtState::Gone(_) => Some(encode::generic(None, form)),
                };
                set.add_or_withhold(&name.to_string(), form == TokenForm::Raw, content.as_ref());
                named(&name).iter().for_each(|name| set.add_or_withhold(name, false, content.as_ref()));
            }
        }
        set.finish(Arc::new(|_| false))
    }

    /// What is in files. A name that may be asked for and has no content is withheld, whether it was looked at or not:
    /// the file may come, and who has an earlier content of it keeps that.
    ///
    /// Whatever has not changed since `before` keeps its frames.
    #[must_use]
    pub fn files(&self, snapshot: &FileSnapshot, before: Option<&Part>) -> Part {
        files::part(snapshot, &self.config, &self.origin, before)
    }

    /// What is served to a workload that is entitled to nothing: no certificate and no context is impossible, and
    /// none is there.
    #[must_use]
    pub fn nothing(&self) -> Part {
        let config = self.config.clone();
        let possible = move |name: &str| !matches!(SecretName::parse(name, &config.naming), Some(SecretName::Jwt(_)));
        Builder::new(&self.origin).finish(Arc::new(possible))
    }

    /// What clients see of these parts. `contents` are those that `x509` was made of, if there are any.
    #[must_use]
    pub fn view(
        &self,
        contents: Option<Arc<Contents>>,
        flavour: Flavour,
        x509: &Part,
        tokens: &Part,
        files: &Part,
    ) -> View {
        View::new(contents, flavour, x509, tokens, files, self.origin.clone())
    }

    /// What everyone sees before the source has said anything: every name is withheld but those of `files`, which have
    /// nothing to do with it.
    #[must_use]
    pub fn pending(&self, files: &Part) -> View {
        View::pending(files, self.origin.clone())
    }

    /// Every resource that `snapshot` is to a client of this flavour at `now`, without tokens.
    ///
    /// # Errors
    /// As of [`contents`](Self::contents).
    pub fn resources(
        &self,
        snapshot: &IdentitySnapshot,
        flavour: Flavour,
        now: SystemTime,
    ) -> Result<ResourceSet, EncodeError> {
        let contents = self.contents(&Arc::new(snapshot.clone()), now)?;
        Ok(ResourceSet::from(self.x509(&contents, flavour)?))
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
