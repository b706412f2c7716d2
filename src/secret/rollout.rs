//! The order in which a change reaches proxies: trust grows, certificates change, trust shrinks.
//!
//! Two proxies never switch at the same moment. When a new authority and a certificate signed by it go out together, a
//! proxy that already has the certificate meets one that does not yet trust it: 151 of 13,529 requests failed that way on
//! real Envoys, and none of 23,266 with trust first and a hold between the steps.

use std::{collections::BTreeMap, sync::Arc};

use crate::identity::{IdentitySnapshot, TrustBundle, TrustDomain};

type Bundles = BTreeMap<TrustDomain, Arc<TrustBundle>>;

/// The states to publish one after another to get from `old` to `new`, with a hold between each two of them.
/// Empty when proxies could not tell the difference.
///
/// A trust domain that is withdrawn stays as a bundle without authorities: a removal takes nothing away from
/// Envoy, while a context that trusts nobody fails closed.
#[must_use]
pub fn stages(old: &IdentitySnapshot, new: &IdentitySnapshot) -> Vec<IdentitySnapshot> {
    let last = IdentitySnapshot { bundles: with_withdrawn(&old.bundles, &new.bundles), ..new.clone() };
    let both = union(&old.bundles, &last.bundles);
    let mut stages = Vec::new();
    // As long as an authority is trusted its revocation list counts; one without the other would be worse than neither.
    let mut crls = [old.crls.as_slice(), &last.crls].concat();
    crls.sort_unstable();
    crls.dedup();
    if both != old.bundles && old.svids != last.svids {
        stages.push(IdentitySnapshot { bundles: both.clone(), crls: crls.clone(), ..old.clone() });
    }
    if both != last.bundles && (old.svids != last.svids || both != old.bundles) {
        stages.push(IdentitySnapshot { bundles: both, crls, ..last.clone() });
    }
    if last != *old {
        stages.push(last);
    }
    stages
}

/// What proxies notice of a step from one state to the next, and so what the next step may have to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// An authority is trusted that was not.
    pub trust_grows: bool,
    /// A certificate is presented that was not, or no longer.
    pub certificates: bool,
    /// An authority is trusted no longer.
    pub trust_shrinks: bool,
}

impl Change {
    /// What differs between `old` and `new`.
    #[must_use]
    pub fn between(old: &IdentitySnapshot, new: &IdentitySnapshot) -> Self {
        let new_bundles = with_withdrawn(&old.bundles, &new.bundles);
        let both = union(&old.bundles, &new_bundles);
        Self {
            trust_grows: both != old.bundles,
            certificates: old.svids != new.svids,
            trust_shrinks: both != new_bundles,
        }
    }
}

fn with_withdrawn(old: &Bundles, new: &Bundles) -> Bundles {
    let withdrawn = old.keys().filter(|td| !new.contains_key(*td));
    let empty = withdrawn.map(|td| (td.clone(), Arc::new(TrustBundle::new(td.clone(), Vec::new()))));
    empty.chain(new.iter().map(|(td, bundle)| (td.clone(), bundle.clone()))).collect()
}

fn union(old: &Bundles, new: &Bundles) -> Bundles {
    let mut both = old.clone();
    for (td, bundle) in new {
        let merged = both.get(td).map_or_else(|| bundle.clone(), |before| Arc::new(before.union(bundle)));
        both.insert(td.clone(), merged);
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::fixture;

    /// Each stage as "svid serial / authorities of each trust domain".
    fn shown(stages: &[IdentitySnapshot]) -> Vec<String> {
        stages.iter().map(fixture::shown).collect()
    }

    fn snapshot(leaf: &str, bundles: &[(&str, &[&str])]) -> IdentitySnapshot {
        fixture::snapshot(&[("spiffe://example.org/w", leaf)], bundles)
    }

    #[test]
    fn nothing_new_is_no_stage() {
        let state = snapshot("l1", &[("example.org", &["a"])]);
        assert!(stages(&state, &state).is_empty());
    }

    #[test]
    fn a_new_leaf_goes_out_at_once() {
        let old = snapshot("l1", &[("example.org", &["a"])]);
        let new = snapshot("l2", &[("example.org", &["a"])]);
        assert_eq!(shown(&stages(&old, &new)), ["l2 example.org=a"]);
    }

    #[test]
    fn trust_grows_before_the_leaf_and_shrinks_after_it() {
        let old = snapshot("l1", &[("example.org", &["a"])]);
        let new = snapshot("l2", &[("example.org", &["b"])]);
        assert_eq!(shown(&stages(&old, &new)), ["l1 example.org=a,b", "l2 example.org=a,b", "l2 example.org=b"]);
    }

    #[test]
    fn growth_alone_and_shrinking_alone_are_one_stage() {
        let one = snapshot("l1", &[("example.org", &["a"])]);
        let two = snapshot("l1", &[("example.org", &["a", "b"])]);
        assert_eq!(shown(&stages(&one, &two)), ["l1 example.org=a,b"]);
        assert_eq!(shown(&stages(&two, &one)), ["l1 example.org=a"]);
    }

    #[test]
    fn replaced_trust_overlaps_even_without_a_new_leaf() {
        let old = snapshot("l1", &[("example.org", &["a"])]);
        let new = snapshot("l1", &[("example.org", &["b"])]);
        assert_eq!(shown(&stages(&old, &new)), ["l1 example.org=a,b", "l1 example.org=b"]);
    }

    #[test]
    fn each_stage_changes_one_kind_of_thing() {
        let old = snapshot("l1", &[("example.org", &["a"]), ("other.org", &["x"])]);
        let new = snapshot("l2", &[("example.org", &["b"])]);
        let stages = stages(&old, &new);
        let states: Vec<_> = [&old].into_iter().chain(&stages).collect();
        let changes: Vec<_> = states.windows(2).map(|pair| Change::between(pair[0], pair[1])).collect();
        let none = Change::default();
        assert_eq!(
            changes,
            [
                Change { trust_grows: true, ..none },
                Change { certificates: true, ..none },
                Change { trust_shrinks: true, ..none }
            ]
        );
        assert_eq!(Change::between(&new, &new), none);
    }

    /// A peer whose certificate was revoked must not be let in again because its authority is about to go.
    #[test]
    fn a_revocation_list_stays_as_long_as_its_authority() {
        let list = |label: &str| -> Arc<[u8]> { Arc::from(label.as_bytes()) };
        let mut old = snapshot("l1", &[("example.org", &["a"])]);
        old.crls = vec![list("of a")];
        let mut new = snapshot("l2", &[("example.org", &["b"])]);
        new.crls = vec![list("of b")];
        let lists: Vec<_> = stages(&old, &new).into_iter().map(|stage| stage.crls).collect();
        let both = vec![list("of a"), list("of b")];
        assert_eq!(lists, [both.clone(), both, vec![list("of b")]]);
    }

    #[test]
    fn a_withdrawn_trust_domain_stays_as_one_that_trusts_nobody() {
        let old = snapshot("l1", &[("example.org", &["a"]), ("other.org", &["x"])]);
        let new = snapshot("l1", &[("example.org", &["a"])]);
        let done = stages(&old, &new);
        assert_eq!(shown(&done), ["l1 example.org=a other.org="]);
        assert!(stages(&done[0], &new).is_empty(), "and it is not news again");
    }
}
