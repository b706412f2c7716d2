//! What each thing a source says means for what is in service: the pure half of the supervisor.
//!
//! No clock, no IO: every step takes the time and returns what to publish and which events to report.

mod expiry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{ErrorKind, RenewalEvent, SourceError, decode, merge};
use crate::identity::{Availability, IdentitySnapshot, Refusal, TrustBundle, TrustDomain};
use expiry::ExpiryWatch;

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
        }
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

    /// A complete state came.
    ///
    /// # Errors
    /// [`SourceError::Expired`] when it brings something whose life is over. Nothing has changed then; the caller
    /// reports the failure as any other.
    pub(super) fn on_snapshot(&mut self, snapshot: IdentitySnapshot, now: Moment) -> Result<Outcome, SourceError> {
        check(&snapshot, now)?;
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
                return Ok(outcome);
            }
        } else {
            self.denial = None;
            self.verifier = None;
        }
        self.serve(snapshot, &mut outcome);
        outcome.events.extend(self.expiry.due(now.wall));
        Ok(outcome)
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
        let Some(denial) = &mut self.denial else { return outcome };
        if denial.deadline.is_none_or(|deadline| now.steady < deadline) {
            return outcome;
        }
        denial.deadline = None;
        let reason = denial.reason.clone();
        outcome.events.push(RenewalEvent::Withdrawn { reason: reason.clone() });
        match self.verifier.clone() {
            Some(verifier) => self.serve(verifier, &mut outcome),
            None => {
                self.expiry.follow(&[]);
                self.published = Availability::Denied(reason);
                outcome.publish = Some(self.published.clone());
            }
        }
        outcome
    }

    /// When [`Renewal::on_alarm`] has something to do next: on the wall clock, and on the steady one.
    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<Instant>) {
        (self.expiry.next(), self.denial.as_ref().and_then(|denial| denial.deadline))
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

    fn serve(&mut self, snapshot: Arc<IdentitySnapshot>, outcome: &mut Outcome) {
        let nothing = Arc::default();
        let before = match &self.published {
            Availability::Ready(before) if *before == snapshot => {
                outcome.events.push(RenewalEvent::Unchanged);
                return;
            }
            Availability::Ready(before) => before,
            Availability::Pending | Availability::Denied(_) => &nothing,
        };
        outcome.events.extend(renewed(before, &snapshot));
        outcome.events.extend(trust_changes(&before.bundles, &snapshot.bundles));
        self.expiry.follow(&snapshot.svids);
        self.published = Availability::Ready(snapshot);
        outcome.publish = Some(self.published.clone());
    }
}

/// Whether a state may be served at all: not if every SVID of it is over.
///
/// # Errors
/// [`SourceError::Expired`] for such a state.
pub(super) fn check(snapshot: &IdentitySnapshot, now: Moment) -> Result<(), SourceError> {
    match snapshot.svids.first() {
        Some(first) if snapshot.svids.iter().all(|svid| svid.validity.is_expired(now.wall)) => {
            let not_after = first.validity.not_after;
            Err(SourceError::Expired { spiffe_id: first.id.clone(), not_after })
        }
        _ => Ok(()),
    }
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
