//! Why a client is not given a name, in words that lead to the cure.

use thiserror::Error;

use super::{Config, SecretName, builder::is_allowed, name::decode_dots, table::Target};
use crate::xds::{Lookup, ResourceSet};

/// Why a client is not given a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Missing {
    /// No grammar has it, and no entry of the table.
    #[error("no such name: neither a SPIFFE ID nor configured under secrets")]
    Meaningless,
    /// A certificate of somebody else's.
    #[error("a certificate of a trust domain that is none of ours")]
    ForeignTrustDomain,
    /// Ruled out by the operator.
    #[error("secrets.allowed_names does not allow it")]
    NotAllowed,
    /// A token that is not fetched.
    #[error("a token that is not configured under jwt.svids")]
    TokenNotConfigured,
    /// A file that is not allowed, or not spelt plainly.
    #[error("a file that secrets.files.allow does not name, or not in its plain spelling")]
    FileNotAllowed,
    /// Everything is not for the asking.
    #[error("asking for everything is off: secrets.wildcard")]
    WildcardOff,
    /// A context of several trust domains needs the SPIFFE validator.
    #[error("several trust domains in one need the SPIFFE certificate validator, which this client does not use")]
    NeedsValidator,
    /// It may come.
    #[error("not registered (yet): no such identity or trust bundle has been received")]
    NotRegistered,
    /// The source has not answered.
    #[error("no identity has been received yet")]
    NothingReceived,
    /// It comes with a later step of a roll-out.
    #[error("comes with the next step of the roll-out that is under way")]
    KeptBack,
    /// It is there.
    #[error("cannot be served now: an expired certificate, a token that is not granted, or a file that cannot be read")]
    Withheld,
}

impl Missing {
    /// Whether nothing but a change of the configuration, here or at the client, can help.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::NotRegistered | Self::NothingReceived | Self::KeptBack | Self::Withheld)
    }
}

impl Config {
    /// Why a client that sees `now` is not given `name`; `None` if it is.
    #[must_use]
    pub fn missing(&self, name: &str, now: &ResourceSet) -> Option<Missing> {
        match now.lookup(name) {
            Lookup::Available(_) => None,
            Lookup::KeptBack(_) => Some(Missing::KeptBack),
            Lookup::Withheld if !now.is_known() => Some(Missing::NothingReceived),
            Lookup::Withheld => Some(Missing::Withheld),
            Lookup::Absent => Some(Missing::NotRegistered),
            Lookup::Impossible => Some(self.impossible(&decode_dots(name))),
        }
    }

    fn impossible(&self, name: &str) -> Missing {
        if let Some((_, target)) = self.names.fixed().iter().find(|(fixed, _)| fixed == name) {
            return match target {
                Target::Svid(_) => Missing::ForeignTrustDomain,
                Target::Context(_) => Missing::NeedsValidator,
                Target::Jwt(_) => Missing::TokenNotConfigured,
            };
        }
        let parsed = SecretName::parse(name, &self.naming);
        match parsed {
            None if name == "*" => Missing::WildcardOff,
            None if super::is_file(name) => Missing::FileNotAllowed,
            _ if !is_allowed(name, self.allowed.as_deref()) => Missing::NotAllowed,
            Some(SecretName::Svid(_)) => Missing::ForeignTrustDomain,
            Some(SecretName::Jwt(_)) => Missing::TokenNotConfigured,
            Some(SecretName::File(_)) => Missing::FileNotAllowed,
            Some(SecretName::AllBundles) => Missing::NeedsValidator,
            None | Some(SecretName::DefaultSvid | SecretName::OwnBundle | SecretName::Bundle(_)) => {
                Missing::Meaningless
            }
        }
    }
}
