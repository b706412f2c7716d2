//! What a publisher says about its roll-outs: to the log, to metrics and to traces.

use super::Publisher;
use crate::secret::{Hold, HoldReason, Note};

/// Clients in one line of the log.
const CLIENTS_SHOWN: usize = 8;

impl Publisher {
    /// Notes what waits from now on.
    pub(super) fn wait(&mut self, hold: Option<Hold>) {
        // Nobody notices that nobody returns.
        let hold = hold.filter(|hold| hold.reason != HoldReason::Returning || self.is_anybody_former());
        if let Some(hold) = hold {
            self.traced.holds();
            if self.waiting.is_none_or(|before| before.reason != hold.reason) {
                let hold_ms = hold.until.saturating_sub(self.started.elapsed()).as_millis() as u64;
                let (waits, acks) = (hold.reason.as_str(), hold.for_acks);
                tracing::debug!(hold_ms, waits, acks, "rollout holds before its next step");
                self.metrics.holds(waits);
            }
        } else {
            self.traced.settles();
            self.arrived = None;
        }
        self.metrics.holding(hold.is_some());
        self.waiting = hold;
    }

    /// Goes on without those who have not acknowledged this step.
    pub(super) fn give_up(&mut self, number: u64) {
        let clients = self.streams.give_up(number);
        let count = self.acks.give_up(number);
        if count > 0 {
            let clients: Vec<_> = clients.iter().take(CLIENTS_SHOWN).map(ToString::to_string).collect();
            tracing::warn!(
                count,
                ?clients,
                "clients did not acknowledge new trust or certificates in time, the rollout goes on without them"
            );
        }
    }
    /// Says what is new since the last state.
    pub(super) fn note(&mut self, notes: &[Note]) {
        for note in notes.iter().filter(|note| !self.noted.contains(note)) {
            match note {
                Note::NoDefault(wanted) => {
                    tracing::warn!(%wanted, "no identity is the default one that is configured, its name waits for one");
                }
                Note::IncompleteCrls(trust_domain) => {
                    tracing::warn!(%trust_domain, "some authorities of the trust domain have no revocation list");
                }
            }
        }
        self.noted = notes.to_vec();
    }
}
