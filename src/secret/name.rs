//! What a resource name denotes.

mod file;
mod jwt;

pub use jwt::{JwtName, TokenForm};

use std::borrow::Cow;

use thiserror::Error;

use crate::identity::{FileRequest, SpiffeId, TrustDomain};

/// The three names that are not SPIFFE IDs, with SPIRE's defaults (`sds` block of its agent configuration).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The default identity's certificate and key.
    pub default_svid: String,
    /// The validation context of the workload's own trust domain.
    pub default_bundle: String,
    /// The validation context of every known trust domain (SPIFFE validator only).
    pub all_bundles: String,
}

impl Default for Naming {
    fn default() -> Self {
        Self { default_svid: "default".into(), default_bundle: "ROOTCA".into(), all_bundles: "ALL".into() }
    }
}

impl Naming {
    /// The key of the configuration that gives `name` its meaning, if one does.
    #[must_use]
    pub fn reserved(&self, name: &str) -> Option<&'static str> {
        let names = [
            (&self.default_svid, "default_svid_name"),
            (&self.default_bundle, "default_bundle_name"),
            (&self.all_bundles, "default_all_bundles_name"),
        ];
        names.into_iter().find(|(reserved, _)| *reserved == name).map(|(_, key)| key)
    }

    /// Whether `name` has a meaning already.
    #[must_use]
    pub fn reserves(&self, name: &str) -> bool {
        self.reserved(name).is_some()
    }
}

/// Why a name cannot be given to something: it looks like one that has a meaning already, or is hard to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nobody can ask for it.
    #[error("is empty; write the name that Envoy asks for")]
    Empty,
    /// Those name themselves.
    #[error("looks like a SPIFFE ID, which names itself; write another name")]
    SpiffeId,
    /// Those do too.
    #[error("looks like the name of a token, which names itself; write another name")]
    Token,
    /// Invisible or not allowed in a log line.
    #[error("holds white space or control characters; write another name")]
    Unprintable,
    /// Two spellings of one name.
    #[error("holds `%2E`, which stands for a dot in every name; write the dot")]
    EncodedDot,
}

/// Whether `name` can be given to something.
///
/// # Errors
/// [`NameError`].
pub fn check(name: &str) -> Result<(), NameError> {
    let lower = name.to_ascii_lowercase();
    match () {
        () if name.is_empty() => Err(NameError::Empty),
        () if lower.starts_with("spiffe:") => Err(NameError::SpiffeId),
        () if is_reserved(&lower) => Err(NameError::Token),
        () if name.contains(|c: char| c.is_control() || c.is_whitespace()) => Err(NameError::Unprintable),
        () if lower.contains("%2e") => Err(NameError::EncodedDot),
        () => Ok(()),
    }
}

/// What a name denotes, whether or not such a thing exists now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretName {
    /// The default identity.
    DefaultSvid,
    /// The identity with this SPIFFE ID.
    Svid(SpiffeId),
    /// The workload's own trust domain.
    OwnBundle,
    /// This trust domain.
    Bundle(TrustDomain),
    /// Every known trust domain.
    AllBundles,
    /// A token.
    Jwt(JwtName),
    /// What is in files.
    File(FileRequest),
}

impl SecretName {
    /// Reads a name as clients write it; `None` denotes nothing, now or ever.
    ///
    /// Where two of the configured names are equal the order is SPIRE's: default SVID, default bundle, all bundles.
    #[must_use]
    pub fn parse(name: &str, naming: &Naming) -> Option<Self> {
        let name = decode_dots(name);
        if *name == *naming.default_svid {
            return Some(Self::DefaultSvid);
        }
        if *name == *naming.default_bundle {
            return Some(Self::OwnBundle);
        }
        if *name == *naming.all_bundles {
            return Some(Self::AllBundles);
        }
        if let Some(jwt) = JwtName::parse(&name) {
            return Some(Self::Jwt(jwt));
        }
        if is_file(&name) {
            return file::parse(&name).map(Self::File);
        }
        // The parsers also read a bare "example.org" and fold upper case; a resource name is the full ID, byte for byte.
        let authority = name.strip_prefix("spiffe://")?;
        if authority.contains('/') {
            let id = SpiffeId::new(&*name).ok().filter(|id| id.to_string() == *name);
            return id.map(Self::Svid);
        }
        let td = TrustDomain::new(authority).ok().filter(|td| td.as_ref() == authority);
        td.map(Self::Bundle)
    }
}

/// Whether a name is in the space of token names, whatever it denotes there; a configured name must not be.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("jwt:") || name.starts_with("jwt-bearer:") || name.starts_with("spiffe:")
}

/// Whether a name is in the space of names of files, whatever it denotes there.
#[must_use]
pub fn is_file(name: &str) -> bool {
    name.starts_with(file::CERTIFICATE) || name.starts_with(file::ROOTS)
}

/// The dot-free spelling of a name, if it differs: Envoy builds statistics from secret names and splits those at dots,
/// which tears its Prometheus metrics apart (envoy#42211). A SPIFFE ID never contains `%`, so nothing is ambiguous.
#[must_use]
pub fn dot_free(name: &str) -> Option<String> {
    name.contains('.').then(|| name.replace('.', "%2E"))
}

pub(super) fn decode_dots(name: &str) -> Cow<'_, str> {
    if name.contains('%') { Cow::Owned(name.replace("%2E", ".")) } else { Cow::Borrowed(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<SecretName> {
        SecretName::parse(name, &Naming::default())
    }

    #[test]
    fn names_as_spire_reads_them() {
        assert_eq!(parse("default"), Some(SecretName::DefaultSvid));
        assert_eq!(parse("ROOTCA"), Some(SecretName::OwnBundle));
        assert_eq!(parse("ALL"), Some(SecretName::AllBundles));
        let id = SpiffeId::new("spiffe://example.org/w").unwrap();
        assert_eq!(parse("spiffe://example.org/w"), Some(SecretName::Svid(id)));
        let td = TrustDomain::new("example.org").unwrap();
        assert_eq!(parse("spiffe://example.org"), Some(SecretName::Bundle(td)));
    }

    #[test]
    fn dot_free_names_denote_the_same() {
        for name in ["spiffe://example.org/w.v1", "spiffe://example.org"] {
            assert_eq!(parse(&dot_free(name).unwrap()), parse(name));
        }
        assert_eq!(dot_free("default"), None);
    }

    #[test]
    fn everything_else_denotes_nothing() {
        for name in ["", "example.org", "DEFAULT", "spiffe://", "spiffe://UPPER/x", "spiffe://a/../b", "*"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn the_default_bundle_wins_over_all_bundles() {
        let naming = Naming { default_bundle: "ALL".into(), ..Naming::default() };
        assert_eq!(SecretName::parse("ALL", &naming), Some(SecretName::OwnBundle));
    }
}
