//! Tokens on demand: somebody who knows better than the schedule wants new ones.

use std::{collections::BTreeSet, fmt, sync::Arc};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::identity::JwtRequest;

/// Demands that wait while the supervisor is busy, which is never for long.
const WAITING: usize = 64;

/// Makes tokens due before their time. Cheap to clone; obtained from [`JwtSupervisor::refresh`](super::JwtSupervisor::refresh).
///
/// What is in service stays until its successor is there. The source is asked at most once a second for each token, and
/// may give the same one again (SPIRE does, for half of its life).
#[derive(Clone)]
pub struct JwtRefresh {
    tokens: Arc<BTreeSet<JwtRequest>>,
    demands: mpsc::Sender<Demand>,
}

/// The token that is wanted anew; without one, all.
pub(super) type Demand = Option<JwtRequest>;

impl JwtRefresh {
    pub(super) fn new(tokens: BTreeSet<JwtRequest>) -> (Self, mpsc::Receiver<Demand>) {
        let (demands, receiver) = mpsc::channel(WAITING);
        (Self { tokens: Arc::new(tokens), demands }, receiver)
    }

    /// The tokens that there are: those of the configuration.
    #[must_use]
    pub fn tokens(&self) -> &BTreeSet<JwtRequest> {
        &self.tokens
    }

    /// Makes all tokens due and says how many they are; none once the supervisor has ended. Before it runs the demand
    /// waits for it.
    #[must_use]
    pub fn all(&self) -> usize {
        if self.demand(None) { self.tokens.len() } else { 0 }
    }

    /// Makes one token due. `false` if it is not configured: then nobody asks for it, ever.
    #[must_use]
    pub fn one(&self, request: &JwtRequest) -> bool {
        self.tokens.contains(request) && self.demand(Some(request.clone()))
    }

    fn demand(&self, demand: Demand) -> bool {
        // As long as so many wait already, the supervisor does not run: every token is due at its start anyway.
        !matches!(self.demands.try_send(demand), Err(TrySendError::Closed(_)))
    }
}

impl fmt::Debug for JwtRefresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtRefresh").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}
