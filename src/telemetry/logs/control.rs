//! More (or less) log while the process runs: for good by a new configuration, for a while by an operator.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing_subscriber::{filter::Targets, reload};

use super::{Filter, admission::Admission};

/// Changes what is logged while the process runs. Clones change the same log.
#[derive(Clone)]
pub struct Control {
    put: Arc<dyn Fn(Targets) + Send + Sync>,
    state: Arc<Mutex<State>>,
    admission: Admission,
}

/// Which filter is in force, and why.
#[derive(Debug)]
struct State {
    configured: Filter,
    /// Counts the wishes, so that the end of an earlier one does not end a later one.
    wishes: u64,
    /// An operator's wish is in force.
    wished: bool,
}

impl Control {
    pub(super) fn new<S: 'static>(
        handle: reload::Handle<Targets, S>,
        configured: Filter,
        admission: Admission,
    ) -> Self {
        // It fails only when the subscriber is gone, and then nothing is logged anyway.
        let put = Arc::new(move |targets| drop(handle.reload(targets)));
        Self { put, state: Arc::new(Mutex::new(State { configured, wishes: 0, wished: false })), admission }
    }

    /// Lines that were not written so far, by reason: `unread`, because nobody read those before them, and `repeated`,
    /// because there were too many of their kind.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("unread", self.admission.unread()), ("repeated", self.admission.repeated())]
    }

    /// Logs by `filter` from now on; after the period of an operator's wish, if one is in force.
    pub fn configure(&self, filter: &Filter) {
        let mut state = self.lock();
        state.configured = filter.clone();
        if !state.wished {
            (self.put)(filter.0.clone());
        }
    }

    /// Logs by `filter` for `period`, then as configured again. A later wish replaces an earlier one, its end included.
    ///
    /// # Panics
    /// Outside a `tokio` runtime.
    pub fn set_for(&self, filter: Filter, period: Duration) {
        let ours = {
            let mut state = self.lock();
            state.wishes += 1;
            state.wished = true;
            (self.put)(filter.0);
            state.wishes
        };
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(period).await;
            control.end(ours);
        });
    }

    fn end(&self, wish: u64) {
        let mut state = self.lock();
        if state.wishes != wish {
            return;
        }
        state.wished = false;
        (self.put)(state.configured.0.clone());
        let filter = state.configured.clone();
        drop(state);
        tracing::info!(%filter, "the log is as configured again");
    }

    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.lock().configured).finish()
    }
}
