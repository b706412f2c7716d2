//! What one client wants of one resource type, and what it has been told: the heart of the server.

mod changes;
mod interest;
mod interests;
mod outstanding;
mod update;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use super::{
    DeltaRequest, Lookup, Rank, Rejection, Resource, ResourceName, ResourceSet, SotwRequest, Variant, Version,
    response::state_digest,
};
pub use changes::Changes;
use interest::{Interest, Plan};
pub use interest::{Status, asked};
use interests::Interests;
use outstanding::{Outstanding, Sent};
pub use update::{Answer, Heard, Standing, Update};

/// The name that asks for everything (xDS protocol, "wildcard").
pub(super) const WILDCARD: &str = "*";
/// How many repeated requests are answered in a burst, and one more for each second: see [`Subscription::on_sotw`].
const RESEND_BURST: u32 = 8;
/// The longest name: a SPIFFE ID has at most 2048 bytes, a path 4096.
pub(super) const LONGEST_NAME: usize = 4096;
/// What a name costs beside its bytes: here, in the list of streams, and on its way.
pub(super) const NAME_COST: usize = 320;
/// How often the bytes of a name are there.
pub(super) const NAME_COPIES: usize = 2;
/// What a response costs that waits for its answer.
const SENT_COST: usize = 128;

/// What bounds a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Names that one stream may subscribe to.
    pub names: usize,
    /// Bytes of these names.
    pub name_bytes: usize,
}

/// The client asked for more names than a stream may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooManyNames {
    /// By number.
    #[error(
        "the stream subscribes to more than {limit} names; split the names over several streams or raise limits.names_per_stream"
    )]
    Count {
        /// The limit in force.
        limit: usize,
    },
    /// By length.
    #[error(
        "the stream subscribes to names of more than {limit} bytes; split them over several streams or raise limits.name_bytes_per_stream"
    )]
    Bytes {
        /// The limit in force.
        limit: usize,
    },
}

impl Limits {
    /// Whether a stream may have so many names of so many bytes.
    pub(super) fn check(self, names: usize, bytes: usize) -> Result<(), TooManyNames> {
        match self {
            Self { names: limit, .. } if names > limit => Err(TooManyNames::Count { limit }),
            Self { name_bytes: limit, .. } if bytes > limit => Err(TooManyNames::Bytes { limit }),
            _ => Ok(()),
        }
    }
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
    /// Bytes of the words in `rejected`.
    words: usize,
    /// What is planned and not yet sent, in order.
    queue: BTreeMap<(Rank, ResourceName), Arc<Resource>>,
    /// Names that are planned to be removed.
    removed: BTreeSet<ResourceName>,
    /// Delta: names that are too long to be any, of which the client is yet to hear.
    overlong: BTreeSet<ResourceName>,
    /// SotW: names that cannot be had, of which an operator is yet to hear.
    refused: Vec<ResourceName>,
    /// The set that the plan was made from.
    planned: Option<Version>,
    /// What has changed since of what the client wants, so that a small request costs little however much is wanted.
    dirty: Changes,
    /// The same for whoever shows this.
    changes: Changes,
    /// How often content was sent again under the nonce of its earlier sending.
    reissued: u32,
    /// The step of a roll-out that the newest set belongs to.
    step: u64,
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
            words: 0,
            queue: BTreeMap::new(),
            removed: BTreeSet::new(),
            overlong: BTreeSet::new(),
            refused: Vec::new(),
            planned: None,
            dirty: Changes::default(),
            changes: Changes::default(),
            reissued: 0,
            step: 0,
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
    pub fn on_sotw(&mut self, mut request: SotwRequest, at: Duration) -> Result<Heard, TooManyNames> {
        let overlong = request.names.extract_if(.., |name| is_overlong(name)).count();
        self.limits.check(request.names.len(), request.names.iter().map(|name| name.as_str().len()).sum())?;
        let opened = !std::mem::replace(&mut self.opened, true);
        let answer = self.answer(&request.nonce, request.rejection, at);
        // An empty list is the legacy wildcard only as the very first word of a stream; later it means "nothing".
        let nothing = request.names.iter().all(|name| self.wildcard_allowed && name.as_str().is_empty());
        self.legacy_wildcard = (opened || self.legacy_wildcard) && nothing;
        let (names, wildcard) = asked(request.names, self.legacy_wildcard, self.wildcard_allowed);
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
            self.touch_all();
        }
        let returns = opened && self.resume.is_some();
        Ok(Heard { opened, answer, added, dropped, overlong, resent, wildcard, returns })
    }

    /// Takes in an incremental request at `at`, the age of the stream.
    ///
    /// # Errors
    /// [`TooManyNames`]; the subscription is unchanged.
    pub fn on_delta(&mut self, mut request: DeltaRequest, at: Duration) -> Result<Heard, TooManyNames> {
        let overlong: Vec<_> = request.subscribe.extract_if(.., |name| is_overlong(name)).collect();
        self.check_more(&request.subscribe)?;
        let opened = !std::mem::replace(&mut self.opened, true);
        let answer = self.answer(&request.nonce, request.rejection, at);
        let is_wildcard = |name: &ResourceName| name.as_str() == WILDCARD;
        let mut unsubscribe = request.unsubscribe;
        let before = self.wildcard;
        let first = opened && unsubscribe.is_empty();
        let (mut subscribe, wildcard) = asked(request.subscribe, first, self.wildcard_allowed);
        self.wildcard |= wildcard;
        if self.wildcard_allowed {
            self.wildcard &= !unsubscribe.iter().any(is_wildcard);
            unsubscribe.retain(|name| !is_wildcard(name));
        }
        if before && !self.wildcard {
            self.interests.drop_implicit();
        }
        subscribe.sort_unstable();
        subscribe.dedup();
        if opened || self.wildcard || before {
            self.touch_all();
        } else {
            subscribe.iter().chain(&unsubscribe).for_each(|name| self.touch(name));
        }
        unsubscribe.iter().for_each(|name| _ = self.overlong.remove(name));
        let overlong = self.refuse(overlong);
        let added = subscribe.len();
        self.interests.subscribe(subscribe);
        let returns = opened && !request.initial_versions.is_empty();
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
        Ok(Heard { opened, answer, added, dropped, overlong, resent: false, wildcard: self.wildcard, returns })
    }

    /// The next thing to tell the client, given the newest set; `None` when there is nothing to say.
    /// What it returns counts as sent.
    pub fn reconcile(&mut self, now: &ResourceSet, at: Duration) -> Option<Update> {
        if !self.opened {
            return None;
        }
        self.plan(now);
        if let Some((_, resource)) = self.queue.pop_first() {
            return Some(self.send(resource, now, at));
        }
        if self.removed.is_empty() && self.overlong.is_empty() {
            return None;
        }
        let names: Vec<_> = std::mem::take(&mut self.removed).into_iter().collect();
        self.interests.told_absent(&names);
        names.iter().for_each(|name| self.changes.note(name));
        let overlong = std::mem::take(&mut self.overlong);
        let names: Vec<_> = names.into_iter().chain(overlong).collect();
        let nonce = self.fresh_nonce(Version::digest(names.iter().map(|name| name.as_str().as_bytes())).as_str());
        self.outstanding.push(Sent { nonce: nonce.clone(), resource: None, at, step: self.step });
        Some(Update::Removed { names, nonce })
    }

    /// The sets from now on belong to this step of a roll-out.
    pub fn looks_at(&mut self, step: u64) {
        self.step = step;
    }

    /// The last step of which everything was sent and answered. Asked when there is nothing more to send.
    #[must_use]
    pub fn has_step(&self) -> u64 {
        self.outstanding.oldest_step().map_or(self.step, |step| step.saturating_sub(1))
    }

    /// Every name of interest and how it stands.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.interests.iter().map(|interest| self.standing_of(interest))
    }

    /// How a name stands, if it is of interest.
    #[must_use]
    pub fn standing(&self, name: &ResourceName) -> Option<Standing<'_>> {
        self.interests.get(name).map(|interest| self.standing_of(interest))
    }

    fn standing_of<'a>(&'a self, interest: &'a Interest) -> Standing<'a> {
        let status = match (&interest.held, self.rejected.get(&interest.name)) {
            (Some(held), Some((version, detail))) if held == version => Status::Rejected(detail.clone()),
            _ => interest.status.clone(),
        };
        Standing { name: &interest.name, sent: interest.held.as_ref(), held: interest.taken.as_ref(), status }
    }

    /// Which names stand otherwise than when this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The same, without forgetting it.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Bytes that this costs, here and where streams are listed: about, and never much less.
    #[must_use]
    pub fn weight(&self) -> usize {
        let (names, bytes) = (self.interests.len() + self.overlong.len(), self.interests.bytes());
        let overlong: usize = self.overlong.iter().map(|name| name.as_str().len()).sum();
        let words = self.words + self.rejected.len() * SENT_COST;
        names * NAME_COST + (bytes + overlong) * NAME_COPIES + self.outstanding.len() * SENT_COST + words
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
        self.interests.unheard()
    }

    /// SotW: names that the client waits for and can never have. Each of them once.
    pub fn take_refused(&mut self) -> Vec<ResourceName> {
        std::mem::take(&mut self.refused)
    }

    /// Names that the client has waited for since this was called last, or longer, each of them once; and whether there are
    /// others, so that it is worth calling this again later.
    pub fn take_overdue(&mut self) -> (Vec<ResourceName>, bool) {
        self.interests.overdue()
    }

    /// Whether there is room for these names too.
    fn check_more(&self, names: &[ResourceName]) -> Result<(), TooManyNames> {
        let bytes: usize = names.iter().map(|name| name.as_str().len()).sum();
        let all_new = self.limits.check(self.interests.len() + names.len(), self.interests.bytes() + bytes);
        all_new.or_else(|_| {
            let (count, bytes) = self.interests.size_with(names);
            self.limits.check(count, bytes)
        })
    }

    /// Owes the client a word about names that are none, as far as they can be remembered; says how many there were.
    fn refuse(&mut self, names: Vec<ResourceName>) -> usize {
        let count = names.len();
        let room = self.limits.name_bytes / LONGEST_NAME;
        let kept = names.into_iter().take(room.saturating_sub(self.overlong.len()));
        self.overlong.extend(kept.filter(|name| name.as_str().len() <= 2 * LONGEST_NAME));
        count
    }

    fn touch(&mut self, name: &ResourceName) {
        self.dirty.note(name);
        self.changes.note(name);
    }

    fn touch_all(&mut self) {
        self.dirty.note_all();
        self.changes.note_all();
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
                self.reject(name, version, &rejection.message);
            }
            return Answer::Nacked { resource: sent.resource, rejection };
        }
        let Some((name, version)) = sent.resource else { return Answer::Acked { resource: None, latency } };
        // Acknowledging what was rejected before proves nothing; acknowledging other content ends the rejection.
        match self.rejected.get(&name) {
            Some((rejected, _)) if *rejected == version => {
                return Answer::Acked { resource: Some((name, version)), latency };
            }
            Some((_, words)) => {
                self.words -= words.len();
                self.rejected.remove(&name);
            }
            None => {}
        }
        self.interests.acked(&name, &version);
        Answer::Acked { resource: Some((name, version)), latency }
    }

    /// Remembers a rejection; those of names that nobody wants any more make room.
    fn reject(&mut self, name: ResourceName, version: Version, words: &str) {
        if self.rejected.len() >= self.limits.names {
            self.rejected.retain(|name, _| self.interests.get(name).is_some());
            self.words = self.rejected.values().map(|(_, words)| words.len()).sum();
        }
        self.words += words.len();
        if let Some((_, before)) = self.rejected.insert(name, (version, Arc::from(words))) {
            self.words -= before.len();
        }
    }

    /// Owes the client again what it holds: `name`, or everything.
    pub fn resend(&mut self, name: Option<&ResourceName>) {
        match name {
            Some(name) => {
                self.interests.due(name);
                self.dirty.note(name);
            }
            None => {
                self.interests.all_due();
                self.dirty.note_all();
            }
        }
    }

    fn grant_resend(&mut self, at: Duration) -> bool {
        let granted = self.resend.take(at);
        if granted {
            self.interests.all_due();
        }
        granted
    }

    /// Compares interest with the set and lists what is to be sent, trust first: of everything when the set has changed,
    /// else of what is wanted otherwise than before.
    fn plan(&mut self, now: &ResourceSet) {
        let dirty = std::mem::take(&mut self.dirty);
        if self.planned.as_ref() == Some(now.state())
            && let Some(names) = dirty.names()
        {
            names.iter().for_each(|name| self.plan_again(now, name));
            return;
        }
        self.planned = Some(now.state().clone());
        self.removed.clear();
        self.queue.clear();
        if self.wildcard {
            self.interests.follow(now, self.variant);
            self.changes.note_all();
        }
        self.try_resume(now);
        let mut refused = Vec::new();
        for interest in self.interests.iter() {
            match interest.plan(now, self.variant) {
                Plan::Send(resource) => drop(self.queue.insert(place(&resource), resource)),
                Plan::Remove => drop(self.removed.insert(interest.name.clone())),
                Plan::Refuse => refused.push(interest.name.clone()),
                Plan::Nothing => {}
            }
        }
        self.interests.said(&refused);
        self.refused.append(&mut refused);
    }

    fn plan_again(&mut self, now: &ResourceSet, name: &ResourceName) {
        for rank in [Rank::Trust, Rank::Credential] {
            self.queue.remove(&(rank, name.clone()));
        }
        self.removed.remove(name);
        match self.interests.get(name).map(|interest| interest.plan(now, self.variant)) {
            Some(Plan::Send(resource)) => drop(self.queue.insert(place(&resource), resource)),
            Some(Plan::Remove) => drop(self.removed.insert(name.clone())),
            // Delta alone changes names one by one.
            Some(Plan::Nothing | Plan::Refuse) | None => {}
        }
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
                Lookup::Available(resource) | Lookup::KeptBack(resource) => Some(resource.clone()),
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
                self.changes.note(resource.name());
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
                let available = |name: &ResourceName| {
                    matches!(now.lookup(name.as_str()), Lookup::Available(_) | Lookup::KeptBack(_))
                };
                state_digest(self.interests.held().filter(|(name, _)| available(name)))
            }
        };
        let nonce = self.fresh_nonce(resource.frames(self.variant).nonce());
        let named = Some((resource.name().clone(), resource.version().clone()));
        self.outstanding.push(Sent { nonce: nonce.clone(), resource: named, at, step: self.step });
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

/// Where a resource stands in the order of sending.
fn place(resource: &Resource) -> (Rank, ResourceName) {
    (resource.rank(), resource.name().clone())
}

fn is_overlong(name: &ResourceName) -> bool {
    name.as_str().len() > LONGEST_NAME
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
