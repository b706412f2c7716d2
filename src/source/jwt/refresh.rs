//! Tokens on demand: somebody who knows better than the schedule wants new ones.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use crate::identity::JwtRequest;

/// Demands that wait while the supervisor is busy, which is never for long.
const WAITING: usize = 16;

/// Makes tokens due before their time. Cheap to clone; obtained from [`JwtSupervisor::refresh`](super::JwtSupervisor::refresh).
#[derive(Clone)]
pub struct JwtRefresh {
    demands: mpsc::Sender<Demand>,
}

/// One call of [`JwtRefresh`].
pub(super) struct Demand {
    /// Which token; all without.
    pub(super) only: Option<JwtRequest>,
    /// Takes those that are due now.
    pub(super) answer: oneshot::Sender<Vec<JwtRequest>>,
}

impl JwtRefresh {
    pub(super) fn new() -> (Self, mpsc::Receiver<Demand>) {
        let (demands, receiver) = mpsc::channel(WAITING);
        (Self { demands }, receiver)
    }

    /// Makes every configured token due, and tells which they are. What is in service stays until its successor is
    /// there. The source is asked at most once a second for each, and may give the same token again (SPIRE does, for
    /// half of its life). Waits until the supervisor runs; without one there is nothing due.
    pub async fn all(&self) -> Vec<JwtRequest> {
        self.demand(None).await
    }

    /// The same for one token. `false` if it is not configured: then nobody asks for it.
    pub async fn one(&self, request: &JwtRequest) -> bool {
        !self.demand(Some(request.clone())).await.is_empty()
    }

    async fn demand(&self, only: Option<JwtRequest>) -> Vec<JwtRequest> {
        let (answer, due) = oneshot::channel();
        if self.demands.send(Demand { only, answer }).await.is_err() {
            return Vec::new();
        }
        due.await.unwrap_or_default()
    }
}

impl fmt::Debug for JwtRefresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtRefresh").finish_non_exhaustive()
    }
}
