//! What a message leaves in service of what it refuses: the last good state of each such thing.
//!
//! Pure. What the message does not mention is not kept here: that is a withdrawal, and has rules of its own.
//!
//! | Refused | Kept of what is in service |
//! |---|---|
//! | an SVID | the one of that SPIFFE ID, in its place, as long as the bundle of its trust domain vouches for it |
//! | a bundle | the one of that trust domain |
//! | a bundle that is empty | nothing: it says that nobody is trusted |
//! | an authority | nothing: the others are what the source says |
//! | a revocation list | those of the issuers that no list of the message is from |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use super::decode;
use crate::identity::{IdentitySnapshot, Refusal, RefusedItem, Svid, TrustDomain};

/// `new`, with the last good state of what was left out of it, as far as `previous` has that. Both are of one source.
pub(super) fn retain_last_good(
    previous: &IdentitySnapshot,
    mut new: IdentitySnapshot,
    now: SystemTime,
) -> IdentitySnapshot {
    if new.refusals.is_empty() {
        return new;
    }
    let mut refusals = std::mem::take(&mut new.refusals);
    for refusal in &mut refusals {
        let RefusedItem::Bundle { trust_domain } = &refusal.item else { continue };
        let Ok(trust_domain) = TrustDomain::new(trust_domain) else { continue };
        refusal.kept = keep_bundle(previous, &mut new, &trust_domain);
    }
    keep_svids(previous, &mut new, &mut refusals, now);
    keep_crls(previous, &mut new, &mut refusals);
    IdentitySnapshot { refusals, ..new }
}

/// Says whether there is one to keep.
fn keep_bundle(previous: &IdentitySnapshot, new: &mut IdentitySnapshot, trust_domain: &TrustDomain) -> bool {
    match previous.bundles.get(trust_domain) {
        Some(bundle) if !new.bundles.contains_key(trust_domain) => {
            new.bundles.insert(trust_domain.clone(), bundle.clone());
            true
        }
        _ => false,
    }
}

fn keep_svids(previous: &IdentitySnapshot, new: &mut IdentitySnapshot, refusals: &mut [Refusal], now: SystemTime) {
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    let mut kept: BTreeMap<usize, Arc<Svid>> = BTreeMap::new();
    for refusal in refusals {
        let (RefusedItem::Svid { spiffe_id }, Some(position)) = (&refusal.item, refusal.position) else { continue };
        let candidate = previous.svids.iter().enumerate().find(|(place, svid)| {
            let replaced = new.svids.iter().any(|it| it.id == svid.id && it.hint == svid.hint);
            svid.id.to_string() == **spiffe_id && !taken.contains(place) && !replaced
        });
        let Some((place, svid)) = candidate else { continue };
        let trust_domain = svid.id.trust_domain();
        keep_bundle(previous, new, trust_domain);
        if new.bundles.get(trust_domain).is_some_and(|bundle| decode::vouches(svid, bundle, now)) {
            taken.insert(place);
            kept.insert(position, svid.clone());
            refusal.kept = true;
        }
    }
    if kept.is_empty() {
        return;
    }
    // Those that are good stand in the places that are left.
    let mut good = std::mem::take(&mut new.svids).into_iter();
    let mut hints: BTreeSet<_> = good.as_slice().iter().filter_map(|svid| svid.hint.clone()).collect();
    let mut kept = kept.into_iter().peekable();
    loop {
        match kept.next_if(|(position, _)| *position <= new.svids.len() || good.len() == 0) {
            Some((_, mut svid)) => {
                // A hint is unique, and what the source says now counts.
                if svid.hint.as_ref().is_some_and(|hint| !hints.insert(hint.clone())) {
                    Arc::make_mut(&mut svid).hint = None;
                }
                new.svids.push(svid);
            }
            None => match good.next() {
                Some(svid) => new.svids.push(svid),
                None => break,
            },
        }
    }
    new.trust_domain = new.svids.first().map(|svid| svid.id.trust_domain().clone());
}

/// Without a list its issuer's certificates would count as not revoked.
fn keep_crls(previous: &IdentitySnapshot, new: &mut IdentitySnapshot, refusals: &mut [Refusal]) {
    let refused: Vec<_> =
        refusals.iter_mut().filter(|refusal| matches!(refusal.item, RefusedItem::Crl { .. })).collect();
    if refused.is_empty() {
        return;
    }
    let issuer = |der: &[u8]| Some(CertificateRevocationList::from_der(der).ok()?.1.issuer().as_raw().to_vec());
    let known: BTreeSet<_> = new.crls.iter().filter_map(|crl| issuer(crl)).collect();
    let kept: Vec<_> = previous
        .crls
        .iter()
        .filter(|crl| issuer(crl).is_some_and(|issuer| !known.contains(&issuer)))
        .cloned()
        .collect();
    for refusal in refused {
        refusal.kept = !kept.is_empty();
    }
    new.crls.extend(kept);
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        identity::{Certificate, CertificateChain, Hint, PrivateKey, SpiffeId, TrustBundle, Validity},
        source::decode::fixture::{Authority, HOUR, now},
    };

    fn id(path: &str) -> SpiffeId {
        SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap()
    }

    fn svid(authority: &Authority, path: &str, hint: &str) -> Arc<Svid> {
        let wire = authority.svid(|_| {});
        Arc::new(Svid {
            id: id(path),
            chain: CertificateChain::new(Certificate::from_der(&wire.x509_svid), Vec::new()),
            key: PrivateKey::from_pkcs8_der(Zeroizing::new(wire.x509_svid_key.to_vec())),
            hint: Hint::new(hint),
            validity: Validity { not_before: now() - HOUR / 2, not_after: now() + HOUR / 2 },
        })
    }

    fn bundle(name: &str, authorities: &[&Authority]) -> (TrustDomain, Arc<TrustBundle>) {
        let td = TrustDomain::new(name).unwrap();
        let authorities = authorities.iter().map(|authority| Certificate::from_der(&authority.der)).collect();
        (td.clone(), Arc::new(TrustBundle::new(td, authorities)))
    }

    fn state(
        svids: &[&Arc<Svid>],
        bundles: &[(TrustDomain, Arc<TrustBundle>)],
        refused: &[(usize, &str)],
    ) -> IdentitySnapshot {
        let refusal = |(position, path): &(usize, &str)| {
            Refusal::new(RefusedItem::svid(&id(path).to_string()), "bad").at(*position)
        };
        IdentitySnapshot {
            svids: svids.iter().map(|svid| Arc::clone(svid)).collect(),
            bundles: bundles.iter().cloned().collect(),
            trust_domain: svids.first().map(|svid| svid.id.trust_domain().clone()),
            crls: Vec::new(),
            refusals: refused.iter().map(refusal).collect(),
        }
    }

    fn merged(before: &IdentitySnapshot, new: IdentitySnapshot) -> IdentitySnapshot {
        retain_last_good(before, new, now())
    }

    fn ids(snapshot: &IdentitySnapshot) -> Vec<&str> {
        snapshot.svids.iter().map(|svid| svid.id.path().trim_start_matches('/')).collect()
    }

    #[test]
    fn a_refused_svid_stays_in_its_place_and_an_absent_one_does_not() {
        let root = Authority::root("root");
        let own = [bundle("example.org", &[&root])];
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|path| svid(&root, path, ""));
        let before = state(&[&a, &b, &c, &d], &own, &[]);
        let after = merged(&before, state(&[&b, &d], &own, &[(0, "a"), (2, "c")]));
        assert_eq!(ids(&after), ["a", "b", "c", "d"]);
        assert_eq!(after.refusals.iter().map(|refusal| refusal.kept).collect::<Vec<_>>(), [true, true]);
        let after = merged(&before, state(&[&d], &own, &[(1, "a"), (2, "new")]));
        assert_eq!(ids(&after), ["d", "a"]);
        assert_eq!(after.refusals.iter().map(|refusal| refusal.kept).collect::<Vec<_>>(), [true, false]);
        assert_eq!(ids(&merged(&before, state(&[&b], &own, &[]))), ["b"]);
    }

    #[test]
    fn what_the_own_bundle_vouches_for_no_more_goes() {
        let (old, new) = (Authority::root("old"), Authority::root("new"));
        let (a, b) = (svid(&old, "a", ""), svid(&new, "b", ""));
        let before = state(&[&a, &b], &[bundle("example.org", &[&old, &new])], &[]);
        let after = merged(&before, state(&[&b], &[bundle("example.org", &[&new])], &[(0, "a")]));
        assert_eq!((ids(&after), after.refusals[0].kept), (vec!["b"], false));
        let after = merged(&before, state(&[&b], &[bundle("example.org", &[&old, &new])], &[(0, "a")]));
        assert_eq!((ids(&after), after.refusals[0].kept), (vec!["a", "b"], true));
    }

    #[test]
    fn of_several_with_one_id_the_one_that_is_missing_is_kept() {
        let root = Authority::root("root");
        let own = [bundle("example.org", &[&root])];
        let (public, internal) = (svid(&root, "a", "public"), svid(&root, "a", "internal"));
        let before = state(&[&public, &internal], &own, &[]);
        let after = merged(&before, state(&[&public], &own, &[(1, "a")]));
        let hints: Vec<_> = after.svids.iter().map(|svid| svid.hint.as_ref().unwrap().as_str()).collect();
        assert_eq!(hints, ["public", "internal"]);
        // The label has another owner now.
        let other = svid(&root, "b", "internal");
        let after = merged(&before, state(&[&public, &other], &own, &[(1, "a")]));
        assert_eq!(ids(&after), ["a", "a", "b"]);
        assert_eq!(after.svids[1].hint, None);
    }

    #[test]
    fn a_refused_bundle_stays_and_an_empty_one_is_obeyed() {
        let (root, partner) = (Authority::root("root"), Authority::root("partner"));
        let a = svid(&root, "a", "");
        let (own, other) = (bundle("example.org", &[&root]), bundle("partner.org", &[&partner]));
        let before = state(&[&a], &[own.clone(), other.clone()], &[]);
        let mut new = state(&[&a], std::slice::from_ref(&own), &[]);
        new.refusals = vec![Refusal::new(RefusedItem::bundle("partner.org"), "bad")];
        let after = merged(&before, new.clone());
        assert_eq!((after.bundles.get(&other.0), after.refusals[0].kept), (Some(&other.1), true));
        let empty = bundle("partner.org", &[]);
        new.bundles.insert(empty.0.clone(), empty.1.clone());
        new.refusals = vec![Refusal::new(RefusedItem::EmptyBundle { trust_domain: empty.0.clone() }, "empty")];
        let after = merged(&before, new.clone());
        assert_eq!((after.bundles.get(&other.0), after.refusals[0].kept), (Some(&empty.1), false));
        // Said twice, once well: what is good counts.
        new.refusals = vec![Refusal::new(RefusedItem::bundle("partner.org"), "bad")];
        new.bundles.insert(other.0.clone(), bundle("partner.org", &[&root]).1);
        let after = merged(&before, new);
        assert_eq!((after.bundles[&other.0].authorities().len(), after.refusals[0].kept), (1, false));
        assert_eq!(after.bundles[&other.0], bundle("partner.org", &[&root]).1);
    }
}
