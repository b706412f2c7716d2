//! Listeners that clients can no longer reach.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::Latch,
    telemetry::journal::{Journal, Weight},
};

/// Why each listener in trouble cannot be reached. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles(Arc<watch::Sender<Reasons>>);

type Reasons = BTreeMap<String, &'static str>;

impl Troubles {
    /// The socket at `path` cannot be reached for this reason, or can again.
    pub(super) fn set(&self, path: &Path, reason: Option<&'static str>) {
        let listener = format!("unix://{}", path.display());
        self.0.send_if_modified(|reasons| match reason {
            Some(reason) => reasons.insert(listener, reason) != Some(reason),
            None => reasons.remove(&listener).is_some(),
        });
    }
}

/// Keeps the condition that every listener can be reached, and notes each that cannot and each that can again, until
/// `stop`.
pub(crate) async fn follow(troubles: Troubles, latch: Option<Latch>, journal: Journal, stop: CancellationToken) {
    let mut changes = troubles.0.subscribe();
    let mut before = Reasons::new();
    loop {
        let now = changes.borrow_and_update().clone();
        for (listener, reason) in now.iter().filter(|(listener, reason)| before.get(*listener) != Some(*reason)) {
            journal.note(Weight::Problem, "listener_lost", listener, reason, &"");
        }
        for listener in before.keys().filter(|listener| !now.contains_key(*listener)) {
            journal.note(Weight::Notice, "listener_restored", listener, "", &"");
        }
        if let Some(latch) = &latch {
            let reasons: Vec<_> = now.iter().map(|(listener, reason)| format!("{listener} {reason}")).collect();
            if reasons.is_empty() { latch.ready() } else { latch.pending(reasons.join("; ")) }
        }
        before = now;
        tokio::select! {
            () = stop.cancelled() => break,
            // This holds a sender, so that it never ends.
            _ = changes.changed() => {}
        }
    }
    if let Some(latch) = latch {
        latch.pending("draining");
    }
}
