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
//! A token that reaches its end is replaced by nothing ([`JwtState::Gone`](crate::identity::JwtState::Gone)), a moment
//! ahead so that the replacement is at the proxies before the end is.

mod keys;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep},
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
use schedule::Schedule;

/// Something that mints tokens for workloads and knows the keys that verify them.
pub trait JwtSource: Send + Sync {
    /// One token, validated; its signature too where `keys` has the keys of its trust domain. Ends by itself in bounded
    /// time. Nothing is retried inside.
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>>;

    /// One session about the keys of every trust domain: every complete state, until the session ends. As
    /// [`Source::watch`](super::Source::watch).
    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtBundles, SourceError>>;
}

impl<S: JwtSource + ?Sized> JwtSource for Arc<S> {
    fn fetch(
        &self,
        workload: &Workload,
        request: &JwtRequest,
        keys: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        (**self).fetch(workload, request, keys)
    }

    fn watch_keys(&self, workload: &Workload) -> BoxStream<'static, Result<JwtBundles, SourceError>> {
        (**self).watch_keys(workload)
    }
}

/// What to keep fresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The tokens. No other is ever asked for, whatever clients want.
    pub svids: BTreeSet<JwtRequest>,
    /// Whether the keys are followed although no token is wanted.
    pub keys: bool,
}

impl Config {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.svids.is_empty() && !self.keys
    }
}

/// Keeps one workload's tokens, and the keys of its trust domains, in the store fresh.
pub struct JwtSupervisor {
    source: Arc<dyn JwtSource>,
    workload: Workload,
    store: Arc<IdentityStore>,
    schedules: Vec<Schedule>,
    keys: Keys,
    idle: bool,
    backoff: Backoff,
    reporter: Reporter,
    traces: Traces,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// What came of one fetch: of which schedule, and what.
type Fetched = (usize, Result<JwtSvid, SourceError>);

/// What there is to do.
enum News {
    Fetched(usize, Result<JwtSvid, SourceError>),
    Keys(Result<JwtBundles, SourceError>),
    Alarm,
}

async fn next_news(
    fetches: &mut FuturesUnordered<BoxFuture<'static, Fetched>>,
    keys: &mut BoxStream<'static, Result<JwtBundles, SourceError>>,
    alarm: Duration,
) -> News {
    tokio::select! {
        biased;
        Some((index, fetched)) = fetches.next() => News::Fetched(index, fetched),
        Some(news) = keys.next() => News::Keys(news),
        () = sleep(alarm) => News::Alarm,
    }
}

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
        let mut supervisor = Self {
            source: Arc::new(source),
            workload,
            store,
            schedules: Vec::new(),
            keys: Keys::new(policy.denied_grace),
            idle: config.is_idle(),
            backoff: Backoff::new(policy.backoff, fastrand::Rng::new()),
            reporter: Reporter::new(EVENTS_KEPT),
            traces: Traces::default(),
            clock: Box::new(SystemTime::now),
        };
        let schedule = |request: &JwtRequest| Schedule::new(request.clone(), policy, fastrand::Rng::new());
        supervisor.schedules = config.svids.iter().map(schedule).collect();
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

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        if self.idle {
            shutdown.cancelled().await;
            return;
        }
        let backoff = std::mem::replace(&mut self.backoff, Backoff::new(Default::default(), fastrand::Rng::new()));
        let mut keys = keys::follow(self.source.clone(), self.workload.clone(), backoff);
        let mut fetches: FuturesUnordered<BoxFuture<'static, Fetched>> = FuturesUnordered::new();
        loop {
            self.start_fetches(&fetches);
            let alarm = self.until_alarm();
            let (news, at) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                news = traces::timed(next_news(&mut fetches, &mut keys, alarm)) => news,
            };
            let (trigger, events) = match news {
                News::Fetched(index, fetched) => ("message", self.fetched(index, fetched)),
                News::Keys(news) => ("message", self.keys_news(news)),
                News::Alarm => ("timer", self.ring()),
            };
            self.publish((trigger, at));
            events.into_iter().for_each(|event| self.reporter.report(event));
        }
    }

    fn start_fetches(&mut self, fetches: &FuturesUnordered<BoxFuture<'static, Fetched>>) {
        let now = self.now();
        for (index, schedule) in self.schedules.iter_mut().enumerate() {
            if schedule.start(now) {
                let fetch = self.source.fetch(&self.workload, schedule.request(), self.keys.bundles());
                fetches.push(fetch.map(move |fetched| (index, fetched)).boxed());
            }
        }
    }

    fn fetched(&mut self, index: usize, fetched: Result<JwtSvid, SourceError>) -> Vec<RenewalEvent> {
        let now = self.now();
        self.schedules.get_mut(index).map(|schedule| schedule.on_fetched(fetched, now)).unwrap_or_default()
    }

    fn keys_news(&mut self, news: Result<JwtBundles, SourceError>) -> Vec<RenewalEvent> {
        let events = self.keys.on_news(news, self.now());
        if events.iter().any(|event| matches!(event, RenewalEvent::JwtKeysChanged { .. })) {
            self.schedules.iter_mut().for_each(|schedule| schedule.on_keys(self.keys.bundles()));
        }
        events
    }

    fn ring(&mut self) -> Vec<RenewalEvent> {
        let now = self.now();
        let tokens = self.schedules.iter_mut().flat_map(|schedule| schedule.on_alarm(now));
        tokens.chain(self.keys.on_alarm(now)).collect()
    }

    fn publish(&self, (trigger, received): (&'static str, SystemTime)) {
        let svids = self.schedules.iter().map(|schedule| (schedule.request().clone(), schedule.state().clone()));
        let snapshot = Arc::new(JwtSnapshot { svids: svids.collect(), bundles: self.keys.bundles().clone() });
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
