//! What time alone does to a token.

use std::time::{Instant, SystemTime};

use super::{
    Next, Schedule,
    life::{late, leaves},
};
use crate::{
    identity::JwtState,
    source::{RenewalEvent, renewal::Moment},
};

impl Schedule {
    /// Does what is due at `now`; harmless when nothing is.
    pub(in crate::source::jwt) fn on_alarm(&mut self, now: Moment) -> Vec<RenewalEvent> {
        let Some(svid) = self.svid().cloned() else { return Vec::new() };
        let audience = || self.request.audience.clone();
        let (spiffe_id, not_after) = (svid.id.clone(), svid.validity.not_after);
        if let Some((reason, Some(deadline))) = &self.denial
            && now.steady >= *deadline
        {
            let withdrawn = RenewalEvent::JwtWithdrawn { request: self.request.clone(), reason: reason.clone() };
            (self.state, self.waiting) = (JwtState::Gone(now.wall), None);
            return vec![withdrawn];
        }
        if now.wall >= leaves(&svid.validity) {
            let expired = RenewalEvent::JwtExpired { spiffe_id, audience: audience(), not_after };
            self.state = JwtState::Gone(not_after);
            return vec![expired];
        }
        if !self.warned && self.waiting.is_none() && now.wall >= late(&svid.validity) {
            let expiring = RenewalEvent::JwtExpiring { spiffe_id, audience: audience(), not_after };
            self.warned = true;
            return vec![expiring];
        }
        Vec::new()
    }

    /// When there is something to do next, be it to ask: on the wall clock, and on the steady one.
    pub(in crate::source::jwt) fn next_alarm(&self) -> (Option<SystemTime>, Option<Instant>) {
        let warned = self.warned || self.waiting.is_some();
        let life = self.svid().map(|svid| if warned { leaves(&svid.validity) } else { late(&svid.validity) });
        let grace = self.denial.as_ref().and_then(|(_, deadline)| *deadline).filter(|_| self.svid().is_some());
        match self.next {
            Next::Now => (Some(SystemTime::UNIX_EPOCH), None),
            Next::Renewal(at) => (Some(life.map_or(at, |life| life.min(at))), grace),
            Next::Retry(at) => (life, Some(grace.map_or(at, |grace| grace.min(at)))),
            Next::Answer => (life, grace),
        }
    }
}
