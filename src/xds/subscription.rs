//! What one client wants of one resource type, and what it has been told: the heart of the server.

mod interest;
mod outstanding;
mod update;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    DeltaRequest, Lookup, Rejection, Resource, ResourceName, ResourceSet, SotwRequest, Variant, Version,
    response::state_digest,
};
pub use interest::Status;
use interest::{Interest, Interests};
use outstanding::{Outstanding, Sent};
pub use update::{Answer, Heard, Update};

/// The name that asks for everything (xDS protocol, "wildcard").
pub(super) const WILDCARD: &str = "*";
/// How many repeated requests are answered in a burst, and one more for each second: see [`Subscription::on_sotw`].
const RESEND_BURST: u32 = 8;

/// What bounds a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names that one stream may subscribe to.
    pub names: usize,
}

/// The client asked for more names than a stream may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the stream subscribes to more than {limit} names; split the names over several streams or raise limits.names_per_stream"
)]
pub struct TooManyNames {
    /// The limit in force.
    pub limit: usize,
}

/// One client's interest in one resource type on one stream.
#[derive(Debug)]
pub struct Subscription {
    variant: Variant,
    limits: Limits,
    /// Whether a wildcard means anything; off, it is a name like any other, and no such resource exists.
    wildcard_allowed: bool,
    /// Whether a repeated request is a call for help: on aggregated streams only.
    heals: bool,
    opened: bool,
    wildcard: bool,
    /// SotW: no name was ever asked for.
    legacy_wildcard: bool,
    interests: Interests,
    /// SotW: the `version_info` that a reconnecting client began with, until the first plan has used it.
    resume: Option<Version>,
    outstanding: Outstanding,
    /// The last response that was answered; a second answer to it is a repeated request.
    last_answered: Option<Box<str>>,
    resend: Tokens,
    /// Rejected content by name. Sticky: Envoy acknowledges the same bad bytes when it sees them again.
    rejected: BTreeMap<ResourceName, (Version, Arc<str>)>,
    /// What is planned and not yet sent, in order. Replaced whole whenever the set or the interest changes.
    queue: VecDeque<Arc<Resource>>,
    removed: Vec<ResourceName>,
    /// The set that the plan was made from; `None` when the interest has changed since.
    planned: Option<Version>,
    /// How often content was sent again under the nonce of its earlier sending.
    reissued: u32,
}

impl Subscription {
    /// A subscription of a stream that has said nothing yet.
    #[must_use]
    pub fn new(variant: Variant, limits: Limits, wildcard_allowed: bool, heals: bool) -> Self {
        Self {
            variant,
            limits,
            wildcard_allowed,
            heals,
            opened: false,
            wildcard: false,
            legacy_wildcard: false,
            interests: Interests::default(),
            resume: None,
            outstanding: Outstanding::default(),
            last_answered: None,
            resend: Tokens { left: RESEND_BURST, since: Duration::ZERO },
            rejected: BTreeMap::new(),
            queue: VecDeque::new(),
            removed: Vec::new(),
            planned: None,
            reissued: 0,
        }
    }

    /// Takes in a state-of-the-world request at `at`, the age of the stream.
    ///
    /// The list of names always counts, even when the nonce is stale: a stale nonce only means that nothing is
    /// answered twice. A repeated answer to an answered response, with unchanged names, on an aggregated stream means
    /// "please send again": Envoy does that when a second consumer of a secret appears that the first delivery did not
    /// reach (envoy#47309). It is granted at a bounded rate.
    ///
    /// # Errors
    /// [`TooManyNames`]; the subscription is unchanged.
    pub fn on_sotw(&mut self, request: SotwRequest, at: Duration) -> Result<Heard, TooManyNames> {
        self.check_count(request.names.len())?;
        let opened = !std::mem::replace(&mut self.opened, true);
        let answer = self.answer(&request.nonce, request.rejection, at);
        // An empty list is the legacy wildcard only as the very first word of a stream; later it means "nothing".
        self.legacy_wildcard = (opened || self.legacy_wildcard) && request.names.is_empty();
        let mut names = request.names;
        let mut wildcard = false;
        if self.wildcard_allowed {
            wildcard = self.legacy_wildcard || names.iter().any(|name| name.as_str() == WILDCARD);
            names.retain(|name| name.as_str() != WILDCARD);
        }
        let (added, dropped) = self.interests.replace(names);
        let changed = added + dropped > 0 || wildcard != self.wildcard;
        self.wildcard = wildcard;
        if !wildcard {
            self.interests.drop_implicit();
        }
        if opened && !request.version_info.is_empty() {
            self.resume = Some(Version::claimed(&request.version_info));
        } else if changed {
            // The claim is about the names it came with: a name that is wanted later was let go in between.
            self.resume = None;
        }
        // A stream that was resumed in silence has no nonce yet that its client could repeat.
        let spoken = self.last_answered.is_some() || !self.outstanding.is_empty();
        let wordless = self.heals && !spoken && answer == Answer::None && self.interests.held().next().is_some();
        let repeated = answer == Answer::Repeated || wordless;
        let resent = repeated && !changed && !opened && self.grant_resend(at);
        if changed || opened || resent {
            self.planned = None;
        }
        Ok(Heard { opened, answer, added, dropped, resent, wildcard })
    }

    /// Takes in an incremental request at `at`, the age of the stream.
    ///
    /// # Errors
    /// [`TooManyNames`]; the subscription is unchanged.
    pub fn on_delta(&mut self, request: DeltaRequest, at: Duration) -> Result<Heard, TooManyNames> {
        self.check_count(self.interests.len() + request.subscribe.len())
            .or_else(|_| self.check_count(self.interests.len_with(&request.subscribe)))?;
        let opened = !std::mem::replace(&mut self.opened, true);
        let answer = self.answer(&request.nonce, request.rejection, at);
        let is_wildcard = |name: &ResourceName| name.as_str() == WILDCARD;
        let mut subscribe = request.subscribe;
        let mut unsubscribe = request.unsubscribe;
        let before = self.wildcard;
        if self.wildcard_allowed {
            let legacy = opened && subscribe.is_empty() && unsubscribe.is_empty();
            self.wildcard |= legacy || subscribe.iter().any(is_wildcard);
            self.wildcard &= !unsubscribe.iter().any(is_wildcard);
            subscribe.retain(|name| !is_wildcard(name));
            unsubscribe.retain(|name| !is_wildcard(name));
        }
        if before && !self.wildcard {
            self.interests.drop_implicit();
        }
        subscribe.sort_unstable();
        subscribe.dedup();
        let added = subscribe.len();
        self.interests.subscribe(subscribe);
        if opened {
            // Names that the client holds without subscribing to them only matter to a wildcard.
            for (name, version) in request.initial_versions {
                let room = self.interests.len() < self.limits.names;
                self.interests.claim(&name, version, self.wildcard && room);
            }
        }
        let dropped = unsubscribe.len();
        // While the wildcard covers them, the client must hear whether the names still exist.
        self.interests.unsubscribe(unsubscribe, self.wildcard);
        if opened || added + dropped > 0 || before != self.wildcard {
            self.planned = None;
        }
        Ok(Heard { opened, answer, added, dropped, resent: false, wildcard: self.wildcard })
    }

    /// The next thing to tell the client, given the newest set; `None` when there is nothing to say.
    /// What it returns counts as sent.
    pub fn reconcile(&mut self, now: &ResourceSet, at: Duration) -> Option<Update> {
        if !self.opened {
            return None;
        }
        if self.planned.as_ref() != Some(now.state()) {
            self.plan(now);
            self.planned = Some(now.state().clone());
        }
        if let Some(resource) = self.queue.pop_front() {
            return Some(self.send(resource, now, at));
        }
        if self.removed.is_empty() {
            return None;
        }
        let names = std::mem::take(&mut self.removed);
        self.interests.told_absent(&names);
        let nonce = self.fresh_nonce(Version::digest(names.iter().map(|name| name.as_str().as_bytes())).as_str());
        self.outstanding.push(Sent { nonce: nonce.clone(), resource: None, at });
        Some(Update::Removed { names, nonce })
    }

    /// Every name of interest with the version sent and how that went.
    pub fn statuses(&self) -> impl Iterator<Item = (&ResourceName, Option<&Version>, Status)> {
        self.interests.iter().map(|interest| {
            let status = match (&interest.held, self.rejected.get(&interest.name)) {
                (Some(held), Some((version, detail))) if held == version => Status::Rejected(detail.clone()),
                _ => interest.status.clone(),
            };
            (&interest.name, interest.held.as_ref(), status)
        })
    }

    /// Every name of interest, in order.
    pub fn wanted(&self) -> impl Iterator<Item = &ResourceName> {
        self.interests.iter().map(|interest| &interest.name)
    }

    /// How many names are subscribed.
    #[must_use]
    pub fn names(&self) -> usize {
        self.interests.len()
    }

    /// How many names the client asked for and has not heard of: neither a resource nor that there is none.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let unheard = |interest: &&Interest| interest.explicit && interest.held.is_none() && !interest.told_absent;
        self.interests.iter().filter(unheard).count()
    }

    fn check_count(&self, names: usize) -> Result<(), TooManyNames> {
        if names > self.limits.names { Err(TooManyNames { limit: self.limits.names }) } else { Ok(()) }
    }

    fn answer(&mut self, nonce: &str, rejection: Option<Rejection>, at: Duration) -> Answer {
        if nonce.is_empty() {
            return Answer::None;
        }
        let Some(sent) = self.outstanding.take(nonce) else {
            let repeated = self.heals && rejection.is_none() && self.last_answered.as_deref() == Some(nonce);
            return if repeated { Answer::Repeated } else { Answer::Stale };
        };
        self.last_answered = Some(sent.nonce.clone());
        let latency = at.saturating_sub(sent.at);
        if let Some(rejection) = rejection {
            if let Some((name, version)) = sent.resource.clone() {
                self.rejected.insert(name, (version, Arc::from(rejection.message.as_str())));
            }
            return Answer::Nacked { resource: sent.resource, rejection };
        }
        let Some((name, version)) = sent.resource else { return Answer::Acked { resource: None, latency } };
        // Acknowledging what was rejected before proves nothing; acknowledging other content ends the rejection.
        if self.rejected.get(&name).is_some_and(|(rejected, _)| *rejected != version) {
            self.rejected.remove(&name);
        }
        self.interests.acked(&name, &version);
        Answer::Acked { resource: Some((name, version)), latency }
    }

    /// Owes the client again what it holds: `name`, or everything.
    pub fn resend(&mut self, name: Option<&ResourceName>) {
        match name {
            Some(name) => self.interests.due(name),
            None => self.interests.all_due(),
        }
        self.planned = None;
    }

    fn grant_resend(&mut self, at: Duration) -> bool {
        let granted = self.resend.take(at);
        if granted {
            self.interests.all_due();
        }
        granted
    }

    /// Compares interest with the set and lists what is to be sent, trust first.
    fn plan(&mut self, now: &ResourceSet) {
        self.removed.clear();
        if self.wildcard {
            self.interests.follow(now, self.variant);
        }
        self.try_resume(now);
        let mut due = Vec::new();
        for interest in self.interests.iter() {
            match now.lookup(interest.name.as_str()) {
                lookup if !interest.is_covered(&lookup) => self.removed.push(interest.name.clone()),
                Lookup::Available(resource) if interest.wants(resource.version()) => due.push(resource.clone()),
                Lookup::Available(_) | Lookup::Withheld => {}
                Lookup::Absent if self.variant == Variant::Delta && interest.held.is_some() => {
                    self.removed.push(interest.name.clone());
                }
                Lookup::Impossible if self.variant == Variant::Delta && !interest.told_absent => {
                    self.removed.push(interest.name.clone());
                }
                // SotW cannot say no: an empty response would not end Envoy's waiting either.
                Lookup::Absent | Lookup::Impossible => {}
            }
        }
        due.sort_by(|a, b| (a.rank(), a.name()).cmp(&(b.rank(), b.name())));
        self.queue = due.into();
    }

    /// A SotW client that reconnects names the state it holds; if that is the state it would be sent, all is well.
    fn try_resume(&mut self, now: &ResourceSet) {
        if self.resume.is_none() {
            return;
        }
        let available: Vec<_> = self
            .interests
            .iter()
            .filter_map(|interest| match now.lookup(interest.name.as_str()) {
                Lookup::Available(resource) => Some(resource.clone()),
                _ => None,
            })
            .collect();
        // Before everything is known the claim may be about what is not: it waits.
        if available.is_empty() || !now.is_known() && available.len() < self.interests.len() {
            return;
        }
        let state = state_digest(available.iter().map(|resource| (resource.name(), resource.version())));
        if self.resume.take() == Some(state) {
            for resource in available {
                self.interests.resumed(resource.name(), resource.version());
            }
        }
    }

    fn send(&mut self, resource: Arc<Resource>, now: &ResourceSet, at: Duration) -> Update {
        self.interests.sent(resource.name(), resource.version());
        let version_info = match self.variant {
            Variant::Delta => resource.version().clone(),
            // What comes before the end of a burst stands for itself: its frame is shared, and the burst costs one
            // digest over all names and not one a name. A client that is cut off there is sent everything again.
            Variant::Sotw if !self.queue.is_empty() => resource.frames(self.variant).version_info().clone(),
            // Only what a new stream would be sent counts, or a name that is gone would spoil every later claim.
            Variant::Sotw => {
                let available = |name: &ResourceName| matches!(now.lookup(name.as_str()), Lookup::Available(_));
                state_digest(self.interests.held().filter(|(name, _)| available(name)))
            }
        };
        let nonce = self.fresh_nonce(resource.frames(self.variant).nonce());
        let named = Some((resource.name().clone(), resource.version().clone()));
        self.outstanding.push(Sent { nonce: nonce.clone(), resource: named, at });
        Update::Resource { resource, version_info, nonce }
    }

    /// Nonces derive from content so that frames can be shared; content that goes out again on the same stream
    /// gets a number appended, so that the two answers can be told apart.
    fn fresh_nonce(&mut self, derived: &str) -> Box<str> {
        if !self.outstanding.contains(derived) && self.last_answered.as_deref() != Some(derived) {
            return Box::from(derived);
        }
        self.reissued = self.reissued.wrapping_add(1);
        format!("{derived}.{}", self.reissued).into_boxed_str()
    }
}

/// A token bucket over stream age: `RESEND_BURST` at once, then one a second.
#[derive(Debug)]
struct Tokens {
    left: u32,
    since: Duration,
}

impl Tokens {
    fn take(&mut self, at: Duration) -> bool {
        let earned = u32::try_from(at.saturating_sub(self.since).as_secs()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(RESEND_BURST);
            self.since = at;
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

#[cfg(test)]
pub(super) mod tests;
