//! JWT-SVIDs and JWT keys, kept fresh: one fetch for each wanted token serves every client.
//!
//! The Workload API hands tokens out one by one, so we decide when to ask. The rules are those of
//! [`supervisor`], for each token by itself:
//!
//! | The source | In service | Asked again |
//! |---|---|---|
//! | gives a new token | that one | between one half and two thirds of its life, jittered |
//! | gives the same token again, past that point | unchanged | after a quarter to a half of what is left |
//! | fails, or its token is refused | kept until its `exp` | jittered backoff, but before half of what is left is over |
//! | says "not entitled" | kept for `denied_grace`, its `exp` at the latest | backoff |
//! | refuses the request itself | kept until its `exp` | after a minute |
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
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    RenewalEvent, SourceError, Supervisor,
    backoff::Backoff,
    decode::jwt::JwtBundles,
    event::Reporter,
    renewal::Moment,
    supervisor::{self, EVENTS_KEPT, LONGEST_NAP},
};
use crate::{
    identity::{IdentityStore, JwtRequest, JwtSnapshot, JwtSvid, Workload},
    telemetry::traces::{self, Cause, Traces},
};
use keys::Keys;
use news::News;
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
    active: watch::Receiver<Option<usize>>,
    /// The position of the source that is asked.
    current: usize,
    workload: Workload,
    store: Arc<IdentityStore>,
    schedules: Vec<Schedule>,
    keys: Keys,
    idle: bool,
    policy: supervisor::Config,
    reporter: Reporter,
    refresh: (JwtRefresh, mpsc::Receiver<Demand>),
    rng: fastrand::Rng,
    traces: Traces,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// What came of one fetch: of which schedule, and what.
type Fetched = (usize, Result<JwtSvid, SourceError>);
type Fetches = FuturesUnordered<BoxFuture<'static, Fetched>>;

impl JwtSupervisor {
    /// A supervisor that publishes to `store` what `source` says about `workload`, once it [runs](Self::run). Until
    /// then every wanted token is pending.
    #[must_use]
    pub fn new(
        source: impl JwtSource + 'static,
        workload: Workload,
        store: Arc<IdentityStore>,
        config: &Config,
        policy: supervisor::Config,
    ) -> Self {
        // Without a sender it never changes.
        let (_, active) = watch::channel(None);
        Self::of_several(vec![Arc::new(source)], active, workload, store, config, policy)
    }

    /// The same of whichever of several sources is `active`, by its position; of the first before any is. See
    /// [`Supervisor::active`].
    #[must_use]
    pub fn of_several(
        sources: Vec<Arc<dyn JwtSource>>,
        active: watch::Receiver<Option<usize>>,
        workload: Workload,
        store: Arc<IdentityStore>,
        config: &Config,
        policy: supervisor::Config,
    ) -> Self {
        let schedule = |request: &JwtRequest| Schedule::new(request.clone(), policy, fastrand::Rng::new());
        let supervisor = Self {
            sources,
            active,
            current: 0,
            workload,
            store,
            schedules: config.svids.iter().map(schedule).collect(),
            keys: Keys::new(policy.denied_grace, config.handover.min(LONGEST_HANDOVER)),
            idle: config.is_idle(),
            policy,
            reporter: Reporter::new(EVENTS_KEPT),
            refresh: JwtRefresh::new(config.svids.clone()),
            rng: fastrand::Rng::new(),
            traces: Traces::default(),
            clock: Box::new(SystemTime::now),
        };
        supervisor.publish(("timer", SystemTime::UNIX_EPOCH));
        supervisor
    }

    /// Reports its events where `other` reports its own.
    #[must_use]
    pub fn beside(mut self, other: &Supervisor) -> Self {
        self.reporter = other.reporter().beside();
        self
    }

    /// Says what caused each state that is published.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Judges the life of tokens by another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Every outcome from now on. Subscribe before [`run`](Self::run) takes the supervisor.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RenewalEvent> {
        self.reporter.subscribe()
    }

    /// What makes tokens due before their time. Obtain it before [`run`](Self::run) takes the supervisor.
    #[must_use]
    pub fn refresh(&self) -> JwtRefresh {
        self.refresh.0.clone()
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if self.idle {
            shutdown.cancelled().await;
            return;
        }
        let mut keys = self.follow_keys();
        let mut fetches = Fetches::new();
        loop {
            self.start_fetches(&fetches);
            let nap = self.until_alarm();
            let (active, demands) = ((&mut self.active, self.current), &mut self.refresh.1);
            let (news, at) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                news = traces::timed(news::next(active, demands, &mut fetches, &mut keys, nap)) => news,
            };
            let trigger = news.trigger();
            let mut events = match news {
                News::Switched(to) => {
                    // Nothing of the one before arrives any more.
                    fetches.clear();
                    self.switch(to);
                    keys = self.follow_keys();
                    Vec::new()
                }
                News::Demanded(only) => self.demanded(only),
                News::Fetched(index, fetched) => self.fetched(index, fetched),
                News::Keys(news) => self.keys_news(news),
                News::Alarm => Vec::new(),
            };
            events.extend(self.ring());
            self.publish((trigger, at));
            events.into_iter().for_each(|event| self.reporter.report(event));
        }
    }

    fn follow_keys(&self) -> BoxStream<'static, Result<JwtBundles, SourceError>> {
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
                let fetch = source.fetch(&self.workload, schedule.request(), self.keys.own());
                fetches.push(fetch.map(move |fetched| (index, fetched)).boxed());
            }
        }
    }

    fn switch(&mut self, to: usize) {
        let now = self.now();
        self.keys.switched(std::mem::replace(&mut self.current, to));
        let spread = spread(self.schedules.len());
        for schedule in &mut self.schedules {
            schedule.on_switch(spread.mul_f64(self.rng.f64()), now);
        }
    }

    fn demanded(&mut self, only: Demand) -> Vec<RenewalEvent> {
        let now = self.now();
        let wanted = |schedule: &&mut Schedule| only.as_ref().is_none_or(|only| schedule.request() == only);
        let due: Vec<&mut Schedule> = self.schedules.iter_mut().filter(wanted).collect();
        let spread = spread(due.len());
        for schedule in due {
            schedule.hasten(spread.mul_f64(self.rng.f64()), now);
        }
        Vec::new()
    }

    fn fetched(&mut self, index: usize, fetched: Result<JwtSvid, SourceError>) -> Vec<RenewalEvent> {
        let now = self.now();
        self.advance(index, now, |schedule, keys| schedule.on_fetched(fetched, keys, now))
    }

    fn keys_news(&mut self, news: Result<JwtBundles, SourceError>) -> Vec<RenewalEvent> {
        let events = self.keys.on_news(news, self.now());
        if events.iter().any(|event| matches!(event, RenewalEvent::JwtKeysChanged { .. })) {
            self.schedules.iter_mut().for_each(|schedule| schedule.on_keys(&self.keys));
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
        let snapshot = Arc::new(JwtSnapshot { svids: svids.collect(), bundles: self.keys.shown().clone() });
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

impl fmt::Debug for JwtSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSupervisor").field("workload", &self.workload).finish_non_exhaustive()
    }
}
