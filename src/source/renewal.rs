//! What each thing a source says means for what is in service: the pure half of the supervisor.
//!
//! No clock, no IO: every step takes the time and returns what to publish and which events to report.

mod changes;
mod expiry;
mod pin;
mod roster;
mod sightings;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{ErrorKind, RenewalEvent, SourceError, decode, merge};
use crate::{
    identity::{Availability, IdentitySnapshot, Refusal, RefusedItem, Svid, Withdrawn},
    secret::{CrlPolicy, DefaultIdentity, Vouching, vouching},
};
use expiry::ExpiryWatch;
pub(super) use pin::{Foreign, Pin};
use roster::Roster;
pub(super) use sightings::Sightings;

/// One moment on both clocks: certificates live on the wall clock, grace times must not jump with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: SystemTime,
    pub(super) steady: Instant,
}

/// What a step asks for.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) publish: Option<Availability>,
    pub(super) events: Vec<RenewalEvent>,
    /// What is left out from now on; `None` where that stays as it is.
    pub(super) refusals: Option<Vec<Refusal>>,
}

/// The state of one workload's renewal.
#[derive(Debug)]
pub(super) struct Renewal {
    denied_grace: Duration,
    /// What the store holds because of us.
    published: Availability,
    /// Whether the source's last word was usable data.
    up: bool,
    /// Whether there ever was usable data.
    proven: bool,
    /// Failures in a row.
    failures: u32,
    /// Set while the source says "no identity".
    denial: Option<Denial>,
    /// Whom to trust according to a source that issues no identity; the last good one.
    verifier: Option<Arc<IdentitySnapshot>>,
    /// Whether `verifier` comes from the present session.
    verifier_is_fresh: bool,
    expiry: ExpiryWatch,
    /// The source's last word that has SVIDs, while they are in service.
    said: Option<Arc<IdentitySnapshot>>,
    seen: Sightings,
    roster: Roster,
    default: DefaultIdentity,
    crls: CrlPolicy,
    /// What has been said of our own trust.
    trust: Vouching,
}

#[derive(Debug)]
struct Denial {
    reason: Arc<str>,
    /// When what is in service goes out of it; `None` while that agrees with the denial.
    deadline: Option<Instant>,
}

impl Renewal {
    pub(super) fn new(denied_grace: Duration) -> Self {
        Self {
            denied_grace,
            published: Availability::Pending,
            up: false,
            proven: false,
            failures: 0,
            denial: None,
            verifier: None,
            verifier_is_fresh: false,
            expiry: ExpiryWatch::default(),
            said: None,
            seen: Sightings::default(),
            roster: Roster::new(denied_grace),
            default: DefaultIdentity::default(),
            crls: CrlPolicy::default(),
            trust: Vouching::default(),
        }
    }

    /// Which identity is the default one, and which revocation lists are served.
    pub(super) fn serving(&mut self, default: DefaultIdentity, crls: CrlPolicy) {
        (self.default, self.crls) = (default, crls);
    }

    /// This is in service already, though the source has not confirmed it.
    pub(super) fn begin_with(&mut self, snapshot: Arc<IdentitySnapshot>) {
        self.published = Availability::Ready(snapshot);
    }

    /// Identities that went while others stayed.
    pub(super) fn withdrawn(&self) -> Vec<Withdrawn> {
        self.roster.withdrawn()
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn session_started(&mut self) {
        self.verifier_is_fresh = false;
    }

    /// A message of the source in service, with the last good state of what is refused in it.
    pub(super) fn with_last_good(&self, snapshot: IdentitySnapshot, now: Moment) -> IdentitySnapshot {
        match &self.published {
            Availability::Ready(before) => merge::retain_last_good(before, snapshot, now.wall),
            Availability::Pending | Availability::Denied(_) => snapshot,
        }
    }

    /// A complete state came. What of it is over was [taken out](admit).
    pub(super) fn on_snapshot(&mut self, snapshot: IdentitySnapshot, seen: &Sightings, now: Moment) -> Outcome {
        let mut outcome = Outcome { refusals: Some(snapshot.refusals.clone()), ..Outcome::default() };
        self.failures = 0;
        self.proven = true;
        if !self.up {
            self.up = true;
            outcome.events.push(RenewalEvent::SourceUp);
        }
        let snapshot = Arc::new(snapshot);
        if snapshot.svids.is_empty() {
            self.verifier = Some(snapshot.clone());
            self.verifier_is_fresh = true;
            self.deny(Arc::from("no identity issued, trust bundles only"), now, &mut outcome);
            if self.svids_in_service() {
                return outcome;
            }
            self.serve(snapshot, &mut outcome);
        } else {
            self.denial = None;
            self.verifier = None;
            self.seen = seen.clone();
            self.roster.on_said(&snapshot, &self.before(), now, &mut outcome.events);
            for refusal in outcome.refusals.iter_mut().flatten() {
                refusal.kept |= self.roster.keeps(&refusal.item, now.wall);
            }
            self.said = Some(snapshot);
            self.settle(now, &mut outcome);
        }
        if outcome.publish.is_none() {
            outcome.events.push(RenewalEvent::Unchanged);
        }
        outcome.events.extend(self.expiry.due(now.wall));
        self.look_at_trust(now, &mut outcome);
        outcome
    }

    /// The session ended, or its last message was refused.
    pub(super) fn on_failure(&mut self, error: &SourceError, now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        self.up = false;
        self.failures = self.failures.saturating_add(1);
        let (kind, failures) = (error.kind(), self.failures);
        let text: Arc<str> = error.chain().into();
        if kind == ErrorKind::NotEntitled {
            if !self.verifier_is_fresh {
                self.verifier = None;
            }
            self.deny(text, now, &mut outcome);
        } else if let SourceError::OtherTrustDomain { found, own, .. } = error {
            let (found, own) = (found.as_str().into(), own.clone());
            outcome.events.push(RenewalEvent::TrustDomainRefused { found, own, error: text, failures });
        } else if error.is_bad_message() {
            outcome.events.push(RenewalEvent::RenewalFailed { error: text, failures });
        } else {
            outcome.events.push(RenewalEvent::SourceDown { kind, error: text, failures });
        }
        outcome
    }

    /// Whether a failure must end the process: nothing ever worked, and nothing will.
    pub(super) fn is_fatal(&self, kind: ErrorKind) -> bool {
        kind == ErrorKind::Misconfigured && !self.proven
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub(super) fn on_alarm(&mut self, now: Moment) -> Outcome {
        let mut outcome = Outcome { events: self.expiry.due(now.wall), ..Outcome::default() };
        if self.roster.on_alarm(now, &mut outcome.events) {
            self.settle(now, &mut outcome);
        }
        self.look_at_trust(now, &mut outcome);
        let Some(denial) = &mut self.denial else { return outcome };
        if denial.deadline.is_none_or(|deadline| now.steady < deadline) {
            return outcome;
        }
        denial.deadline = None;
        let reason = denial.reason.clone();
        outcome.events.push(RenewalEvent::Withdrawn { reason: reason.clone() });
        self.roster.on_denied(&self.before(), now.wall);
        self.said = None;
        match self.verifier.clone() {
            Some(verifier) => self.serve(verifier, &mut outcome),
            None => {
                self.expiry.follow(&[], &self.seen);
                self.published = Availability::Denied(reason);
                outcome.publish = Some(self.published.clone());
            }
        }
        outcome
    }

    /// When [`Renewal::on_alarm`] has something to do next: on the wall clock, and on the steady one.
    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<Instant>) {
        let (wall, steady) = self.roster.next_alarm();
        let denied = self.denial.as_ref().and_then(|denial| denial.deadline);
        (
            self.expiry.next().into_iter().chain(wall).chain(self.trust.next).min(),
            denied.into_iter().chain(steady).min(),
        )
    }

    fn svids_in_service(&self) -> bool {
        matches!(&self.published, Availability::Ready(snapshot) if !snapshot.svids.is_empty())
    }

    /// Registrations are eventually consistent, so what is in service outlives a denial by the grace time.
    fn deny(&mut self, reason: Arc<str>, now: Moment, outcome: &mut Outcome) {
        let contradicted = match &self.published {
            Availability::Ready(snapshot) => !snapshot.svids.is_empty() || self.verifier.is_none(),
            Availability::Pending | Availability::Denied(_) => false,
        };
        let known = self.denial.as_ref();
        let deadline = known.and_then(|denial| denial.deadline).or_else(|| now.steady.checked_add(self.denied_grace));
        if known.is_none() {
            let grace = contradicted.then_some(self.denied_grace);
            outcome.events.push(RenewalEvent::Denied { reason: reason.clone(), grace });
        }
        self.denial = Some(Denial { reason, deadline: deadline.filter(|_| contradicted) });
    }

    /// Puts what the source said last into service, as far as its time has come.
    fn settle(&mut self, now: Moment, outcome: &mut Outcome) {
        let Some(said) = self.said.clone() else { return };
        let whole = self.roster.compose(&said, &self.before(), now.wall, &mut outcome.events);
        self.serve(whole, outcome);
    }

    /// Says what is wrong with our own trust that was not before.
    fn look_at_trust(&mut self, now: Moment, outcome: &mut Outcome) {
        if outcome.publish.is_none() && self.trust.next.is_none_or(|at| now.wall < at) {
            return;
        }
        let found = vouching(&self.before(), self.crls, now.wall);
        let news = found.faults.iter().filter(|fault| !self.trust.faults.contains(fault));
        let news = news.map(|fault| RenewalEvent::TrustImpaired { reason: fault.to_string().into() });
        outcome.events.extend(news);
        self.trust = found;
    }

    /// What is in service; nothing, where there is nothing.
    fn before(&self) -> Arc<IdentitySnapshot> {
        match &self.published {
            Availability::Ready(before) => before.clone(),
            Availability::Pending | Availability::Denied(_) => Arc::default(),
        }
    }

    fn serve(&mut self, snapshot: Arc<IdentitySnapshot>, outcome: &mut Outcome) {
        self.expiry.follow(&snapshot.svids, &self.seen);
        if matches!(&self.published, Availability::Ready(before) if *before == snapshot) {
            return;
        }
        outcome.events.extend(changes::between(&self.before(), &snapshot, &self.default));
        self.published = Availability::Ready(snapshot);
        outcome.publish = Some(self.published.clone());
    }
}

/// Takes out of a state what is over, each SVID for itself.
///
/// # Errors
/// [`SourceError::Expired`] when nothing else is in it.
pub(super) fn admit(snapshot: &mut IdentitySnapshot, now: Moment) -> Result<(), SourceError> {
    let over = |svid: &&Arc<Svid>| svid.validity.is_expired(now.wall);
    let Some(expired) = snapshot.svids.iter().find(over).cloned() else { return Ok(()) };
    for (position, svid) in snapshot.svids.iter().enumerate().filter(|(_, svid)| over(svid)) {
        let reason = decode::SvidError::Expired { not_after: svid.validity.not_after }.to_string();
        snapshot.refusals.push(Refusal::new(RefusedItem::svid(&svid.id.to_string()), reason).at(position));
    }
    snapshot.svids.retain(|svid| !svid.validity.is_expired(now.wall));
    if snapshot.svids.is_empty() {
        let not_after = expired.validity.not_after;
        return Err(SourceError::Expired { spiffe_id: expired.id.clone(), not_after });
    }
    Ok(())
}
