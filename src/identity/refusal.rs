//! What a source sent and is not served: each thing by itself, with the rule that it breaks.

use std::{fmt, sync::Arc, time::SystemTime};

use spiffe::TrustDomain;

/// Names come from the wire and go into logs and onto pages.
const NAME_CHARACTERS: usize = 256;

/// One thing that a source sent and that is left out; everything beside it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is left out.
    pub item: RefusedItem,
    /// The rule that it breaks, and what to do about it.
    pub reason: Arc<str>,
    /// How many things this stands for: 1, but for those beyond a limit, which are told as one.
    pub count: usize,
    /// Its place in the message, from 0, where the order means something.
    pub position: Option<usize>,
    /// When it breaks the rule no more though nobody sends anything: an SVID whose life has not begun.
    pub heals_at: Option<SystemTime>,
    /// Whether what was good of it before is in service in its place.
    pub kept: bool,
}

/// What is left out. Equal in two messages when it is the same thing, whatever its place and whatever is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusedItem {
    /// An X.509-SVID.
    Svid {
        /// The SPIFFE ID that the message gives it, or whatever stands there.
        spiffe_id: Arc<str>,
    },
    /// All X.509 authorities of a trust domain.
    Bundle {
        /// The trust domain, or whatever stands there.
        trust_domain: Arc<str>,
    },
    /// A bundle without authorities. That is a statement, and is obeyed: nobody of this trust domain is trusted.
    EmptyBundle {
        /// Which trust domain.
        trust_domain: TrustDomain,
    },
    /// One of the X.509 authorities of a trust domain.
    Authority {
        /// Which trust domain.
        trust_domain: TrustDomain,
        /// Its subject and serial number; its place in the bundle where it has none that can be read.
        authority: Arc<str>,
    },
    /// A certificate revocation list.
    Crl {
        /// Its place in the message, counted from 1.
        number: usize,
    },
    /// All JWT keys of a trust domain.
    JwtBundle {
        /// The trust domain, or whatever stands there.
        trust_domain: Arc<str>,
    },
    /// One of the JWT keys of a trust domain.
    JwtKey {
        /// Which trust domain.
        trust_domain: TrustDomain,
        /// Its `kid`; its place in the set where it has none.
        key: Arc<str>,
    },
    /// Everything of one kind beyond a limit.
    Surplus {
        /// The [kind](RefusedItem::kind) that there is too much of.
        of: &'static str,
    },
}

impl Refusal {
    /// One thing and what is wrong with it.
    #[must_use]
    pub fn new(item: RefusedItem, reason: impl Into<Arc<str>>) -> Self {
        Self { item, reason: reason.into(), count: 1, position: None, heals_at: None, kept: false }
    }

    /// Everything of one kind that is beyond a limit.
    #[must_use]
    pub fn surplus(of: &'static str, count: usize, reason: impl Into<Arc<str>>) -> Self {
        Self { count, ..Self::new(RefusedItem::Surplus { of }, reason) }
    }

    /// With its place in the message, from 0.
    #[must_use]
    pub fn at(self, position: usize) -> Self {
        Self { position: Some(position), ..self }
    }
}

/// For messages: `the SVID of spiffe://example.org/web: it expired ...`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.item, self.reason)
    }
}

impl RefusedItem {
    /// Every [kind](Self::kind), and so every value of the metrics' label.
    pub const KINDS: [&'static str; 6] = ["svid", "bundle", "authority", "crl", "jwt_bundle", "jwt_key"];

    /// An X.509-SVID by the name that the message gives it, which may be anything.
    #[must_use]
    pub fn svid(spiffe_id: &str) -> Self {
        Self::Svid { spiffe_id: shown(spiffe_id) }
    }

    /// A bundle by the key that the message gives it, which may be anything.
    #[must_use]
    pub fn bundle(trust_domain: &str) -> Self {
        Self::Bundle { trust_domain: shown(trust_domain) }
    }

    /// An authority by its subject and serial number, or its place.
    #[must_use]
    pub fn authority(trust_domain: TrustDomain, authority: &str) -> Self {
        Self::Authority { trust_domain, authority: shown(authority) }
    }

    /// A set of JWT keys by the key that the message gives it, which may be anything.
    #[must_use]
    pub fn jwt_bundle(trust_domain: &str) -> Self {
        Self::JwtBundle { trust_domain: shown(trust_domain) }
    }

    /// A JWT key by its `kid`, or its place.
    #[must_use]
    pub fn jwt_key(trust_domain: TrustDomain, key: &str) -> Self {
        Self::JwtKey { trust_domain, key: shown(key) }
    }

    /// The stable name of what it is, for metrics and scripts.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Svid { .. } => "svid",
            Self::Bundle { .. } | Self::EmptyBundle { .. } => "bundle",
            Self::Authority { .. } => "authority",
            Self::Crl { .. } => "crl",
            Self::JwtBundle { .. } => "jwt_bundle",
            Self::JwtKey { .. } => "jwt_key",
            Self::Surplus { of } => of,
        }
    }

    /// The trust domain that it is about, where it is about one by a name that can be one.
    #[must_use]
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        match self {
            Self::EmptyBundle { trust_domain }
            | Self::Authority { trust_domain, .. }
            | Self::JwtKey { trust_domain, .. } => Some(trust_domain.clone()),
            Self::Bundle { trust_domain } | Self::JwtBundle { trust_domain } => TrustDomain::new(trust_domain).ok(),
            Self::Svid { spiffe_id } => TrustDomain::new(spiffe_id).ok(),
            Self::Crl { .. } | Self::Surplus { .. } => None,
        }
    }
}

impl fmt::Display for RefusedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Svid { spiffe_id } if spiffe_id.is_empty() => f.write_str("an SVID without a SPIFFE ID"),
            Self::Svid { spiffe_id } => write!(f, "the SVID of {spiffe_id}"),
            Self::Bundle { trust_domain } if trust_domain.is_empty() => {
                f.write_str("a trust bundle without a trust domain")
            }
            Self::Bundle { trust_domain } => write!(f, "the trust bundle of {trust_domain}"),
            Self::EmptyBundle { trust_domain } => write!(f, "the trust bundle of {trust_domain}"),
            Self::Authority { trust_domain, authority } => write!(f, "the authority {authority} of {trust_domain}"),
            Self::Crl { number } => write!(f, "revocation list {number}"),
            Self::JwtBundle { trust_domain } if trust_domain.is_empty() => {
                f.write_str("JWT keys without a trust domain")
            }
            Self::JwtBundle { trust_domain } => write!(f, "the JWT keys of {trust_domain}"),
            Self::JwtKey { trust_domain, key } => write!(f, "the JWT key {key} of {trust_domain}"),
            Self::Surplus { of } => write!(f, "{} beyond the limit", plural(of)),
        }
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "svid" => "SVIDs",
        "bundle" => "trust bundles",
        "authority" => "authorities",
        "crl" => "revocation lists",
        "jwt_bundle" => "JWT bundles",
        "jwt_key" => "JWT keys",
        _ => "things",
    }
}

/// Bounded, and without what a terminal or a log would obey.
fn shown(name: &str) -> Arc<str> {
    name.chars().take(NAME_CHARACTERS).flat_map(char::escape_debug).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_words() {
        let td = || TrustDomain::new("example.org").unwrap();
        let items = [
            (RefusedItem::svid("spiffe://example.org/web"), "svid", "the SVID of spiffe://example.org/web"),
            (RefusedItem::svid(""), "svid", "an SVID without a SPIFFE ID"),
            (RefusedItem::bundle("example.org"), "bundle", "the trust bundle of example.org"),
            (RefusedItem::EmptyBundle { trust_domain: td() }, "bundle", "the trust bundle of example.org"),
            (
                RefusedItem::authority(td(), "CN=a, serial 0b"),
                "authority",
                "the authority CN=a, serial 0b of example.org",
            ),
            (RefusedItem::Crl { number: 2 }, "crl", "revocation list 2"),
            (RefusedItem::jwt_bundle("example.org"), "jwt_bundle", "the JWT keys of example.org"),
            (RefusedItem::jwt_key(td(), "kid-1"), "jwt_key", "the JWT key kid-1 of example.org"),
            (RefusedItem::Surplus { of: "svid" }, "svid", "SVIDs beyond the limit"),
        ];
        for (item, kind, words) in items {
            assert_eq!((item.kind(), item.to_string().as_str()), (kind, words));
            assert!(RefusedItem::KINDS.contains(&kind), "{kind}");
        }
        for kind in RefusedItem::KINDS {
            assert_ne!(plural(kind), "things", "{kind}");
        }
    }

    #[test]
    fn names_from_the_wire_are_short_and_harmless() {
        let RefusedItem::Svid { spiffe_id } = RefusedItem::svid("spiffe://a/\u{1b}[31m\n\u{202e}x") else { panic!() };
        assert_eq!(&*spiffe_id, "spiffe://a/\\u{1b}[31m\\n\\u{202e}x");
        let RefusedItem::Bundle { trust_domain } = RefusedItem::bundle(&"a".repeat(1 << 20)) else { panic!() };
        assert_eq!(trust_domain.len(), NAME_CHARACTERS);
    }

    #[test]
    fn whose_trust_domain_it_is_about() {
        let of = |item: RefusedItem| item.trust_domain().map(|td| td.to_string());
        assert_eq!(of(RefusedItem::svid("spiffe://example.org/web")).as_deref(), Some("example.org"));
        assert_eq!(of(RefusedItem::bundle("example.org")).as_deref(), Some("example.org"));
        assert_eq!(of(RefusedItem::Crl { number: 1 }), None);
    }
}
