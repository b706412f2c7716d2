//! The keys that verify tokens: an endless series of sessions, and what each of their messages means.
//!
//! When another source comes into service, its keys need time to reach verifiers, which poll for them, and tokens of the
//! one before are on their way still. So the keys of both are shown for a while, as X.509 authorities are in a roll-over;
//! a token is always judged by those of the source that gave it alone.

mod keep;
mod merge;
mod series;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant as StdInstant, SystemTime},
};

use crate::{
    identity::{JwtBundle, JwtSvid, Refusal, TrustDomain},
    source::{
        ErrorKind, RenewalEvent, SourceError,
        decode::jwt::{self, JwksError, JwtBundles, JwtKeys, TokenError},
        renewal::Moment,
    },
};
use merge::merged;
pub(super) use series::follow;

type News = Result<JwtKeys, SourceError>;

/// Keys of a former source that are still needed are kept in steps of no less than this.
const SHORTEST_EXTENSION: Duration = Duration::from_millis(100);

/// What is known, and for how long yet if the source denies it.
#[derive(Debug)]
pub(super) struct Keys {
    denied_grace: Duration,
    handover: Duration,
    /// What the source in service said.
    own: JwtBundles,
    /// What those that were in service before had said, for the time of the handover.
    former: Vec<Former>,
    /// The same as one.
    before: JwtBundles,
    settling: Settling,
    /// All of it.
    shown: JwtBundles,
    /// Trust domains that the source has keys for, of which none could ever be used.
    unreadable: BTreeSet<TrustDomain>,
    /// What the source sent and is left out.
    refusals: Vec<Refusal>,
    /// Counts whatever could change a verdict about a token.
    era: u64,
    failures: u32,
    withdrawn_at: Option<StdInstant>,
}

#[derive(Debug)]
struct Former {
    source: usize,
    bundles: JwtBundles,
    /// Open until the source in service has told its own.
    until: Option<StdInstant>,
}

/// Since a switch: whether verifiers have had the time to fetch the keys of the source in service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settling {
    /// It has not told them.
    Waiting,
    Until(StdInstant),
    Done,
}

impl Keys {
    /// None yet. After a switch verifiers are given `handover` to fetch new keys.
    pub(super) fn new(denied_grace: Duration, handover: Duration) -> Self {
        Self {
            denied_grace,
            handover,
            own: JwtBundles::new(),
            former: Vec::new(),
            before: JwtBundles::new(),
            settling: Settling::Done,
            shown: JwtBundles::new(),
            unreadable: BTreeSet::new(),
            refusals: Vec::new(),
            era: 0,
            failures: 0,
            withdrawn_at: None,
        }
    }

    /// Those of the source in service, which its tokens are judged by.
    pub(super) fn own(&self) -> &JwtBundles {
        &self.own
    }

    /// Those that verifiers are told.
    pub(super) fn shown(&self) -> &JwtBundles {
        &self.shown
    }

    /// Trust domains whose keys are unknown although the source sends some.
    pub(super) fn unreadable(&self) -> &BTreeSet<TrustDomain> {
        &self.unreadable
    }

    /// What the source sent and is left out.
    pub(super) fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Whether the source does not give its keys at present.
    pub(super) fn is_down(&self) -> bool {
        self.failures > 0
    }

    /// Verdicts of equal eras are equal: signatures need not be verified again.
    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// Another source than `from` is in service: its keys stay until those of the new one are known everywhere.
    pub(super) fn switched(&mut self, from: usize) {
        self.era = self.era.wrapping_add(1);
        let bundles = std::mem::take(&mut self.own);
        (self.failures, self.withdrawn_at) = (0, None);
        (self.unreadable, self.refusals) = (BTreeSet::new(), Vec::new());
        if !bundles.is_empty() {
            // One entry a source, however often they take turns.
            self.former.retain(|former| former.source != from);
            self.former.push(Former { source: from, bundles, until: None });
        }
        self.former.iter_mut().for_each(|former| former.until = None);
        self.before = merged(&JwtBundles::new(), self.former.iter().map(|former| &former.bundles));
        self.settling = if self.former.is_empty() { Settling::Done } else { Settling::Waiting };
    }

    pub(super) fn on_news(&mut self, news: News, now: Moment) -> Vec<RenewalEvent> {
        let error = match news {
            Ok(keys) => {
                self.failures = 0;
                self.withdrawn_at = None;
                self.begin_handover(now);
                self.take_over(keys);
                return self.show();
            }
            Err(error) => error,
        };
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind();
        if kind == ErrorKind::NotEntitled && !self.shown.is_empty() && self.withdrawn_at.is_none() {
            self.withdrawn_at = now.steady.checked_add(self.denied_grace);
        }
        vec![RenewalEvent::JwtKeysFailed { kind, error: error.chain().into(), failures: self.failures }]
    }

    /// Does what is due. `needed` says whether a token is in service that [only former keys](Self::rests_on_former)
    /// vouch for.
    pub(super) fn on_alarm(&mut self, needed: impl FnOnce(&Self) -> bool, now: Moment) -> Vec<RenewalEvent> {
        if self.withdrawn_at.is_some_and(|at| now.steady >= at) {
            (self.withdrawn_at, self.settling) = (None, Settling::Done);
            self.own.clear();
            self.former.clear();
            self.unreadable.clear();
            self.refusals.clear();
            return self.show();
        }
        if matches!(self.settling, Settling::Until(at) if now.steady >= at) {
            self.settling = Settling::Done;
            self.era = self.era.wrapping_add(1);
        }
        let ended = |former: &Former| former.until.is_some_and(|until| now.steady >= until);
        if !self.former.iter().any(ended) {
            return Vec::new();
        }
        if needed(self) {
            self.extend(now);
            return Vec::new();
        }
        self.former.retain(|former| !ended(former));
        self.show()
    }

    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<StdInstant>) {
        let settled = if let Settling::Until(at) = self.settling { Some(at) } else { None };
        let ends = self.former.iter().filter_map(|former| former.until);
        (None, ends.chain(settled).chain(self.withdrawn_at).min())
    }

    /// A token has just been replaced, or is not yet: verifiers may meet the former one for some time.
    pub(super) fn extend(&mut self, now: Moment) {
        let least = now.steady + self.handover.max(SHORTEST_EXTENSION);
        for until in self.former.iter_mut().filter_map(|former| former.until.as_mut()) {
            *until = (*until).max(least);
        }
    }

    /// Whether a token is its source's, by the keys of now: they may have changed while it was under way.
    pub(super) fn judge(&self, svid: &JwtSvid) -> Result<(), TokenError> {
        jwt::vouched(svid, &self.own)
    }

    /// Whether there are keys to judge a token by.
    pub(super) fn knows(&self, svid: &JwtSvid) -> bool {
        self.own.contains_key(svid.id.trust_domain())
    }

    /// Whether verifiers can be expected to accept a token of the source in service.
    pub(super) fn is_settled(&self, svid: &JwtSvid) -> bool {
        self.settling == Settling::Done || self.before.is_empty() || jwt::vouched(svid, &self.before).is_ok()
    }

    /// Whether a token lives on the keys of a source that is no longer in service.
    pub(super) fn rests_on_former(&self, svid: &JwtSvid) -> bool {
        let vouches = |keys: &JwtBundles| keys.contains_key(svid.id.trust_domain()) && jwt::vouched(svid, keys).is_ok();
        !vouches(&self.own) && vouches(&self.before)
    }

    /// What is good in a message, and in place of what is not the last that was.
    fn take_over(&mut self, mut keys: JwtKeys) {
        keep::last_good(&mut keys, [&self.own, &self.before]);
        let unknown = keys.unusable.iter().filter(|(domain, why)| {
            // Nothing at all is no promise of something.
            **why != JwksError::Empty && !keys.bundles.contains_key(*domain)
        });
        self.unreadable = unknown.map(|(domain, _)| domain.clone()).collect();
        (self.own, self.refusals) = (keys.bundles, keys.refusals);
    }

    /// The first keys after a switch are here.
    fn begin_handover(&mut self, now: Moment) {
        if self.settling != Settling::Waiting {
            return;
        }
        self.settling = Settling::Until(now.steady + self.handover);
        // Once for our own tokens to be replaced; and again because others, who switch later than we, do the same.
        let until = now.steady + 2 * self.handover;
        self.former.iter_mut().for_each(|former| former.until = Some(until));
    }

    /// Shows what is known now.
    fn show(&mut self) -> Vec<RenewalEvent> {
        self.era = self.era.wrapping_add(1);
        self.before = merged(&JwtBundles::new(), self.former.iter().map(|former| &former.bundles));
        let shown = merged(&self.own, [&self.before]);
        let before = std::mem::replace(&mut self.shown, shown);
        let domains: BTreeSet<&TrustDomain> = before.keys().chain(self.shown.keys()).collect();
        let changed = domains.into_iter().filter(|domain| before.get(*domain) != self.shown.get(*domain));
        let names = |bundle: Option<&Arc<JwtBundle>>| -> BTreeSet<String> {
            bundle.map(|bundle| bundle.keys().iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        changed
            .map(|domain| {
                let (old, new) = (names(before.get(domain)), names(self.shown.get(domain)));
                RenewalEvent::JwtKeysChanged {
                    trust_domain: domain.clone(),
                    added: new.difference(&old).count(),
                    removed: old.difference(&new).count(),
                }
            })
            .collect()
    }
}
