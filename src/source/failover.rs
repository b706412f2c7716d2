//! Which of several sources is in service. Pure: every question takes the time.
//!
//! Sources are in order of preference. One is in service, *active*; what it says is served, and nothing of the others,
//! so that no update ever mixes the trust of two. The others are not even asked while all is well: a warm standby
//! would double the load of every agent's clients for the sake of milliseconds, and milliseconds are nothing, because
//! the last good identity stays in service meanwhile.
//!
//! | The active source | Then |
//! |---|---|
//! | is away for `lost_after` | the next ones are asked, the first that delivers is switched to |
//! | has not renewed after `stale_percent` of a life | stays; the same, for one that has something fresher of every identity |
//! | says "no identity" | that is an answer, not a loss; with `on_denial` the same as a loss |
//! | delivers, but is not the preferred one | the better ones are asked too, and switched back to after `failback_after` without a failure |
//!
//! Being late chooses between sources and never withholds: while nothing is in service, the most preferred one that has
//! anything valid is.
//!
//! A switch is one whole snapshot that replaces another, and goes the way of every change: trust first (`secret::Rollout`).

mod offer;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use super::{
    ErrorKind,
    renewal::{Moment, Sightings},
};
use crate::identity::IdentitySnapshot;
use offer::{Offer, Worth};

/// When to switch from one source to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the active source may be away. Until then it is expected back: agents restart.
    pub lost_after: Duration,
    /// How much of an SVID's life may pass without a renewal; later than any issuer renews (SPIRE at a half,
    /// cert-manager at two thirds).
    pub stale_percent: u8,
    /// How long a preferred source has to deliver without a failure before it is switched back to.
    pub failback_after: Duration,
    /// Whether "no identity issued" is a reason to ask the next source. If not, taking an identity away at the
    /// preferred source is enough to take it away.
    pub on_denial: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lost_after: Duration::from_secs(10),
            stale_percent: 75,
            failback_after: Duration::from_secs(60),
            on_denial: false,
        }
    }
}

/// Why another source is in service now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchReason {
    /// The one before was away for too long.
    Lost,
    /// The one before did not renew though it was time.
    Stale,
    /// The one before says that there is no identity.
    Denied,
    /// A preferred one has proven that it works again.
    Preferred,
}

impl SwitchReason {
    /// How logs and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Preferred => "preferred",
        }
    }
}

impl fmt::Display for SwitchReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Another source is to be in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) to: usize,
    /// From which one and why; `None` when the preferred one is the first in service, which is no news.
    pub(super) from: Option<(usize, SwitchReason)>,
}

/// The decision: what is known of each source, in order of preference.
#[derive(Debug)]
pub(super) struct Failover {
    config: Config,
    candidates: Vec<Candidate>,
    /// Whose snapshot is in service.
    active: Option<usize>,
}

/// What is known of one source.
#[derive(Clone, Debug, Default)]
struct Candidate {
    /// Since when it owes usable data: since its first attempt, or since the first failure after it delivered.
    owing_since: Option<Instant>,
    /// Whether its last session failed, and nothing came since.
    failed: bool,
    /// Its last word was "no identity".
    denied: bool,
    /// Since when its present session has been delivering, without being late.
    good_since: Option<Instant>,
    /// It was left because it did not renew, and has not renewed since.
    left_late: bool,
    /// What it said last, if that still counts: of the active one always, of the others during a session.
    offer: Option<Offer>,
}

impl Failover {
    /// A decision between so many sources.
    pub(super) fn new(config: Config, count: usize) -> Self {
        Self { config, candidates: vec![Candidate::default(); count], active: None }
    }

    pub(super) fn active(&self) -> Option<usize> {
        self.active
    }

    /// Whether failures of this source are failures of what is in service. All are while nothing is.
    pub(super) fn concerns_service(&self, index: usize) -> bool {
        self.active.is_none_or(|active| active == index)
    }

    pub(super) fn on_opened(&mut self, index: usize, now: Moment) {
        if let Some(candidate) = self.candidates.get_mut(index)
            && candidate.offer.is_none()
            && !candidate.denied
        {
            candidate.owing_since.get_or_insert(now.steady);
        }
    }

    /// It is not asked any more: what it said does not count.
    pub(super) fn on_closed(&mut self, index: usize) {
        if let Some(candidate) = self.candidates.get_mut(index) {
            *candidate = Candidate::default();
        }
    }

    pub(super) fn on_snapshot(&mut self, index: usize, snapshot: &IdentitySnapshot, seen: &Sightings, now: Moment) {
        let offer = Offer::of(snapshot, seen, self.config.stale_percent);
        let Some(candidate) = self.candidates.get_mut(index) else { return };
        let recovered = candidate.is_late(now.wall) || (!candidate.has_svids() && !snapshot.svids.is_empty());
        *candidate = Candidate {
            owing_since: None,
            failed: false,
            denied: snapshot.svids.is_empty(),
            good_since: candidate.good_since.filter(|_| !recovered).or(Some(now.steady)),
            left_late: candidate.left_late && offer.worth(now.wall) < Worth::Fresh,
            offer: Some(offer),
        };
    }

    pub(super) fn on_failure(&mut self, index: usize, kind: ErrorKind, now: Moment) {
        let active = self.active == Some(index);
        let Some(candidate) = self.candidates.get_mut(index) else { return };
        candidate.good_since = None;
        candidate.failed = true;
        candidate.denied = kind == ErrorKind::NotEntitled;
        // A denial is an answer: nothing is owed.
        candidate.owing_since = (!candidate.denied).then_some(candidate.owing_since.unwrap_or(now.steady));
        if !active {
            candidate.offer = None;
        }
    }

    /// Whether a source is to be asked at all.
    pub(super) fn wants(&self, index: usize, now: Moment) -> bool {
        let mut before = self.candidates.iter().enumerate().take(index);
        self.active == Some(index) || before.all(|(index, candidate)| self.gives_way(index, candidate, now))
    }

    /// The switch that is due, if one is. Has no effect until [`switched`](Self::switched).
    pub(super) fn decide(&self, now: Moment) -> Option<Switch> {
        let mut all = 0..self.candidates.len();
        let Some(active) = self.active else {
            let to = all.find(|index| self.worth(*index, now) > Worth::Nothing)?;
            let denied = self.candidates.first().is_some_and(|preferred| preferred.denied);
            let reason = if denied { SwitchReason::Denied } else { SwitchReason::Lost };
            return Some(Switch { to, from: (to != 0).then_some((0, reason)) });
        };
        if let Some(reason) = self.trouble(active, now) {
            let to = all.find(|index| *index != active && self.replaces(*index, active, reason, now))?;
            return Some(Switch { to, from: Some((active, reason)) });
        }
        self.proven(active, now)
    }

    /// From now on what this source says is in service.
    pub(super) fn switched(&mut self, to: usize, now: Moment) {
        let before = self.active.replace(to).filter(|before| *before != to);
        let Some(candidate) = before.and_then(|before| self.candidates.get_mut(before)) else { return };
        candidate.left_late |= candidate.is_late(now.wall);
        // What it said last counted because it was in service.
        if candidate.good_since.is_none() {
            candidate.offer = None;
        }
    }

    /// When the answers change though nothing happens: on the wall clock, and on the steady one. `None` for never.
    pub(super) fn next_alarm(&self, now: Moment) -> (Option<SystemTime>, Option<Instant>) {
        if self.candidates.len() < 2 {
            return (None, None);
        }
        let offers = self.candidates.iter().filter_map(|candidate| candidate.offer.as_ref());
        let lost = self.candidates.iter().filter_map(|candidate| self.lost_at(candidate));
        let proven = (0..self.active.unwrap_or_default()).filter_map(|index| self.proven_at(index));
        let wall = offers.filter_map(|offer| offer.next_change(now.wall)).min();
        (wall, lost.chain(proven).filter(|at| *at > now.steady).min())
    }

    /// What is wrong with what is in service.
    fn trouble(&self, index: usize, now: Moment) -> Option<SwitchReason> {
        let candidate = self.candidates.get(index)?;
        if candidate.denied && self.config.on_denial {
            Some(SwitchReason::Denied)
        } else if self.lost_at(candidate).is_some_and(|at| at <= now.steady) {
            Some(SwitchReason::Lost)
        } else if candidate.is_late(now.wall) {
            Some(SwitchReason::Stale)
        } else {
            None
        }
    }

    /// Whether the ones after this one are to be asked too.
    fn gives_way(&self, index: usize, candidate: &Candidate, now: Moment) -> bool {
        // Nothing of it is in service, so one failure is enough to look further.
        let failed = candidate.failed && candidate.owing_since.is_some() && self.active != Some(index);
        failed || self.trouble(index, now).is_some()
    }

    /// Whether `index` is better than `active`, which is in trouble for `reason`.
    fn replaces(&self, index: usize, active: usize, reason: SwitchReason, now: Moment) -> bool {
        let (worth, present) = (self.worth(index, now), self.worth(active, now));
        match reason {
            // What is in service goes after the grace time, however good it is.
            SwitchReason::Denied => worth > Worth::Nothing,
            SwitchReason::Lost => worth > Worth::Nothing && worth >= present,
            // For the sake of one that is late no other is to be taken away.
            SwitchReason::Stale | SwitchReason::Preferred => worth > present && self.covers(index, active, now),
        }
    }

    /// The switch back to a source that is preferred to `active` and has proven that it works.
    fn proven(&self, active: usize, now: Moment) -> Option<Switch> {
        let proven = |index: &usize| {
            self.proven_at(*index).is_some_and(|at| at <= now.steady)
                // Two that are late in turns would go back and forth.
                && self.candidates.get(*index).is_some_and(|candidate| !candidate.left_late)
                && self.worth(*index, now) > Worth::Nothing
                && self.worth(*index, now) >= self.worth(active, now)
        };
        let to = (0..active).find(proven)?;
        Some(Switch { to, from: Some((active, SwitchReason::Preferred)) })
    }

    /// What it would be to have this source in service.
    fn worth(&self, index: usize, now: Moment) -> Worth {
        let serves_svids = self.active.and_then(|active| self.candidates.get(active)).is_some_and(Candidate::has_svids);
        match self.candidates.get(index) {
            // Bundles alone are no replacement for an identity.
            Some(candidate) if serves_svids && !candidate.has_svids() => Worth::Nothing,
            Some(Candidate { offer: Some(offer), .. }) => offer.worth(now.wall),
            _ => Worth::Nothing,
        }
    }

    /// Whether `index` has every identity that is valid at `active`.
    fn covers(&self, index: usize, active: usize, now: Moment) -> bool {
        let offer = |index| self.candidates.get(index).and_then(|candidate: &Candidate| candidate.offer.as_ref());
        offer(index).zip(offer(active)).is_some_and(|(one, other)| one.covers(other, now.wall))
    }

    fn lost_at(&self, candidate: &Candidate) -> Option<Instant> {
        candidate.owing_since?.checked_add(self.config.lost_after)
    }

    fn proven_at(&self, index: usize) -> Option<Instant> {
        self.candidates.get(index)?.good_since?.checked_add(self.config.failback_after)
    }
}

impl Candidate {
    fn is_late(&self, now: SystemTime) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.worth(now) < Worth::Fresh)
    }

    fn has_svids(&self) -> bool {
        self.offer.as_ref().is_some_and(Offer::has_svids)
    }
}
