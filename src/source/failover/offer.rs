//! What a source has to give, and how good that is.

use std::time::SystemTime;

use crate::{
    identity::{IdentitySnapshot, SpiffeId},
    source::renewal::Sightings,
};

/// With less than this share of a life left, an SVID is about to end.
const LAST: f64 = 0.05;

/// How good it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// None of it is valid.
    Nothing,
    /// An SVID has ended; others are valid.
    Partial,
    /// An SVID is about to end.
    Ending,
    /// The renewal of an SVID is overdue.
    Late,
    /// All is as it should be.
    Fresh,
}

/// What a source said last.
#[derive(Clone, Debug)]
pub(super) struct Offer(Vec<Life>);

#[derive(Clone, Debug)]
struct Life {
    id: SpiffeId,
    /// When its renewal is overdue.
    late_at: SystemTime,
    /// When it is about to end.
    ending_at: SystemTime,
    end: SystemTime,
}

impl Offer {
    pub(super) fn of(snapshot: &IdentitySnapshot, seen: &Sightings, stale_percent: u8) -> Self {
        let share = f64::from(stale_percent.min(100)) / 100.0;
        let lives = snapshot.svids.iter().map(|svid| Life {
            id: svid.id.clone(),
            late_at: seen.spent_at(svid, share),
            ending_at: seen.spent_at(svid, 1.0 - LAST),
            end: svid.validity.not_after,
        });
        Self(lives.collect())
    }

    /// Each SVID for itself: the worst of them counts, as long as any is valid. Bundles alone are never late.
    pub(super) fn worth(&self, now: SystemTime) -> Worth {
        let worst = self.0.iter().map(|life| life.worth(now)).min().unwrap_or(Worth::Fresh);
        match worst {
            Worth::Nothing if self.0.iter().any(|life| life.worth(now) > Worth::Nothing) => Worth::Partial,
            worst => worst,
        }
    }

    pub(super) fn has_svids(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether every identity that `other` has a valid SVID of has one here.
    pub(super) fn covers(&self, other: &Self, now: SystemTime) -> bool {
        let valid = |offer: &Self, id: &SpiffeId| offer.0.iter().any(|life| life.id == *id && now < life.end);
        other.0.iter().all(|life| !valid(other, &life.id) || valid(self, &life.id))
    }

    /// When it becomes worth less.
    pub(super) fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        self.0.iter().flat_map(|life| [life.late_at, life.ending_at, life.end]).filter(|at| *at > now).min()
    }
}

impl Life {
    fn worth(&self, now: SystemTime) -> Worth {
        if now >= self.end {
            Worth::Nothing
        } else if now >= self.ending_at && now >= self.late_at {
            Worth::Ending
        } else if now >= self.late_at {
            Worth::Late
        } else {
            Worth::Fresh
        }
    }
}
