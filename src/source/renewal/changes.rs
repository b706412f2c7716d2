//! What differs between two states, as events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    identity::{IdentitySnapshot, TrustBundle, TrustDomain},
    secret::DefaultIdentity,
    source::{RenewalEvent, decode},
};

/// Every difference that operators hear of.
pub(super) fn between(
    before: &IdentitySnapshot,
    after: &IdentitySnapshot,
    default: &DefaultIdentity,
) -> Vec<RenewalEvent> {
    let mut events = renewed(before, after);
    events.extend(default_change(before, after, default));
    events.extend(trust_changes(&before.bundles, &after.bundles));
    events.extend(trust_withdrawn(&before.bundles, &after.bundles));
    events
}

/// Another identity is the default one: clients that ask for no other change who they are.
fn default_change(
    before: &IdentitySnapshot,
    after: &IdentitySnapshot,
    default: &DefaultIdentity,
) -> Option<RenewalEvent> {
    let chosen = |snapshot: &IdentitySnapshot| Some(snapshot.svids.get(default.choose(snapshot)?)?.id.clone());
    let (from, to) = (chosen(before)?, chosen(after)?);
    (from != to).then_some(RenewalEvent::DefaultChanged { from, to })
}

fn renewed(before: &IdentitySnapshot, after: &IdentitySnapshot) -> Vec<RenewalEvent> {
    let known = |leaf| before.svids.iter().any(|svid| svid.chain.leaf() == leaf);
    after
        .svids
        .iter()
        .filter(|svid| !known(svid.chain.leaf()))
        .map(|svid| RenewalEvent::Renewed {
            spiffe_id: svid.id.clone(),
            serial: decode::serial(svid.chain.leaf()).into(),
            not_after: svid.validity.not_after,
        })
        .collect()
}

type Bundles = BTreeMap<TrustDomain, Arc<TrustBundle>>;

/// Trust domains that somebody vouched for, and nobody does now.
fn trust_withdrawn(before: &Bundles, after: &Bundles) -> Vec<RenewalEvent> {
    let trusted = |bundle: Option<&Arc<TrustBundle>>| bundle.is_some_and(|bundle| !bundle.authorities().is_empty());
    let gone = before.iter().filter(|(domain, bundle)| trusted(Some(bundle)) && !trusted(after.get(*domain)));
    gone.map(|(domain, _)| RenewalEvent::TrustWithdrawn { trust_domain: domain.clone() }).collect()
}

fn trust_changes(before: &Bundles, after: &Bundles) -> Vec<RenewalEvent> {
    let domains: BTreeSet<&TrustDomain> = before.keys().chain(after.keys()).collect();
    let authorities = |bundles: &Bundles, domain: &TrustDomain| -> BTreeSet<_> {
        bundles.get(domain).map(|bundle| bundle.authorities().iter().cloned().collect()).unwrap_or_default()
    };
    domains
        .into_iter()
        .filter(|domain| before.get(*domain) != after.get(*domain))
        .map(|domain| {
            let (old, new) = (authorities(before, domain), authorities(after, domain));
            RenewalEvent::TrustChanged {
                trust_domain: domain.clone(),
                added: new.difference(&old).count(),
                removed: old.difference(&new).count(),
            }
        })
        .collect()
}
