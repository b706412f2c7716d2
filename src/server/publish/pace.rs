//! How long the steps of a rollout wait for each other.

use std::time::Duration;

use tokio::time::Instant;

use crate::secret::Change;

/// Keeps the holds between the steps of rollouts, also when each step is a message of its own: a source that tells of a
/// new authority and, a moment later, of a certificate under it must not be faster than proxies are.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) hold: Duration,
    trust_grew: Option<Instant>,
    certificates_changed: Option<Instant>,
}

impl Pace {
    /// Nothing has happened yet.
    pub(super) fn new(hold: Duration) -> Self {
        Self { hold, trust_grew: None, certificates_changed: None }
    }

    /// The earliest moment for a step that changes this; `None` if it need not wait.
    pub(super) fn not_before(&self, change: Change) -> Option<Instant> {
        let after_growth = self.trust_grew.filter(|_| change.certificates || change.trust_shrinks);
        let after_certificates = self.certificates_changed.filter(|_| change.trust_shrinks);
        after_growth.max(after_certificates).map(|at| at + self.hold)
    }

    /// A step that changes this was taken at `now`.
    pub(super) fn took(&mut self, change: Change, now: Instant) {
        if change.trust_grows {
            self.trust_grew = Some(now);
        }
        if change.certificates {
            self.certificates_changed = Some(now);
        }
    }
}
