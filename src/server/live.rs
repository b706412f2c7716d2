//! What may change while the server runs.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Config, Limits};
use crate::secret::{self, Flavour};

/// What is in force now.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) config: Config,
    pub(super) secrets: secret::Config,
}

/// The present state of it, for all parts of the server.
#[derive(Clone, Debug)]
pub(super) struct Settings(watch::Receiver<Arc<Live>>);

/// Changes a running server. Listeners, the bound on connections, the table of names and tokens stay as they were at the start.
#[derive(Clone, Debug)]
pub struct Steering(watch::Sender<Arc<Live>>);

pub(super) fn channel(config: Config, secrets: secret::Config) -> (Steering, Settings) {
    let (sender, receiver) = watch::channel(Arc::new(Live { config, secrets }));
    (Steering(sender), Settings(receiver))
}

impl Live {
    pub(super) fn flavour(&self, (usual, disabled): (Flavour, Flavour)) -> Flavour {
        if self.secrets.disable_spiffe_cert_validation { disabled } else { usual }
    }
}

impl Steering {
    /// Puts all of it into force at one moment: names and flavours for every stream, limits for streams and connections
    /// that begin from now on, the drain deadline for the next drain.
    pub fn apply(&self, config: Config, secrets: secret::Config) {
        self.0.send_modify(|live| {
            let secret::Config {
                naming, disable_spiffe_cert_validation, wildcard, rollout_hold, rollout_max_wait, ..
            } = secrets;
            let secrets = secret::Config {
                naming,
                disable_spiffe_cert_validation,
                wildcard,
                rollout_hold,
                rollout_max_wait,
                // Streams are bound to the table when they begin, and tokens to those who fetch them.
                ..live.secrets.clone()
            };
            *live = Arc::new(Live { config, secrets });
        });
    }
}

impl Settings {
    pub(super) fn now(&self) -> Arc<Live> {
        self.0.borrow().clone()
    }

    /// The one of a client's flavours, by default and with the SPIFFE validator disabled, that is right now.
    pub(super) fn flavour(&self, flavours: (Flavour, Flavour)) -> Flavour {
        self.0.borrow().flavour(flavours)
    }

    pub(super) fn limits(&self) -> Limits {
        self.0.borrow().config.limits
    }

    /// For whoever follows the changes.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Live>> {
        self.0.clone()
    }
}
