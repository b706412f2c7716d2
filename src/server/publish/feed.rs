//! What a publisher hands to streams.

use std::sync::Arc;

use tokio::{sync::watch, time::Instant};

use crate::secret::{Flavour, View};

/// What a stream follows.
#[derive(Clone, Debug)]
pub(in crate::server) enum Feed {
    /// The newest resources, and when and how they came.
    Live(Arc<View>, Arrival),
    /// The server is going away: end in good order.
    Closing,
}

/// When what streams are to send came from the source, and whether it had to wait for its turn in a rollout.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Arrival {
    pub(in crate::server) since: Instant,
    pub(in crate::server) held: bool,
    /// The number of the last step of a rotation that is in it; 0 before any, and where they are not traced.
    pub(in crate::server) step: u64,
    /// The number of the last step of the roll-out: who has it has all before it.
    pub(in crate::server) number: u64,
    /// Clients that were given something before this step, or come back with something, must not have certificates yet.
    pub(in crate::server) keeps_back: Option<u64>,
}

/// The feeds of one workload, one a flavour.
#[derive(Clone, Debug)]
pub(in crate::server) struct Feeds {
    pub(super) spiffe: watch::Receiver<Feed>,
    pub(super) plain: watch::Receiver<Feed>,
}

impl Feeds {
    /// The feed for clients of this flavour.
    #[must_use]
    pub(in crate::server) fn of(&self, flavour: Flavour) -> watch::Receiver<Feed> {
        match flavour {
            Flavour::Spiffe => self.spiffe.clone(),
            Flavour::Plain => self.plain.clone(),
        }
    }
}
