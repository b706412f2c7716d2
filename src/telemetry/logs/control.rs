//! More (or less) log for a while.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tracing_subscriber::{Registry, filter::Targets, reload};

use super::Filter;

/// The log of this process, once it logs.
static PROCESS: OnceLock<Control> = OnceLock::new();

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct Control {
    handle: reload::Handle<Targets, Registry>,
    configured: Targets,
    /// Who changed it last, so that the end of an earlier wish does not end a later one.
    wish: Arc<AtomicU64>,
}

impl Control {
    pub(super) fn new(handle: reload::Handle<Targets, Registry>, configured: Targets) -> Self {
        Self { handle, configured, wish: Arc::default() }
    }

    pub(super) fn install(self) {
        // There is one log a process: `init` has just made sure that it is this one.
        let _ = PROCESS.set(self);
    }

    /// The log of this process; `None` when [`super::init`] was not called, as in a library.
    #[must_use]
    pub fn of_process() -> Option<Self> {
        PROCESS.get().cloned()
    }

    /// Logs `filter` for `period`, then what was configured again. A later wish replaces an earlier one, its end
    /// included.
    ///
    /// # Panics
    /// Outside a `tokio` runtime.
    pub fn set_for(&self, filter: Filter, period: Duration) {
        let ours = self.wish.fetch_add(1, Ordering::SeqCst) + 1;
        self.put(filter.0);
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(period).await;
            if control.wish.load(Ordering::SeqCst) == ours {
                control.put(control.configured.clone());
                tracing::info!(filter = %control.configured, "the log is as configured again");
            }
        });
    }

    fn put(&self, targets: Targets) {
        // Fails only when the subscriber is gone, and then nothing is logged anyway.
        let _ = self.handle.reload(targets);
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({})", self.configured)
    }
}
