//! JWT-SVIDs and JWT keys, kept fresh: one fetch for each wanted token serves every client.
//!
//! The Workload API hands tokens out one by one, so we decide when to ask. The rules are those of
//! [`supervisor`], for each token by itself:
//!
//! | The source | In service | Asked again |
//! |---|---|---|
//! | gives a new token | that one | at 60 to 67 % of its life, jittered |
//! | gives the same token again, past that point | unchanged | after a quarter to a half of what is left |
//! | fails, or its token is refused | kept until its `exp` | jittered backoff, but before half of what is left is over |
//! | says "not entitled" | kept for `denied_grace`, its `exp` at the latest | backoff |
//! | refuses the request itself | kept until its `exp` | after a minute; as a failure if it ever gave a token |
//! | is back after a failure | unchanged | at once |
//! | names another default identity | kept until its successor is there | at once |
//!
//! A token is asked for by the SPIFFE ID that the X.509-SVIDs tell, as soon as they do, and judged by the keys that are
//! known when it comes.
//!
//! When another of several sources comes into service ([`failover`](super::failover)), all tokens are asked for anew at
//! once, spread a little, and what was under way at the one before is dropped. Its tokens stay in service while they are
//! valid until verifiers know the keys of their successors (`keys`).
//!
//! A token that reaches its end is replaced by nothing ([`JwtState::Gone`](crate::identity::JwtState::Gone)), a moment
//! ahead so that the replacement is at the proxies before the end is.

mod keys;
mod news;
mod refresh;
mod schedule;
mod setup;
mod source;
#[cfg(test)]
mod tests;

pub use refresh::JwtRefresh;
pub use source::JwtSource;

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    RenewalEvent, SourceError,
    backoff::Backoff,
    decode::jwt::JwtKeys,
    event::Reporter,
    refused::Scope,
    renewal::Moment,
    supervisor::{self, LONGEST_NAP},
};
use crate::{
    identity::{
        Availability, IdentitySnapshot, IdentityStore, JwtRequest, JwtSnapshot, JwtSubject, JwtSvid, SpiffeId, Workload,
    },
    secret::DefaultIdentity,
    telemetry::traces::{self, Cause, Traces},
};
use keys::Keys;
use news::{Around, News};
use refresh::Demand;
use schedule::{Schedule, spread};

/// What to keep fresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The tokens. No other is ever asked for, whatever clients want.
    pub svids: BTreeSet<JwtRequest>,
    /// Whether the keys are followed although no token is wanted.
    pub keys: bool,
    /// How long verifiers are given to fetch new keys when another source comes into service: so long tokens of the one
    /// before stay in service, if they last, and twice as long its keys are shown. [`LONGEST_HANDOVER`] at most.
    pub handover: Duration,
}

/// The longest [`Config::handover`]: tokens rarely live longer.
pub const LONGEST_HANDOVER: Duration = Duration::from_secs(300);

impl Config {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.svids.is_empty() && !self.keys
    }
}

/// Keeps one workload's tokens, and the keys of its trust domains, in the store fresh.
pub struct JwtSupervisor {
    sources: Vec<Arc<dyn JwtSource>>,
    around: Around,
    /// Whose the tokens are that name nobody.
    default: DefaultIdentity,
    /// The position of the source that is asked.
    current: usize,
    workload: Workload,
    store: Arc<IdentityStore>,
    schedules: Vec<Schedule>,
    keys: Keys,
    /// Whether the session about keys is to begin anew now.
    reopen_keys: bool,
    idle: bool,
    policy: supervisor::Config,
    reporter: Reporter,
    refresh: JwtRefresh,
    rng: fastrand::Rng,
    traces: Traces,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// What came of one fetch: of which schedule, to which of its questions, and what.
type Fetched = (usize, u32, Result<JwtSvid, SourceError>);
type Fetches = FuturesUnordered<BoxFuture<'static, Fetched>>;

impl JwtSupervisor {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if self.idle {
            shutdown.cancelled().await;
            return;
        }
        let mut keys = self.follow_keys();
        let mut fetches = Fetches::new();
        self.identities();
        loop {
            self.start_fetches(&fetches);
            let nap = self.until_alarm();
            let (news, at) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                news = traces::timed(self.around.next(self.current, &mut fetches, &mut keys, nap)) => news,
            };
            let trigger = news.trigger();
            let mut events = self.heard(news);
            if std::mem::take(&mut self.reopen_keys) {
                keys = self.follow_keys();
            }
            events.extend(self.ring());
            self.publish((trigger, at));
            events.into_iter().for_each(|event| self.reporter.report(event));
            self.reporter.refuse(Scope::Jwt, self.keys.refusals());
        }
    }

    fn heard(&mut self, news: News) -> Vec<RenewalEvent> {
        match news {
            News::Switched(to) => self.switch(to),
            News::Identities => self.identities(),
            News::Back => self.source_back(),
            News::Demanded(only) => self.demanded(only),
            News::Fetched(index, question, fetched) => return self.fetched(index, question, fetched),
            News::Keys(news) => return self.keys_news(news),
            News::Alarm => {}
        }
        Vec::new()
    }

    fn follow_keys(&self) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        let backoff = Backoff::new(self.policy.backoff, fastrand::Rng::new());
        match self.sources.get(self.current) {
            Some(source) => keys::follow(source.clone(), self.workload.clone(), backoff),
            None => stream::pending().boxed(),
        }
    }

    fn start_fetches(&mut self, fetches: &Fetches) {
        let now = self.now();
        let Some(source) = self.sources.get(self.current) else { return };
        for (index, schedule) in self.schedules.iter_mut().enumerate() {
            if schedule.start(now) {
                let (question, request) = schedule.question();
                let fetch = source.fetch(&self.workload, &request, self.keys.own());
                fetches.push(fetch.map(move |fetched| (index, question, fetched)).boxed());
            }
        }
    }

    fn switch(&mut self, to: usize) {
        let (now, spread) = (self.now(), self.longest_spread());
        self.keys.switched(std::mem::replace(&mut self.current, to));
        for schedule in &mut self.schedules {
            schedule.on_switch(spread.mul_f64(self.rng.f64()), now);
        }
        self.reopen_keys = true;
    }

    /// Whose the tokens are by what is known of X.509-SVIDs.
    fn identities(&mut self) {
        let Availability::Ready(snapshot) = self.around.identities() else { return };
        let (now, spread) = (self.now(), self.longest_spread());
        for schedule in &mut self.schedules {
            let subject = subject(schedule.request(), &self.default, &snapshot);
            schedule.on_subject(subject, spread.mul_f64(self.rng.f64()), now);
        }
    }

    /// Nobody waits for a time to try again any more.
    fn source_back(&mut self) {
        let (now, spread) = (self.now(), self.longest_spread());
        for schedule in &mut self.schedules {
            schedule.on_source_back(spread.mul_f64(self.rng.f64()), now);
        }
        self.reopen_keys = self.keys.is_down();
    }

    fn demanded(&mut self, only: Demand) {
        let now = self.now();
        let wanted = |schedule: &&mut Schedule| only.as_ref().is_none_or(|only| schedule.request() == only);
        let due: Vec<&mut Schedule> = self.schedules.iter_mut().filter(wanted).collect();
        let spread = spread(due.len());
        for schedule in due {
            schedule.hasten(spread.mul_f64(self.rng.f64()), now);
        }
    }

    fn fetched(&mut self, index: usize, question: u32, fetched: Result<JwtSvid, SourceError>) -> Vec<RenewalEvent> {
        let now = self.now();
        let was_down = self.schedules.get(index).is_some_and(Schedule::is_failing);
        let events = self.advance(index, now, |schedule, keys| schedule.on_fetched(question, fetched, keys, now));
        if was_down && self.schedules.get(index).is_some_and(|schedule| !schedule.is_failing()) {
            self.source_back();
        }
        events
    }

    fn keys_news(&mut self, news: Result<JwtKeys, SourceError>) -> Vec<RenewalEvent> {
        let (now, was_down) = (self.now(), self.keys.is_down());
        let mut events = self.keys.on_news(news, now);
        if events.iter().any(|event| matches!(event, RenewalEvent::JwtKeysChanged { .. })) {
            for index in 0..self.schedules.len() {
                events.extend(self.advance(index, now, |schedule, keys| schedule.on_keys(keys, now)));
            }
        }
        if was_down && !self.keys.is_down() {
            self.source_back();
        }
        events
    }

    /// Does what is due, after whatever has happened.
    fn ring(&mut self) -> Vec<RenewalEvent> {
        let now = self.now();
        let former = |keys: &Keys, schedule: &Schedule| schedule.svid().is_some_and(|svid| keys.rests_on_former(svid));
        let schedules = &self.schedules;
        let mut events = self.keys.on_alarm(|keys| schedules.iter().any(|schedule| former(keys, schedule)), now);
        for index in 0..self.schedules.len() {
            events.extend(self.advance(index, now, |schedule, keys| {
                let admitted = schedule.admit(keys, now);
                admitted.into_iter().chain(schedule.on_alarm(now)).collect()
            }));
        }
        events
    }

    /// A step of one schedule. If it takes a token of a former source out of service, verifiers go on knowing its key
    /// for those requests that carry it already.
    fn advance(
        &mut self,
        index: usize,
        now: Moment,
        step: impl FnOnce(&mut Schedule, &Keys) -> Vec<RenewalEvent>,
    ) -> Vec<RenewalEvent> {
        let Some(schedule) = self.schedules.get_mut(index) else { return Vec::new() };
        let before = schedule.svid().cloned();
        let events = step(schedule, &self.keys);
        if !events.is_empty()
            && let Some(before) = before.filter(|before| schedule.svid() != Some(before))
            && self.keys.rests_on_former(&before)
        {
            self.keys.extend(now);
        }
        events
    }

    fn publish(&self, (trigger, received): (&'static str, SystemTime)) {
        let svids = self.schedules.iter().map(|schedule| (schedule.request().clone(), schedule.state().clone()));
        let (bundles, unreadable) = (self.keys.shown().clone(), self.keys.unreadable().clone());
        let snapshot = Arc::new(JwtSnapshot { svids: svids.collect(), bundles, unreadable });
        let cause = || Cause { trigger, source: None, received };
        let publish = || self.store.publish_jwt(&self.workload, snapshot.clone());
        self.traces.publishing_tokens(&snapshot, cause, publish);
    }

    fn until_alarm(&self) -> Duration {
        let now = self.now();
        let alarms = self.schedules.iter().map(Schedule::next_alarm).chain([self.keys.next_alarm()]);
        alarms.fold(LONGEST_NAP, |nap, (wall, steady)| {
            let wall = wall.map(|at| at.duration_since(now.wall).unwrap_or_default());
            let steady = steady.map(|at| at.saturating_duration_since(now.steady));
            wall.into_iter().chain(steady).fold(nap, Duration::min)
        })
    }

    fn now(&self) -> Moment {
        Moment { wall: (self.clock)(), steady: Instant::now().into_std() }
    }
}

/// Whose token is meant by a request that names a default or a hint, where `snapshot` tells.
fn subject(request: &JwtRequest, default: &DefaultIdentity, snapshot: &IdentitySnapshot) -> Option<SpiffeId> {
    let svid = match &request.subject {
        JwtSubject::Id(_) => None,
        JwtSubject::Default => default.choose(snapshot).and_then(|index| snapshot.svids.get(index)),
        JwtSubject::Hint(hint) => snapshot.svids.iter().find(|svid| svid.hint.as_ref() == Some(hint)),
    };
    svid.map(|svid| svid.id.clone())
}

/// `request` with the SPIFFE ID that `snapshot` tells for it, as a source is asked.
#[must_use]
pub fn resolved(request: &JwtRequest, default: &DefaultIdentity, snapshot: &IdentitySnapshot) -> JwtRequest {
    let subject = subject(request, default, snapshot).map_or_else(|| request.subject.clone(), JwtSubject::Id);
    JwtRequest { subject, audience: request.audience.clone() }
}

impl fmt::Debug for JwtSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSupervisor").field("workload", &self.workload).finish_non_exhaustive()
    }
}
