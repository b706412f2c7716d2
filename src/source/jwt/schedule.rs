//! When one token is asked for, and what each answer means for the one in service. Pure: every step takes the time.

mod alarm;
mod life;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::keys::Keys;
use crate::{
    identity::{JwtRequest, JwtState, JwtSubject, JwtSvid, SpiffeId},
    source::{
        ErrorKind, RenewalEvent, SourceError,
        backoff::Backoff,
        decode::jwt::{self, JwtError},
        renewal::Moment,
        supervisor::{self, MISCONFIGURED_RETRY},
    },
};
#[cfg(test)]
pub(super) use life::AHEAD;
use life::leaves;

/// Tokens that become due together are asked for within this time each, [`LONGEST_SPREAD`] at most.
const SPREAD: Duration = Duration::from_millis(10);
const LONGEST_SPREAD: Duration = Duration::from_secs(1);
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
    /// Whether the token in service was taken before there were keys to judge it by.
    unjudged: bool,
    /// Whose token it is by what is known of X.509-SVIDs; `None` while that tells nothing.
    subject: Option<SpiffeId>,
    next: Next,
    /// When the source was asked last.
    asked: Option<Instant>,
    /// Whose token it was asked for then; `None` for all.
    asked_for: Option<SpiffeId>,
    /// Counts the questions. The answer to one before the last does not count.
    question: u32,
    /// Whether the source in service ever gave a token.
    proven: bool,
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
            unjudged: false,
            subject: None,
            next: Next::Now,
            asked: None,
            asked_for: None,
            question: 0,
            proven: false,
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

    /// What to ask the source: for one identity where it is known which, because a source mints a token for every
    /// identity otherwise.
    pub(super) fn question(&self) -> (u32, JwtRequest) {
        let subject = self.subject.clone().map_or_else(|| self.request.subject.clone(), JwtSubject::Id);
        (self.question, JwtRequest { subject, audience: self.request.audience.clone() })
    }

    /// Whether the last question was in vain.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn state(&self) -> &JwtState {
        &self.state
    }

    /// Whether the source is to be asked now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        match self.next {
            Next::Now => true,
            Next::Renewal(at) => now.wall >= at,
            Next::Retry(at) => now.steady >= at,
            Next::Answer => false,
        }
    }

    /// The same; then it counts as asked.
    pub(super) fn start(&mut self, now: Moment) -> bool {
        let due = self.is_due(now);
        if due {
            self.next = Next::Answer;
            self.asked = Some(now.steady);
            self.asked_for = self.subject.clone();
            self.question = self.question.wrapping_add(1);
        }
        due
    }

    /// Another source is in service: it is asked after `delay`, and what the one before had said about this token counts
    /// no more, but for the token in service. An answer that is under way does not count either.
    pub(super) fn on_switch(&mut self, delay: Duration, now: Moment) {
        self.proven = false;
        self.ask_anew(delay, now);
    }

    /// The X.509-SVIDs tell whose token it is; `None` is no news. If that is another identity than before, its token is
    /// asked for after `delay`. The one in service stays until it is there.
    pub(super) fn on_subject(&mut self, subject: Option<SpiffeId>, delay: Duration, now: Moment) {
        let Some(subject) = subject.filter(|subject| self.subject.as_ref() != Some(subject)) else { return };
        let before = self.subject.replace(subject);
        let (held, wanted) = (self.waiting.as_ref().or(self.svid()).map(|svid| &svid.id), self.subject.as_ref());
        // At the start a question for all identities may be under way: its answer may be the one.
        if before.is_some() || held.is_some() && held != wanted {
            self.ask_anew(delay, now);
        }
    }

    fn ask_anew(&mut self, delay: Duration, now: Moment) {
        (self.waiting, self.denial, self.failures) = (None, None, 0);
        self.question = self.question.wrapping_add(1);
        self.backoff.reset();
        self.next = Next::Retry(now.steady + delay);
    }

    /// The source answers again: what waits for a time to try again is tried after `delay`.
    pub(super) fn on_source_back(&mut self, delay: Duration, now: Moment) {
        let at = now.steady + delay;
        if matches!(self.next, Next::Retry(later) if later > at) {
            self.next = Next::Retry(at);
        }
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

    /// The answer to a question came; `keys` are those that are known now.
    pub(super) fn on_fetched(
        &mut self,
        question: u32,
        fetched: Result<JwtSvid, SourceError>,
        keys: &Keys,
        now: Moment,
    ) -> Vec<RenewalEvent> {
        if question != self.question {
            return Vec::new();
        }
        let svid = match fetched.and_then(|svid| self.check(svid, keys, now)) {
            Ok(svid) => svid,
            Err(error) => return self.on_failure(&error, now),
        };
        if self.asked_for.is_none() && self.subject.as_ref().is_some_and(|subject| *subject != svid.id) {
            // Meanwhile it is known whose it has to be.
            self.next = Next::Now;
            return Vec::new();
        }
        self.failures = 0;
        self.denial = None;
        self.proven = true;
        self.backoff.reset();
        let repeated = self.waiting.as_ref().or(self.svid()).is_some_and(|held| held.token == svid.token);
        self.next = Next::Renewal(life::renewal(&svid.validity, repeated, now.wall, &mut self.rng));
        if repeated {
            tracing::debug!(subject = %self.request.subject, "the source repeated the same jwt svid");
            return Vec::new();
        }
        (self.waiting, self.considered) = (Some(Arc::new(svid)), None);
        self.admit(keys, now)
    }

    /// Whether a token may be served at all. The keys may have changed while it was under way.
    fn check(&self, svid: JwtSvid, keys: &Keys, now: Moment) -> Result<JwtSvid, SourceError> {
        if now.wall >= leaves(&svid.validity) {
            return Err(SourceError::Expired { spiffe_id: svid.id, not_after: svid.validity.not_after });
        }
        if let Some(asked) = self.asked_for.as_ref().filter(|asked| **asked != svid.id) {
            return Err(JwtError::OtherIdentity { asked: asked.clone(), found: svid.id }.into());
        }
        match keys.judge(&svid) {
            Ok(()) => Ok(svid),
            Err(source) => Err(JwtError::Token { spiffe_id: svid.id, source }.into()),
        }
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
        self.unjudged = !keys.knows(&svid);
        self.state = JwtState::Valid(svid);
        self.warned = false;
        vec![RenewalEvent::JwtRenewed { spiffe_id, audience: self.request.audience.clone(), not_after }]
    }

    /// Other keys are in force. A token that they do not vouch for is replaced now, not when its time comes; it stays
    /// in service meanwhile, because its verifiers may not have heard yet. Not so one that no keys ever vouched for: it
    /// was taken on trust, and goes. What could not be had is asked for again: it may be good now.
    pub(super) fn on_keys(&mut self, keys: &Keys, now: Moment) -> Vec<RenewalEvent> {
        let Some(svid) = self.svid().cloned() else {
            self.hasten_retry();
            return Vec::new();
        };
        let unjudged = self.unjudged;
        self.unjudged = unjudged && !keys.knows(&svid);
        let Err(source) = jwt::vouched(&svid, keys.shown()) else {
            self.hasten_retry();
            return Vec::new();
        };
        let mut events = Vec::new();
        if unjudged {
            events = self.on_failure(&JwtError::Token { spiffe_id: svid.id.clone(), source }.into(), now);
            self.state = JwtState::Gone(now.wall);
        }
        if self.next != Next::Answer {
            self.next = Next::Now;
        }
        events
    }

    fn hasten_retry(&mut self) {
        if matches!(self.next, Next::Retry(_)) && self.failures > 0 {
            self.next = Next::Now;
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
        // An agent that restarts may refuse for a moment what it gave before.
        let hopeless = kind == ErrorKind::Misconfigured && !self.proven;
        let mut wait = if hopeless { MISCONFIGURED_RETRY } else { self.backoff.next_delay() };
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
}

/// Within which time so many tokens are asked for.
pub(super) fn spread(tokens: usize) -> Duration {
    let tokens = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
    SPREAD.saturating_mul(tokens).min(LONGEST_SPREAD)
}
