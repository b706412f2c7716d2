//! The SPIFFE Workload API.
//!
//! Our own thin client on the generated code, because it keeps revocation lists, hints and raw DER, and because the
//! limits, deadlines and keepalives are ours to set.

mod channel;
mod jwt;
mod overdue;
mod session;
mod socket;

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::sync::Notify;

use super::{
    Endpoint, Source, SourceError,
    decode::{Limits, Precedence},
};
use crate::{
    identity::{IdentitySnapshot, TrustDomain, Workload},
    secret::DefaultIdentity,
};
use socket::SocketFile;

/// Which Workload API to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The workload's own trust domain, for verifiers without an SVID; otherwise the default SVID tells it.
    pub trust_domain: Option<TrustDomain>,
}

/// How long a session waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the connection.
    pub connect: Duration,
    /// For the first message of a stream. The specification has the source answer at once; one that does not hangs, or
    /// (SPIRE) waits for its server. Either is a transient failure that must be seen, and the next session takes the
    /// place of the ended one without a pause, so that nothing is lost by ending it.
    pub first_message: Duration,
    /// Until a workload without an identity asks for one again, jittered down to half. Meanwhile it follows the
    /// bundles, if the source gives them.
    pub denied_recheck: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_message: Duration::from_secs(10),
            denied_recheck: Duration::from_secs(5),
        }
    }
}

/// A [`Source`] that speaks the SPIFFE Workload API. It attests whoever connects, so it knows [`Workload::Own`] only.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    config: Config,
    deadlines: Deadlines,
    limits: Limits,
    default: DefaultIdentity,
    /// What it said last, which counts before what is new where there is too much.
    known: Arc<Mutex<Precedence>>,
    /// Told when a call was not answered in time: the agent may hang, and the stream would not show it.
    suspicion: Arc<Notify>,
    /// The socket file as it was when a session was last tried.
    tried: Arc<Mutex<Option<SocketFile>>>,
}

impl WorkloadApi {
    /// A source with default deadlines and limits. Nothing is opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            default: DefaultIdentity::default(),
            known: Arc::default(),
            suspicion: Arc::default(),
            tried: Arc::default(),
        }
    }

    /// With other deadlines.
    #[must_use]
    pub fn with_deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// With another choice of whose tokens are given to requests that name nobody. (Of X.509-SVIDs it gives all.)
    #[must_use]
    pub fn with_default(mut self, default: DefaultIdentity) -> Self {
        self.known = Arc::new(Mutex::new(Precedence::of(default.clone())));
        self.default = default;
        self
    }

    /// With other limits on what one message may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl WorkloadApi {
    /// Remembers which socket is tried now.
    fn trying(&self) {
        if let Endpoint::Unix(path) = &self.config.endpoint {
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = SocketFile::at(path);
        }
    }
}

impl Source for WorkloadApi {
    fn watch(&self, workload: &Workload) -> BoxStream<'static, Result<IdentitySnapshot, SourceError>> {
        match workload {
            Workload::Own => session::open(self.clone()).boxed(),
        }
    }

    fn name(&self) -> Arc<str> {
        self.config.endpoint.to_string().into()
    }

    fn back(&self) -> BoxFuture<'static, ()> {
        match &self.config.endpoint {
            Endpoint::Unix(path) => {
                let tried = *self.tried.lock().unwrap_or_else(PoisonError::into_inner);
                socket::replaced(path.clone(), tried).boxed()
            }
            Endpoint::Tcp(_) => pending().boxed(),
        }
    }

    fn trust_domain(&self) -> Option<TrustDomain> {
        self.config.trust_domain.clone()
    }
}
