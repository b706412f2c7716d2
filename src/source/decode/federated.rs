//! The bundles of other trust domains: each counts for itself.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Limits, Precedence,
    bundle::{self, BundleError},
    surplus,
};
use crate::{
    identity::{Refusal, RefusedItem, TrustBundle, TrustDomain},
    telemetry::logs::chain,
};

/// Adds the bundles of other trust domains to `bundles`, as many as there is `room` for. Returns the trust domain that all
/// of the keys are about, if they are about one.
pub(super) fn add<'a>(
    wire: impl IntoIterator<Item = (&'a String, &'a Bytes)>,
    bundles: &mut BTreeMap<TrustDomain, TrustBundle>,
    (room, precedence): (usize, &Precedence),
    limits: &Limits,
    refusals: &mut Vec<Refusal>,
) -> Option<TrustDomain> {
    // The spelling of the standard first: of two keys that denote one trust domain it counts.
    let mut wire: Vec<_> = wire.into_iter().collect();
    wire.sort_by_key(|(name, _)| (!name.starts_with("spiffe://"), *name));
    let mut named: BTreeMap<TrustDomain, &Bytes> = BTreeMap::new();
    for (name, der) in wire {
        let reason = match bundle::trust_domain(name) {
            None => "its key is no trust domain ID; it must look like spiffe://example.org".to_owned(),
            Some(domain) if named.get(&domain).is_none_or(|known| *known == der) => {
                named.insert(domain, der);
                continue;
            }
            Some(domain) => format!("there is another one under the key spiffe://{domain}, which counts; send one"),
        };
        refusals.push(Refusal::new(RefusedItem::bundle(name), reason));
    }
    let only = if named.len() == 1 { named.keys().next().cloned() } else { None };
    named.retain(|domain, _| !bundles.contains_key(domain));
    let fitting = precedence.bundles(named.keys().cloned().collect(), room);
    let beyond = named.len() - fitting.len();
    named.retain(|domain, _| fitting.contains(domain));
    refusals.extend(surplus(beyond, "bundle", limits.bundles, "limits.source.bundles, or federate with fewer"));
    for (domain, der) in named {
        match bundle::authorities(der, limits) {
            Ok(all) => {
                refusals.extend(refused_authorities(&domain, &all));
                if all.good.is_empty() {
                    refusals.push(Refusal::new(RefusedItem::EmptyBundle { trust_domain: domain.clone() }, EMPTY));
                }
                bundles.insert(domain.clone(), TrustBundle::new(domain, all.good));
            }
            Err(error) => refusals.push(Refusal::new(RefusedItem::bundle(domain.as_ref()), chain(&error))),
        }
    }
    only
}

/// An empty bundle is what the standard has for "trust nobody there with X.509" (X.509-SVID, section 6). It is obeyed, and
/// told, because issuers send it by mistake too.
const EMPTY: &str = "it is empty, so nobody of this trust domain is trusted with X.509; if that is not meant, correct the \
                     federation at the issuer";

pub(super) fn refused_authorities(domain: &TrustDomain, all: &bundle::Authorities) -> impl Iterator<Item = Refusal> {
    let refused = |(name, error): &(String, BundleError)| {
        Refusal::new(RefusedItem::authority(domain.clone(), name), chain(error))
    };
    all.bad.iter().map(refused).collect::<Vec<_>>().into_iter()
}
