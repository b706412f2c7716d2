//! Which of several identities is the default one.

use std::fmt;

use super::Pattern;
use crate::identity::{Hint, IdentitySnapshot, SpiffeId};

/// The choice of the default identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DefaultIdentity {
    /// The first that the source names (Workload API, section 5.3).
    #[default]
    First,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The first whose SPIFFE ID is like this.
    Pattern(Pattern),
    /// The one with this hint (Workload API, section 5.2).
    Hint(String),
}

impl DefaultIdentity {
    /// The position of the chosen one among the SVIDs; `None` when none is as wanted. Then there is no default, and
    /// none in its place: a proxy with a wrong identity is worse than one that waits.
    #[must_use]
    pub fn choose(&self, snapshot: &IdentitySnapshot) -> Option<usize> {
        snapshot.svids.iter().position(|svid| self.wants(&svid.id.to_string(), svid.hint.as_ref().map(Hint::as_str)))
    }

    /// Whether the identity with this SPIFFE ID and hint is as wanted; of several the first is the default one.
    #[must_use]
    pub fn wants(&self, id: &str, hint: Option<&str>) -> bool {
        match self {
            Self::First => true,
            Self::Id(wanted) => wanted.to_string() == id,
            Self::Pattern(pattern) => pattern.matches(id),
            Self::Hint(wanted) => hint == Some(wanted),
        }
    }
}

impl fmt::Display for DefaultIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("the first"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Pattern(pattern) => write!(f, "like {pattern}"),
            Self::Hint(hint) => write!(f, "with the hint {hint:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::fixture;

    #[test]
    fn the_choice_is_by_order_id_pattern_or_hint() {
        let ids = ["spiffe://example.org/a", "spiffe://example.org/ns/x/b", "spiffe://example.org/ns/y/b"];
        let mut snapshot = fixture::snapshot(&ids.map(|id| (id, "leaf")), &[]);
        Arc::make_mut(&mut snapshot.svids[2]).hint = Hint::new("internal");
        let choose = |choice: DefaultIdentity| choice.choose(&snapshot);
        assert_eq!(choose(DefaultIdentity::First), Some(0));
        assert_eq!(choose(DefaultIdentity::Id(SpiffeId::new(ids[1]).unwrap())), Some(1));
        assert_eq!(choose(DefaultIdentity::Pattern("spiffe://example.org/ns/*/b".parse().unwrap())), Some(1));
        assert_eq!(choose(DefaultIdentity::Hint("internal".into())), Some(2));
        assert_eq!(choose(DefaultIdentity::Hint("external".into())), None);
        assert_eq!(choose(DefaultIdentity::Pattern("spiffe://example.org/*".parse().unwrap())), Some(0));
    }
}
