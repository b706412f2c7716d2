//! How identities become xDS resources: pure, so that every name, flavour and order can be tested without a socket.

mod builder;
mod encode;
pub mod jwks;
mod name;
mod rollout;

use std::{collections::BTreeSet, sync::Arc, time::Duration, time::SystemTime};

pub use builder::Part;
pub use encode::EncodeError;
pub use name::{JwtName, Naming, SecretName, TokenForm, dot_free, is_reserved};
pub use rollout::{Change, stages};

use crate::{
    identity::{IdentitySnapshot, JwtRequest, JwtSnapshot, JwtState, TrustBundle},
    xds::{Absence, EnvoyVersion, Node, Origin, Rank, ResourceSet},
};
use builder::Builder;

/// What the catalog serves and how a change of it is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The names that stand for "the default identity", "our bundle" and "all bundles".
    pub naming: Naming,
    /// Serve plain `trusted_ca` contexts instead of the SPIFFE certificate validator (SPIRE's option of this name).
    pub disable_spiffe_cert_validation: bool,
    /// Answer an empty first name list with everything the peer may have, as SPIRE does. Off: it gets nothing,
    /// because Envoy also sends an empty list when its last listener goes.
    pub wildcard: bool,
    /// How long new trust is in place before certificates that need it, and old trust after the last that needed it.
    pub rollout_hold: Duration,
    /// The tokens that are served. Every other token name is impossible, so that no client makes us mint one.
    pub jwt_svids: BTreeSet<JwtRequest>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            disable_spiffe_cert_validation: false,
            wildcard: false,
            rollout_hold: Duration::from_millis(250),
            jwt_svids: BTreeSet::new(),
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
    naming: Arc<Naming>,
    origin: Arc<Origin>,
    jwt_svids: BTreeSet<JwtRequest>,
}

impl SecretCatalog {
    /// A catalog whose resources say that they come from `origin`.
    #[must_use]
    pub fn new(naming: Naming, origin: Arc<Origin>) -> Self {
        Self { naming: Arc::new(naming), origin, jwt_svids: BTreeSet::new() }
    }

    /// The same with these tokens, and no others.
    #[must_use]
    pub fn jwt_svids(mut self, requests: BTreeSet<JwtRequest>) -> Self {
        self.jwt_svids = requests;
        self
    }

    /// The same with other names.
    #[must_use]
    pub fn named(self, naming: Naming) -> Self {
        Self { naming: Arc::new(naming), ..self }
    }

    /// Every resource that `snapshot` gives to a client of this flavour at `now`, without tokens.
    ///
    /// # Errors
    /// As of [`x509`](Self::x509).
    pub fn resources(
        &self,
        snapshot: &IdentitySnapshot,
        flavour: Flavour,
        now: SystemTime,
    ) -> Result<ResourceSet, EncodeError> {
        Ok(ResourceSet::from(self.x509(snapshot, flavour, now)?))
    }

    /// The certificates and contexts that `snapshot` gives to a client of this flavour at `now`.
    ///
    /// A certificate that has expired is withheld: who holds it keeps it (its peers will refuse it), and nobody gets
    /// it anew.
    ///
    /// # Errors
    /// [`EncodeError`]; then nothing of the snapshot must be published.
    pub fn x509(&self, snapshot: &IdentitySnapshot, flavour: Flavour, now: SystemTime) -> Result<Part, EncodeError> {
        let mut set = Builder::new(&self.origin);
        self.certificates(snapshot, now, &mut set)?;
        self.contexts(snapshot, flavour, &mut set)?;
        Ok(set.finish(self.possible(snapshot, flavour)))
    }

    /// The tokens at `now`: one that is not there yet is withheld, one that is gone is an empty secret.
    ///
    /// Whatever has not changed since `before` is not encoded again.
    #[must_use]
    pub fn tokens(&self, snapshot: &JwtSnapshot, now: SystemTime, before: Option<&Part>) -> Part {
        let mut set = Builder::new(&self.origin).reusing(before);
        for request in &self.jwt_svids {
            let state = snapshot.svids.get(request).unwrap_or(&JwtState::Pending);
            for form in TokenForm::ALL {
                let name = JwtName { form, request: request.clone() }.to_string();
                let token = match state {
                    JwtState::Pending => {
                        set.withhold(&name);
                        continue;
                    }
                    // The end of its life is inclusive for certificates and exclusive for tokens (RFC 7519, 4.1.4).
                    JwtState::Valid(svid) if now < svid.validity.not_after => Some(&svid.token),
                    JwtState::Valid(_) | JwtState::Gone(_) => None,
                };
                set.add(&name, form == TokenForm::Raw, Rank::Credential, &mut encode::generic(token, form));
            }
        }
        set.finish(Arc::new(|_| false))
    }

    /// What is served to a workload that is entitled to nothing: no certificate and no context is impossible, and
    /// none is there.
    #[must_use]
    pub fn nothing(&self) -> Part {
        let naming = self.naming.clone();
        let possible = move |name: &str| !matches!(SecretName::parse(name, &naming), Some(SecretName::Jwt(_)));
        Builder::new(&self.origin).finish(Arc::new(possible))
    }

    fn certificates(&self, snapshot: &IdentitySnapshot, now: SystemTime, set: &mut Builder) -> Result<(), EncodeError> {
        for (at, svid) in snapshot.svids.iter().enumerate() {
            let id = svid.id.to_string();
            let mut names = vec![(id.as_str(), true)];
            if at == 0 {
                names.push((self.naming.default_svid.as_str(), false));
            }
            if svid.validity.is_expired(now) {
                names.into_iter().for_each(|(name, _)| set.withhold(name));
                continue;
            }
            let mut payload = encode::certificate(svid)?;
            for (name, listed) in names {
                set.add(name, listed, Rank::Credential, &mut payload);
            }
        }
        Ok(())
    }

    fn contexts(&self, snapshot: &IdentitySnapshot, flavour: Flavour, set: &mut Builder) -> Result<(), EncodeError> {
        for bundle in snapshot.bundles.values() {
            let name = format!("spiffe://{}", bundle.trust_domain());
            let own = snapshot.own_bundle().is_some_and(|own| own == bundle);
            let names = [(name.as_str(), true)].into_iter();
            let names = names.chain(own.then_some((self.naming.default_bundle.as_str(), false)));
            set.add_context(names, encode::validation(flavour, &[bundle])?);
        }
        let all: Vec<&TrustBundle> = snapshot.bundles.values().map(AsRef::as_ref).collect();
        let taken = self.naming.all_bundles == self.naming.default_bundle;
        if flavour == Flavour::Spiffe && !taken && !all.is_empty() {
            let names = [(self.naming.all_bundles.as_str(), false)].into_iter();
            set.add_context(names, encode::validation(flavour, &all)?);
        }
        Ok(())
    }

    /// Names that may get a meaning later. Only what the grammar, the flavour or the trust domain rules out is
    /// impossible: registrations are eventually consistent, and an Envoy that is told "no" opens its port without
    /// a certificate instead of waiting.
    fn possible(&self, snapshot: &IdentitySnapshot, flavour: Flavour) -> Absence {
        let naming = self.naming.clone();
        let domains: Vec<_> = snapshot.svids.iter().map(|svid| svid.id.trust_domain().clone()).collect();
        let own = snapshot.trust_domain.clone();
        Arc::new(move |name| match SecretName::parse(name, &naming) {
            // Every token there is has its entry already.
            None | Some(SecretName::Jwt(_)) => false,
            Some(SecretName::AllBundles) => flavour == Flavour::Spiffe,
            Some(SecretName::Svid(id)) => {
                let td = id.trust_domain();
                (domains.is_empty() && own.is_none()) || domains.contains(td) || own.as_ref() == Some(td)
            }
            Some(SecretName::DefaultSvid | SecretName::OwnBundle | SecretName::Bundle(_)) => true,
        })
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
