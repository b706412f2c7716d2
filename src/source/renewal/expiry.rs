//! Which SVIDs in service near the end of their lives, and when to look again.

use std::{sync::Arc, time::SystemTime};

use super::Sightings;
use crate::{
    identity::Svid,
    source::{RenewalEvent, decode},
};

/// Issuers renew at half of the life or earlier, so at two thirds something is wrong, and a third is left to act.
const LATE: f64 = 2.0 / 3.0;

/// Follows the SVIDs in service. Each one is reported once as expiring and once as expired.
#[derive(Debug, Default)]
pub(super) struct ExpiryWatch {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    svid: Arc<Svid>,
    expiring_at: SystemTime,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Expiring,
    Expired,
}

impl Entry {
    fn next(&self) -> Option<SystemTime> {
        match self.stage {
            Stage::Fresh => Some(self.expiring_at),
            Stage::Expiring => Some(self.svid.validity.not_after),
            Stage::Expired => None,
        }
    }

    fn advance(&mut self, now: SystemTime) -> Option<RenewalEvent> {
        let stage = if now >= self.svid.validity.not_after {
            Stage::Expired
        } else if now >= self.expiring_at {
            Stage::Expiring
        } else {
            // The wall clock may have been set back: what was reported stays reported.
            return None;
        };
        if stage == self.stage || self.stage == Stage::Expired {
            return None;
        }
        self.stage = stage;
        let spiffe_id = self.svid.id.clone();
        let serial = decode::serial(self.svid.chain.leaf()).into();
        let not_after = self.svid.validity.not_after;
        Some(match stage {
            Stage::Expired => RenewalEvent::Expired { spiffe_id, serial, not_after },
            Stage::Fresh | Stage::Expiring => RenewalEvent::Expiring { spiffe_id, serial, not_after },
        })
    }
}

impl ExpiryWatch {
    /// From now on these are in service. One that was already stays as reported as it is.
    pub(super) fn follow(&mut self, svids: &[Arc<Svid>], seen: &Sightings) {
        let before = std::mem::take(&mut self.entries);
        let entry = |svid: &Arc<Svid>| {
            let known = before.iter().find(|entry| entry.svid.chain == svid.chain).cloned();
            known.unwrap_or_else(|| Entry {
                svid: svid.clone(),
                expiring_at: seen.spent_at(svid, LATE),
                stage: Stage::Fresh,
            })
        };
        self.entries = svids.iter().map(entry).collect();
    }

    /// What has become reportable by `now`.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<RenewalEvent> {
        self.entries.iter_mut().filter_map(|entry| entry.advance(now)).collect()
    }

    /// When something becomes reportable next.
    pub(super) fn next(&self) -> Option<SystemTime> {
        self.entries.iter().filter_map(Entry::next).min()
    }
}
