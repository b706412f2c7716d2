//! What a supervisor may be told before it runs.

use std::{sync::Arc, time::SystemTime};

use futures_util::stream::BoxStream;

use super::Supervisor;
use crate::{
    identity::{IdentitySnapshot, TrustDomain},
    secret::{CrlPolicy, DefaultIdentity},
    source::backoff::Backoff,
    telemetry::traces::Traces,
};

impl Supervisor {
    /// Judges the life of certificates by another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Looks at that clock whenever `changes` has an item, rather than when the system says that it was set.
    #[must_use]
    pub fn with_clock_changes(mut self, changes: BoxStream<'static, ()>) -> Self {
        self.clock_changes = changes;
        self
    }

    /// Says what caused each state that is published.
    #[must_use]
    pub fn with_traces(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// Which identity is the default one, and when revocation lists are served: what events say depends on it.
    #[must_use]
    pub fn serving(mut self, default: DefaultIdentity, crls: CrlPolicy) -> Self {
        self.renewal.serving(default, crls);
        self
    }

    /// The trust domain that is configured to be ours.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.pin.configured()
    }

    /// This is in service already, though no source has confirmed it; its trust domain is ours.
    pub fn begin_with(&mut self, snapshot: Arc<IdentitySnapshot>) {
        self.pin.establish(&snapshot);
        self.renewal.begin_with(snapshot);
    }

    /// Makes the delays between sessions repeatable.
    #[must_use]
    pub fn with_rng(mut self, mut rng: fastrand::Rng) -> Self {
        for line in &mut self.lines {
            line.backoff = Backoff::new(self.config.backoff, rng.fork());
        }
        self
    }
}
