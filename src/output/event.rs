//! What becomes of files, as typed events and log lines.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, watch};

use crate::{identity::SpiffeId, telemetry::metrics::Outcomes};

/// One outcome of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputEvent {
    /// A new generation of files is in place.
    Written {
        /// Where.
        directory: Arc<Path>,
        /// Its name; `..data` in the directory leads to it.
        generation: Arc<str>,
        /// Whose certificate it holds, if any.
        spiffe_id: Option<SpiffeId>,
        /// Of the leaf, hexadecimal.
        serial: Option<Arc<str>>,
        /// The end of its life.
        not_after: Option<SystemTime>,
    },
    /// The files could not be replaced. Those in place stay there; it is tried again.
    Failed {
        /// Where.
        directory: Arc<Path>,
        /// What is wrong, with causes.
        error: Arc<str>,
        /// Failures in a row, this one included.
        failures: u32,
    },
}

impl OutputEvent {
    /// Every value of the metrics' label `result`.
    pub(super) const RESULTS: [&'static str; 2] = ["written", "failed"];
    /// Every name that [`OutputEvent::name`] returns, and so every value of the log field `event`.
    pub const NAMES: [&'static str; 2] = ["output_written", "output_failed"];

    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Written { .. } => "output_written",
            Self::Failed { .. } => "output_failed",
        }
    }
}

/// Where outcomes go: subscribers, the log and the metrics.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) events: broadcast::Sender<OutputEvent>,
    pub(super) metrics: Outcomes,
    pub(super) standing: watch::Sender<BTreeMap<Arc<Path>, Standing>>,
}

/// How the files of a directory stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was written since the start.
    Waiting,
    /// They are what they should be.
    Current,
    /// They could not be replaced, for this reason.
    Failed(Arc<str>),
}

impl Outlet {
    /// A failure that repeats is no `news`.
    pub(super) fn report(&self, event: OutputEvent, news: bool) {
        log(&event, news);
        match &event {
            OutputEvent::Written { directory, .. } => self.metrics.count(&directory.to_string_lossy(), "written", 1),
            OutputEvent::Failed { directory, .. } => self.metrics.count(&directory.to_string_lossy(), "failed", 1),
        }
        if let OutputEvent::Failed { directory, error, .. } = &event {
            self.stands(directory, Standing::Failed(error.clone()));
        }
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// The files of this directory are what they should be.
    pub(super) fn current(&self, directory: &Path) {
        self.metrics.good(&directory.to_string_lossy(), SystemTime::now());
        self.stands(directory, Standing::Current);
    }

    fn stands(&self, directory: &Path, now: Standing) {
        self.standing.send_if_modified(|all| {
            let known = all.get_mut(directory).filter(|known| **known != now);
            known.map(|known| *known = now).is_some()
        });
    }
}

fn log(event: &OutputEvent, news: bool) {
    let name = event.name();
    match event {
        OutputEvent::Written { directory, generation, spiffe_id, serial, .. } => {
            let spiffe_id = spiffe_id.as_ref().map(ToString::to_string);
            let (directory, serial) = (directory.display(), serial.as_deref());
            tracing::info!(event = name, %directory, %generation, spiffe_id, serial, "files written");
        }
        OutputEvent::Failed { directory, error, failures } => {
            let directory = directory.display();
            if news {
                tracing::error!(event = name, %directory, %error, failures, "files cannot be written, the last good ones stay");
            } else {
                tracing::debug!(event = name, %directory, %error, failures, "files cannot be written, the last good ones stay");
            }
        }
    }
}
