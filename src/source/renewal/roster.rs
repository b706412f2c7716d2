//! What is in service besides what the source says now.
//!
//! - A renewal whose life has not begun waits, and its predecessor stays: clocks differ, and peers refuse it until then.
//! - An identity that the source lists no longer, while it lists others, stays for the grace time: registrations are
//!   eventually consistent. One whose new SVID is refused stays as it is. Afterwards it is remembered, without its key, because clients may still hold it.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::Moment;
use crate::{
    identity::{Certificate, CertificateChain, IdentitySnapshot, Refusal, RefusedItem, Svid, Withdrawn},
    source::{RenewalEvent, decode},
};

/// Withdrawn identities that are remembered; of more the oldest are forgotten.
const REMEMBERED: usize = 256;

#[derive(Debug)]
pub(super) struct Roster {
    grace: Duration,
    leaving: Vec<Leaving>,
    gone: Vec<Withdrawn>,
    waiting: Vec<Waiting>,
    /// What is good of identities whose new SVIDs were refused, and their places.
    kept: Vec<(Arc<Svid>, usize)>,
}

/// An identity that the source lists no longer, and that is in service still.
#[derive(Debug)]
struct Leaving {
    svid: Arc<Svid>,
    /// Its place among the SVIDs; the first is the default one.
    place: usize,
    since: SystemTime,
    deadline: Instant,
}

/// A renewal that is not in service yet.
#[derive(Debug)]
struct Waiting {
    leaf: Certificate,
    /// When its own life begins, or that of its predecessor ends.
    until: SystemTime,
}

impl Roster {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, leaving: Vec::new(), gone: Vec::new(), waiting: Vec::new(), kept: Vec::new() }
    }

    /// The source says `said` now, and `before` is in service.
    pub(super) fn on_said(
        &mut self,
        said: &IdentitySnapshot,
        before: &IdentitySnapshot,
        now: Moment,
        events: &mut Vec<RenewalEvent>,
    ) {
        let mut back = |id, chain: &CertificateChain, not_after| {
            let serial = decode::serial(chain.leaf()).into();
            events.push(RenewalEvent::SvidRestored { spiffe_id: id, serial, not_after });
        };
        self.leaving.retain(|it| {
            let listed = lists(said, &it.svid);
            if listed {
                back(it.svid.id.clone(), &it.svid.chain, it.svid.validity.not_after);
            }
            !listed
        });
        self.gone.retain(|it| {
            let listed = said.svids.iter().any(|svid| svid.id == it.id && (it.hint.is_none() || svid.hint == it.hint));
            if listed {
                back(it.id.clone(), &it.chain, it.validity.not_after);
            }
            !listed
        });
        self.kept.clear();
        for (place, svid) in before.svids.iter().enumerate() {
            let known = self.leaving.iter().any(|it| it.svid.chain == svid.chain);
            if known || lists(said, svid) {
                continue;
            }
            if refuses(said, svid) {
                self.kept.push((svid.clone(), place));
            } else {
                self.leave(svid, place, now, events);
            }
        }
    }

    /// Whether something that is still good of a refused thing is in service.
    pub(super) fn keeps(&self, item: &RefusedItem, now: SystemTime) -> bool {
        let RefusedItem::Svid { spiffe_id } = item else { return false };
        self.kept.iter().any(|(svid, _)| svid.id.to_string() == **spiffe_id && now < svid.validity.not_after)
    }

    fn leave(&mut self, svid: &Arc<Svid>, place: usize, now: Moment, events: &mut Vec<RenewalEvent>) {
        let deadline = now.steady.checked_add(self.grace).filter(|_| !self.grace.is_zero());
        let deadline = deadline.filter(|_| now.wall < svid.validity.not_after);
        events.push(RenewalEvent::SvidWithdrawn {
            spiffe_id: svid.id.clone(),
            serial: decode::serial(svid.chain.leaf()).into(),
            not_after: svid.validity.not_after,
            grace: deadline.map(|_| self.grace),
        });
        match deadline {
            Some(deadline) => {
                self.leaving.push(Leaving { svid: svid.clone(), place, since: now.wall, deadline });
            }
            None => self.remember(withdrawn(svid, now.wall, false)),
        }
    }

    /// Nothing of `before` is in service any more.
    pub(super) fn on_denied(&mut self, before: &IdentitySnapshot, now: SystemTime) {
        for svid in &before.svids {
            let since = self.leaving.iter().find(|it| it.svid.chain == svid.chain).map_or(now, |it| it.since);
            self.remember(withdrawn(svid, since, false));
        }
        self.leaving.clear();
        self.kept.clear();
        self.waiting.clear();
    }

    /// Ends grace times that are over. Says whether something has to be put into or out of service.
    pub(super) fn on_alarm(&mut self, now: Moment, events: &mut Vec<RenewalEvent>) -> bool {
        let over = |it: &Leaving| it.deadline <= now.steady || it.svid.validity.not_after <= now.wall;
        let (over, leaving) = std::mem::take(&mut self.leaving).into_iter().partition::<Vec<_>, _>(over);
        self.leaving = leaving;
        for it in &over {
            events.push(RenewalEvent::SvidRemoved {
                spiffe_id: it.svid.id.clone(),
                serial: decode::serial(it.svid.chain.leaf()).into(),
                not_after: it.svid.validity.not_after,
            });
            self.remember(withdrawn(&it.svid, it.since, false));
        }
        !over.is_empty() || self.waiting.iter().any(|it| it.until <= now.wall)
    }

    /// When [`on_alarm`](Self::on_alarm) has something to do: on the wall clock, and on the steady one.
    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<Instant>) {
        let ends = self.leaving.iter().map(|it| it.svid.validity.not_after);
        let wall = self.waiting.iter().map(|it| it.until).chain(ends).min();
        (wall, self.leaving.iter().map(|it| it.deadline).min())
    }

    /// What is to be in service when the source says `said` and `before` is.
    pub(super) fn compose(
        &mut self,
        said: &Arc<IdentitySnapshot>,
        before: &IdentitySnapshot,
        now: SystemTime,
        events: &mut Vec<RenewalEvent>,
    ) -> Arc<IdentitySnapshot> {
        let announced = std::mem::take(&mut self.waiting);
        let mut whole = IdentitySnapshot::clone(said);
        for svid in &mut whole.svids {
            let Some(predecessor) = predecessor(svid, before, now) else { continue };
            let (leaf, not_before) = (svid.chain.leaf().clone(), svid.validity.not_before);
            if !announced.iter().any(|it| it.leaf == leaf) {
                let (spiffe_id, serial) = (svid.id.clone(), decode::serial(&leaf).into());
                events.push(RenewalEvent::NotYetValid { spiffe_id, serial, not_before });
            }
            self.waiting.push(Waiting { leaf, until: not_before.min(predecessor.validity.not_after) });
            *svid = predecessor.clone();
        }
        if self.waiting.is_empty() && self.leaving.is_empty() && self.kept.is_empty() {
            return said.clone();
        }
        if !self.waiting.is_empty() {
            keep_trust(&mut whole, before);
        }
        let leaving = self.leaving.iter().map(|it| (&it.svid, it.place));
        let mut beside: Vec<_> = self.kept.iter().map(|(svid, place)| (svid, *place)).chain(leaving).collect();
        beside.sort_by_key(|(_, place)| *place);
        for (svid, place) in beside {
            let mut svid = svid.clone();
            // A hint that another identity has now is that one's.
            if svid.hint.is_some() && whole.svids.iter().any(|other| other.hint == svid.hint) {
                Arc::make_mut(&mut svid).hint = None;
            }
            // What is renewed under its SPIFFE ID comes before what is left of its hint.
            let renewed = said.svids.iter().any(|other| other.id == svid.id);
            let place = if renewed { whole.svids.len() } else { place.min(whole.svids.len()) };
            whole.svids.insert(place, svid);
        }
        Arc::new(whole)
    }

    /// Identities that the source lists no longer, the newest last.
    pub(super) fn withdrawn(&self) -> Vec<Withdrawn> {
        let leaving = self.leaving.iter().map(|it| withdrawn(&it.svid, it.since, true));
        self.gone.iter().cloned().chain(leaving).collect()
    }

    fn remember(&mut self, it: Withdrawn) {
        self.gone.retain(|known| (&known.id, &known.hint) != (&it.id, &it.hint));
        self.gone.push(it);
        let surplus = self.gone.len().saturating_sub(REMEMBERED);
        self.gone.drain(..surplus);
    }
}

/// Whether `said` has this identity, by its SPIFFE ID and by its hint: clients ask for either.
fn lists(said: &IdentitySnapshot, svid: &Svid) -> bool {
    let hint = svid.hint.is_none() || said.svids.iter().any(|it| it.hint == svid.hint);
    hint && said.svids.iter().any(|it| it.id == svid.id)
}

/// Whether `said` had it, and it was left out.
fn refuses(said: &IdentitySnapshot, svid: &Svid) -> bool {
    let id = svid.id.to_string();
    let same = |refusal: &Refusal| matches!(&refusal.item, RefusedItem::Svid { spiffe_id } if **spiffe_id == id);
    said.refusals.iter().any(same)
}

/// What of `before` is valid in the place of `svid`, whose life has not begun.
fn predecessor<'a>(svid: &Svid, before: &'a IdentitySnapshot, now: SystemTime) -> Option<&'a Arc<Svid>> {
    let serves = |it: &&Arc<Svid>| it.chain.leaf() == svid.chain.leaf();
    if !svid.validity.is_future(now) || before.svids.iter().any(|it| serves(&it)) {
        return None;
    }
    let valid = |it: &&Arc<Svid>| it.id == svid.id && !it.validity.is_future(now) && now < it.validity.not_after;
    let mut all = before.svids.iter().filter(valid);
    let same = all.clone().find(|it| it.hint == svid.hint);
    same.or_else(|| all.next())
}

/// Who vouched for the predecessors goes on vouching: peers follow the same state, and would refuse them.
fn keep_trust(whole: &mut IdentitySnapshot, before: &IdentitySnapshot) {
    for svid in &whole.svids {
        let domain = svid.id.trust_domain();
        let Some(known) = before.bundles.get(domain) else { continue };
        let kept = whole.bundles.get(domain).map_or_else(|| known.clone(), |new| Arc::new(known.union(new)));
        whole.bundles.insert(domain.clone(), kept);
    }
    for crl in &before.crls {
        if !whole.crls.contains(crl) {
            whole.crls.push(crl.clone());
        }
    }
}

fn withdrawn(svid: &Svid, since: SystemTime, in_service: bool) -> Withdrawn {
    Withdrawn {
        id: svid.id.clone(),
        hint: svid.hint.clone(),
        chain: svid.chain.clone(),
        serial: decode::serial(svid.chain.leaf()).into(),
        validity: svid.validity,
        since,
        in_service,
    }
}
