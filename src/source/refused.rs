//! What is left out at present of everything that sources say, and what to tell when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::watch;

use super::RenewalEvent;
use crate::identity::{Refusal, RefusedItem};

/// Things of one message that are told one by one; what is more is told as a number.
const TOLD: usize = 50;
/// Things that are remembered. The others are left out all the same.
const REMEMBERED: usize = 1000;

/// Which of a source's answers a list is about. Each replaces only its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// X.509-SVIDs, bundles and revocation lists.
    X509,
    /// Keys that verify JWT-SVIDs.
    Jwt,
}

/// Everything that is left out at present. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    scopes: watch::Sender<BTreeMap<Scope, Arc<[Refusal]>>>,
    all: watch::Sender<Arc<[Refusal]>>,
}

impl Refused {
    /// Everything, now and as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<[Refusal]>> {
        self.all.subscribe()
    }

    /// From now on this is what is left out of the answers of `scope`. Returns what is news about that.
    pub(super) fn replace(&self, scope: Scope, now: &[Refusal]) -> Vec<RenewalEvent> {
        let now: Arc<[Refusal]> = now.iter().take(REMEMBERED).cloned().collect();
        let mut events = Vec::new();
        self.scopes.send_modify(|scopes| {
            let before = scopes.insert(scope, now.clone()).unwrap_or_default();
            events = changes(&before, &now);
            let all: Arc<[Refusal]> = scopes.values().flat_map(|refusals| refusals.iter()).cloned().collect();
            self.all.send_if_modified(|shown| std::mem::replace(shown, all.clone()) != all);
        });
        events
    }
}

/// How many things of each kind are left out; every kind is there.
pub(super) fn counts(refusals: &[Refusal]) -> impl Iterator<Item = (&'static str, usize)> {
    RefusedItem::KINDS.into_iter().map(|kind| {
        let of_kind = refusals.iter().filter(|refusal| refusal.item.kind() == kind);
        (kind, of_kind.map(|refusal| refusal.count).sum())
    })
}

/// What is news: what is left out for the first time, or for another reason, and what is left out no more.
fn changes(before: &[Refusal], now: &[Refusal]) -> Vec<RenewalEvent> {
    let by_item = |refusals: &[Refusal]| -> BTreeMap<RefusedItem, Refusal> {
        // Of equal things the first tells.
        refusals.iter().rev().map(|refusal| (refusal.item.clone(), refusal.clone())).collect()
    };
    let (old, new) = (by_item(before), by_item(now));
    let is_news = |refusal: &&Refusal| old.get(&refusal.item).is_none_or(|old| old.reason != refusal.reason);
    let mut told = BTreeSet::new();
    let begun: Vec<_> = now.iter().filter(is_news).filter(|refusal| told.insert(refusal.item.clone())).collect();
    let event = |refusal: &Refusal| RenewalEvent::ItemRefused {
        item: refusal.item.clone(),
        reason: refusal.reason.clone(),
        kept: refusal.kept,
    };
    let mut events: Vec<_> = begun.iter().take(TOLD).map(|refusal| event(refusal)).collect();
    if let Some(next) = begun.get(TOLD) {
        let more = begun.len() - TOLD;
        let reason = format!("{more} more things are left out; `spiffe-sds status` and `spiffe-sds check` list them");
        events.push(event(&Refusal::surplus(next.item.kind(), more, reason)));
    }
    let healed = old.into_keys().filter(|item| !new.contains_key(item));
    events.extend(healed.take(TOLD).map(|item| RenewalEvent::ItemAccepted { item }));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, reason: &str) -> Refusal {
        Refusal::new(RefusedItem::svid(name), reason)
    }

    fn told(events: &[RenewalEvent]) -> Vec<String> {
        let told = |event: &RenewalEvent| match event {
            RenewalEvent::ItemRefused { item, reason, .. } => format!("- {item}: {reason}"),
            RenewalEvent::ItemAccepted { item } => format!("+ {item}"),
            other => format!("{other:?}"),
        };
        events.iter().map(told).collect()
    }

    #[test]
    fn a_refusal_is_told_when_it_begins_when_its_reason_changes_and_when_it_heals() {
        let refused = Refused::default();
        let step = |now: &[Refusal]| told(&refused.replace(Scope::X509, now));
        assert_eq!(step(&[refusal("a", "expired")]), ["- the SVID of a: expired"]);
        assert!(step(&[refusal("a", "expired").at(3)]).is_empty(), "neither again, nor for another place");
        assert_eq!(
            step(&[refusal("b", "expired"), refusal("a", "malformed"), refusal("a", "twice")]),
            ["- the SVID of b: expired", "- the SVID of a: malformed"]
        );
        assert_eq!(step(&[refusal("a", "malformed")]), ["+ the SVID of b"]);
        assert_eq!(step(&[]), ["+ the SVID of a"]);
        assert!(step(&[]).is_empty());
    }

    #[test]
    fn each_answer_replaces_its_own() {
        let refused = Refused::default();
        let watch = refused.watch();
        refused.replace(Scope::X509, &[refusal("a", "x")]);
        assert!(refused.replace(Scope::Jwt, &[Refusal::new(RefusedItem::jwt_bundle("td"), "y")]).len() == 1);
        assert_eq!(watch.borrow().len(), 2);
        refused.replace(Scope::X509, &[]);
        assert_eq!(watch.borrow().iter().map(|refusal| refusal.item.kind()).collect::<Vec<_>>(), ["jwt_bundle"]);
    }

    #[test]
    fn a_flood_is_told_as_a_number() {
        let refused = Refused::default();
        let many: Vec<_> = (0..2 * REMEMBERED).map(|n| refusal(&n.to_string(), "x")).collect();
        let events = told(&refused.replace(Scope::X509, &many));
        assert_eq!(events.len(), TOLD + 1);
        assert!(events.last().unwrap().contains("950 more things"), "{events:?}");
        assert_eq!(refused.watch().borrow().len(), REMEMBERED);
        assert_eq!(refused.replace(Scope::X509, &[]).len(), TOLD);
    }

    #[test]
    fn what_stands_for_several_counts_as_several() {
        let of = |refusals: &[Refusal]| counts(refusals).filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(of(&[refusal("a", "x"), Refusal::surplus("svid", 7, "too many")]), [("svid", 8)]);
        assert_eq!(counts(&[]).count(), RefusedItem::KINDS.len());
    }
}
