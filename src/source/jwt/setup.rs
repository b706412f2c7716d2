//! How a supervisor of tokens is made.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast, watch};

use super::{
    Config, JwtRefresh, JwtSource, JwtSupervisor, LONGEST_HANDOVER, keys::Keys, news::Around, schedule::Schedule,
};
use crate::{
    identity::{IdentityStore, JwtRequest, Workload},
    secret::DefaultIdentity,
    source::{
        RenewalEvent, Supervisor,
        event::Reporter,
        supervisor::{self, EVENTS_KEPT},
    },
    telemetry::traces::Traces,
};

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
    /// [`Supervisor::active`]. Whose the tokens are is told by the X.509-SVIDs in `store`, as soon as it has some.
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
        let (refresh, demands) = JwtRefresh::new(config.svids.clone());
        let supervisor = Self {
            sources,
            around: Around::new(active, demands, store.watch(&workload)),
            default: DefaultIdentity::default(),
            current: 0,
            workload,
            store,
            schedules: config.svids.iter().map(schedule).collect(),
            keys: Keys::new(policy.denied_grace, config.handover.min(LONGEST_HANDOVER)),
            reopen_keys: false,
            idle: config.is_idle(),
            policy,
            reporter: Reporter::new(EVENTS_KEPT),
            refresh,
            rng: fastrand::Rng::new(),
            traces: Traces::default(),
            clock: Box::new(SystemTime::now),
        };
        supervisor.publish(("timer", SystemTime::UNIX_EPOCH));
        supervisor
    }

    /// With another choice of whose tokens are those that name nobody.
    #[must_use]
    pub fn with_default(mut self, default: DefaultIdentity) -> Self {
        self.default = default;
        self
    }

    /// Reports its events where `other` reports its own, and tries again at once when `other` hears from its source again.
    #[must_use]
    pub fn beside(mut self, other: &Supervisor) -> Self {
        self.reporter = other.reporter().beside();
        self.around.follow(other.status());
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
        self.refresh.clone()
    }

    pub(super) fn longest_spread(&self) -> Duration {
        super::schedule::spread(self.schedules.len())
    }
}
