//! When one token is asked for, and what each answer means for the one in service. Pure: every step takes the time.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::keys::Keys;
use crate::{
    identity::{JwtRequest, JwtState, JwtSvid, Validity},
    source::{
        ErrorKind, RenewalEvent, SourceError,
        backoff::Backoff,
        decode::jwt::{self, JwtError},
        renewal::Moment,
        supervisor::{self, MISCONFIGURED_RETRY},
    },
};

/// Tokens that become due together are asked for within this time each, [`LONGEST_SPREAD`] at most.
const SPREAD: Duration = Duration::from_millis(10);
const LONGEST_SPREAD: Duration = Duration::from_secs(1);
/// A token goes out of service this long before its end, so that its empty replacement is at the proxies in time: no
/// request carries a token that has ended.
pub(super) const AHEAD: Duration = Duration::from_millis(200);
/// Nothing is asked more often than this, however short the life of its tokens is.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// Nothing is asked on demand more often than this.
const SHORTEST_DEMAND: Duration = Duration::from_secs(1);

/// The renewal of one token.
#[derive(Debug)]
pub(super) struct Schedule {
    request: JwtRequest,
    denied_grace: Duration,
    state: JwtState,
    /// The successor, while verifiers may not know its key yet.
    waiting: Option<Arc<JwtSvid>>,
    /// In which era of the keys it was found to have to wait.
    considered: Option<u64>,
    next: Next,
    /// When the source was asked last.
    asked: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// While the source says "not entitled": its reason, and when the token goes.
    denial: Option<(Arc<str>, Option<Instant>)>,
    /// Whether the end of the token in service was announced.
    warned: bool,
    backoff: Backoff,
    rng: fastrand::Rng,
}

/// When to ask. Lives are measured on the wall clock, waits after a failure must not jump with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Now,
    Renewal(SystemTime),
    Retry(Instant),
    /// A question is under way.
    Answer,
}

impl Schedule {
    /// Due at once, so that clients wait no longer than they must.
    pub(super) fn new(request: JwtRequest, policy: supervisor::Config, mut rng: fastrand::Rng) -> Self {
        Self {
            request,
            denied_grace: policy.denied_grace,
            state: JwtState::Pending,
            waiting: None,
            considered: None,
            next: Next::Now,
            asked: None,
            failures: 0,
            denial: None,
            warned: false,
            backoff: Backoff::new(policy.backoff, rng.fork()),
            rng,
        }
    }

    pub(super) fn request(&self) -> &JwtRequest {
        &self.request
    }

    pub(super) fn state(&self) -> &JwtState {
        &self.state
    }

    /// Whether the source is to be asked now; then it counts as asked.
    pub(super) fn start(&mut self, now: Moment) -> bool {
        let due = match self.next {
            Next::Now => true,
            Next::Renewal(at) => now.wall >= at,
            Next::Retry(at) => now.steady >= at,
            Next::Answer => false,
        };
        if due {
            self.next = Next::Answer;
            self.asked = Some(now.steady);
        }
        due
    }

    /// Another source is in service: it is asked after `delay`, and what the one before had said about this token counts
    /// no more, but for the token in service. An answer that is under way must not arrive.
    pub(super) fn on_switch(&mut self, delay: Duration, now: Moment) {
        (self.waiting, self.denial, self.failures) = (None, None, 0);
        self.backoff.reset();
        self.next = Next::Retry(now.steady + delay);
    }

    /// Somebody wants it anew: the source is asked after `delay`, or a moment after it was asked last.
    pub(super) fn hasten(&mut self, delay: Duration, now: Moment) {
        let earliest = self.asked.and_then(|asked| asked.checked_add(SHORTEST_DEMAND));
        let at = earliest.map_or(now.steady, |earliest| earliest.max(now.steady)) + delay;
        match self.next {
            Next::Now | Next::Answer => {}
            Next::Retry(sooner) if sooner <= at => {}
            Next::Renewal(sooner) if sooner <= now.wall => {}
            Next::Retry(_) | Next::Renewal(_) => self.next = Next::Retry(at),
        }
    }

    /// The answer came; `keys` are those that are known now.
    pub(super) fn on_fetched(
        &mut self,
        fetched: Result<JwtSvid, SourceError>,
        keys: &Keys,
        now: Moment,
    ) -> Vec<RenewalEvent> {
        let svid = match fetched {
            Ok(svid) if now.wall < leaves(&svid.validity) => svid,
            Ok(JwtSvid { id: spiffe_id, validity: Validity { not_after, .. }, .. }) => {
                return self.on_failure(&SourceError::Expired { spiffe_id, not_after }, now);
            }
            Err(error) => return self.on_failure(&error, now),
        };
        self.failures = 0;
        self.denial = None;
        self.backoff.reset();
        let repeated = self.waiting.as_ref().or(self.svid()).is_some_and(|held| held.token == svid.token);
        self.next = Next::Renewal(self.renewal(&svid.validity, repeated, now.wall));
        if repeated {
            tracing::debug!(subject = %self.request.subject, "the source repeated the same jwt svid");
            return Vec::new();
        }
        (self.waiting, self.considered) = (Some(Arc::new(svid)), None);
        self.admit(keys, now)
    }

    /// Puts the successor into service once verifiers can be expected to accept it: at once, but after a switch to a
    /// source with other keys. It never waits for longer than the one in service lasts.
    pub(super) fn admit(&mut self, keys: &Keys, now: Moment) -> Vec<RenewalEvent> {
        let lasts = |held: &Arc<JwtSvid>| now.wall < leaves(&held.validity);
        if self.considered == Some(keys.era()) && self.svid().is_some_and(lasts) {
            return Vec::new();
        }
        let Some(svid) = self.waiting.take() else { return Vec::new() };
        if let Err(source) = keys.judge(&svid) {
            let error = JwtError::Token { spiffe_id: svid.id.clone(), source };
            return self.on_failure(&error.into(), now);
        }
        let good = |held: &Arc<JwtSvid>| lasts(held) && keys.rests_on_former(held);
        if !keys.is_settled(&svid) && self.svid().is_some_and(good) {
            (self.waiting, self.considered) = (Some(svid), Some(keys.era()));
            return Vec::new();
        }
        let (spiffe_id, not_after) = (svid.id.clone(), svid.validity.not_after);
        self.state = JwtState::Valid(svid);
        self.warned = false;
        vec![RenewalEvent::JwtRenewed { spiffe_id, audience: self.request.audience.clone(), not_after }]
    }

    /// Other keys are in force. A token that they do not vouch for is replaced now, not when its time comes; it stays
    /// in service meanwhile, because its verifiers may not have heard yet.
    pub(super) fn on_keys(&mut self, keys: &Keys) {
        let refused = self.svid().is_some_and(|svid| jwt::vouched(svid, keys.shown()).is_err());
        if refused && matches!(self.next, Next::Renewal(_)) {
            self.next = Next::Now;
        }
    }

    /// Does what is due at `now`; harmless when nothing is.
    pub(super) fn on_alarm(&mut self, now: Moment) -> Vec<RenewalEvent> {
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
    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<Instant>) {
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

    /// The token in service.
    pub(super) fn svid(&self) -> Option<&Arc<JwtSvid>> {
        match &self.state {
            JwtState::Valid(svid) => Some(svid),
            JwtState::Pending | JwtState::Gone(_) => None,
        }
    }

    fn on_failure(&mut self, error: &SourceError, now: Moment) -> Vec<RenewalEvent> {
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind();
        let text: Arc<str> = error.chain().into();
        let mut wait = if kind == ErrorKind::Misconfigured { MISCONFIGURED_RETRY } else { self.backoff.next_delay() };
        if let Some(svid) = self.svid() {
            // However long the backoff has become, there is another try before the token ends.
            wait = wait.min(svid.validity.remaining(now.wall) / 2);
        }
        self.next = Next::Retry(now.steady + wait.max(SHORTEST_WAIT));
        if kind == ErrorKind::NotEntitled && self.svid().is_some() {
            let known = self.denial.take().and_then(|(_, deadline)| deadline);
            self.denial = Some((text.clone(), known.or_else(|| now.steady.checked_add(self.denied_grace))));
        }
        let (request, failures) = (self.request.clone(), self.failures);
        vec![RenewalEvent::JwtRenewalFailed { request, kind, error: text, failures }]
    }

    /// When to ask for the successor of a token that is here.
    ///
    /// A source may hand the same token out for half of its life (SPIRE, give or take a tenth), so asking earlier is
    /// in vain; two thirds leave a third for failures. A source that repeats itself, or gives a token that is past
    /// that point, is late: it is asked in ever shorter steps, without ever spinning.
    fn renewal(&mut self, validity: &Validity, repeated: bool, now: SystemTime) -> SystemTime {
        let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
        let point = validity.not_before.checked_add(life.mul_f64(0.5 + self.rng.f64() / 6.0));
        let step = validity.remaining(now).mul_f64(0.25 + self.rng.f64() / 4.0).max(SHORTEST_WAIT);
        match point {
            Some(point) if point > now && !repeated => point.max(now + SHORTEST_WAIT),
            _ => now + step,
        }
    }
}

/// When a token goes out of service. One that lives shorter than a few moments has no time to give away.
fn leaves(validity: &Validity) -> SystemTime {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    validity.not_after.checked_sub(AHEAD.min(life / 10)).unwrap_or(validity.not_after)
}

/// When a token should have been replaced: a quarter of its life is left to act.
fn late(validity: &Validity) -> SystemTime {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    validity.not_after.checked_sub(life / 4).unwrap_or(validity.not_after)
}

/// Within which time so many tokens are asked for.
pub(super) fn spread(tokens: usize) -> Duration {
    let tokens = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
    SPREAD.saturating_mul(tokens).min(LONGEST_SPREAD)
}
