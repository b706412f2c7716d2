//! What the roll-out of a change says: what to publish, and what waits for what.

use std::{sync::Arc, time::Duration};

use crate::identity::IdentitySnapshot;

/// How long steps wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// At least. An Envoy acknowledges when its main thread has taken a secret, its workers use it a moment later.
    pub hold: Duration,
    /// At most, for clients that do not acknowledge.
    pub max_wait: Duration,
}

impl Timing {
    pub(super) fn longest(self) -> Duration {
        self.max_wait.max(self.hold)
    }
}

/// What to publish now, and when to ask again though nothing happens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The next state to publish; `None` when nothing is due.
    pub step: Option<Arc<IdentitySnapshot>>,
    /// Whether certificates are kept back from clients that hold something from before a start or a denial.
    pub keeps_back: bool,
    /// Why not all is published; `None` beside a step.
    pub hold: Option<Hold>,
    /// Who has not acknowledged this step, or an earlier one, has had its time.
    pub overdue: Option<u64>,
}

/// Why something is not published yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Ask again then at the latest.
    pub until: Duration,
    /// What waits.
    pub reason: HoldReason,
    /// Whether acknowledgements would end it earlier.
    pub for_acks: bool,
}

/// What waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// Certificates, for the trust that they need.
    Certificates,
    /// The withdrawal of authorities, for the last certificate that needed them.
    Withdrawal,
    /// Certificates, for clients that come back after a start or a denial.
    Returning,
}

impl HoldReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Certificates, Self::Withdrawal, Self::Returning];

    /// How logs and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Withdrawal => "withdrawal",
            Self::Returning => "returning",
        }
    }
}
