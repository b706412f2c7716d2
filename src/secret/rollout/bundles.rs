//! Trust before, after and in between.

use std::{collections::BTreeMap, sync::Arc};

use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use super::Authority;
use crate::identity::{IdentitySnapshot, TrustBundle, TrustDomain};

pub(super) type Bundles = BTreeMap<TrustDomain, Arc<TrustBundle>>;

/// What proxies notice of a step from one state to the next.
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

/// A trust domain that is withdrawn stays as a bundle without authorities: a removal takes nothing away from
/// Envoy, while a context that trusts nobody fails closed.
pub(super) fn with_withdrawn(old: &Bundles, new: &Bundles) -> Bundles {
    let withdrawn = old.keys().filter(|td| !new.contains_key(*td));
    let empty = withdrawn.map(|td| (td.clone(), Arc::new(TrustBundle::new(td.clone(), Vec::new()))));
    empty.chain(new.iter().map(|(td, bundle)| (td.clone(), bundle.clone()))).collect()
}

/// Everything that either trusts.
pub(super) fn union(old: &Bundles, new: &Bundles) -> Bundles {
    let mut both = old.clone();
    for (td, bundle) in new {
        let merged = both.get(td).map_or_else(|| bundle.clone(), |before| Arc::new(before.union(bundle)));
        both.insert(td.clone(), merged);
    }
    both
}

/// `both` without the authorities that are not in `last` and are `gone`.
pub(super) fn remaining(both: &Bundles, last: &Bundles, gone: impl Fn(&Authority) -> bool) -> Bundles {
    let bundle = |(td, bundle): (&TrustDomain, &Arc<TrustBundle>)| {
        let authorities = bundle.authorities().iter();
        let kept = authorities.filter(|authority| !gone(&(td.clone(), (*authority).clone()))).cloned();
        let kept = TrustBundle::new(td.clone(), kept.collect());
        let whole = last.get(td).filter(|last| ***last == kept).cloned();
        (td.clone(), whole.unwrap_or_else(|| Arc::new(kept)))
    };
    both.iter().map(bundle).collect()
}

/// As long as an authority is trusted its revocation list counts; one without the other would be worse than neither. Of
/// the former lists those stay that no newer one takes the place of.
pub(super) fn with_lists(old: &[Arc<[u8]>], new: &[Arc<[u8]>]) -> Vec<Arc<[u8]>> {
    if old == new {
        return new.to_vec();
    }
    let issuers: Vec<_> = new.iter().filter_map(|list| issuer(list)).collect();
    let former = old.iter().filter(|list| issuer(list).is_none_or(|issuer| !issuers.contains(&issuer)));
    let mut lists: Vec<_> = former.chain(new).cloned().collect();
    lists.sort_unstable();
    lists.dedup();
    lists
}

/// The name and the key of who signed a list: several authorities may have one name. `None` where the key is not named.
fn issuer(list: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    let key = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
        _ => None,
    })?;
    Some((list.issuer().as_raw().to_vec(), key.0.to_vec()))
}
