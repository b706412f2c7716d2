//! The newest snapshot of each workload, and who waits for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{IdentitySnapshot, JwtSnapshot, Withdrawn, Workload};

/// What is known about a workload's identities right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// The source has not answered yet. Clients wait.
    #[default]
    Pending,
    /// The last good state. It may have expired since: the SVIDs say so themselves.
    Ready(Arc<IdentitySnapshot>),
    /// The source says that the workload is entitled to nothing (and the grace time is over). The text is the source's own.
    Denied(Arc<str>),
}

/// The newest [`Availability`] of each [`Workload`]: written by supervisors, watched by publishers.
///
/// The one shared mutable map of the program; its lock is held for a map look-up and never across an await.
#[derive(Debug, Default)]
pub struct IdentityStore {
    states: Mutex<BTreeMap<Workload, States>>,
}

/// X.509 and JWT come from different calls at different times, so each has a channel of its own.
#[derive(Clone, Debug, Default)]
struct States {
    x509: watch::Sender<Availability>,
    jwt: watch::Sender<Arc<JwtSnapshot>>,
    withdrawn: watch::Sender<Arc<[Withdrawn]>>,
}

impl IdentityStore {
    /// An empty store: every workload is [`Availability::Pending`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the state of `workload` and wakes its watchers, unless nothing changed. Says whether it did.
    pub fn publish(&self, workload: &Workload, state: Availability) -> bool {
        replace(&self.of(workload).x509, state)
    }

    /// The same, if nothing is known yet.
    pub fn publish_first(&self, workload: &Workload, state: Availability) -> bool {
        self.of(workload).x509.send_if_modified(|current| {
            let first = *current == Availability::Pending;
            if first {
                *current = state;
            }
            first
        })
    }

    /// Replaces what is known about `workload`'s tokens and wakes the watchers, unless nothing changed.
    /// Says whether it did.
    pub fn publish_jwt(&self, workload: &Workload, state: impl Into<Arc<JwtSnapshot>>) -> bool {
        replace(&self.of(workload).jwt, state.into())
    }

    /// Replaces the list of identities that `workload` had and has no longer, while it has others. Says whether that
    /// changed it.
    pub fn publish_withdrawn(&self, workload: &Workload, withdrawn: impl Into<Arc<[Withdrawn]>>) -> bool {
        replace(&self.of(workload).withdrawn, withdrawn.into())
    }

    /// Identities that `workload` had and has no longer, now and as they change.
    #[must_use]
    pub fn watch_withdrawn(&self, workload: &Workload) -> watch::Receiver<Arc<[Withdrawn]>> {
        self.of(workload).withdrawn.subscribe()
    }

    /// The state of `workload`, now and as it changes. Slow watchers see only the newest.
    #[must_use]
    pub fn watch(&self, workload: &Workload) -> watch::Receiver<Availability> {
        self.of(workload).x509.subscribe()
    }

    /// The tokens and JWT keys of `workload`, now and as they change.
    #[must_use]
    pub fn watch_jwt(&self, workload: &Workload) -> watch::Receiver<Arc<JwtSnapshot>> {
        self.of(workload).jwt.subscribe()
    }

    fn of(&self, workload: &Workload) -> States {
        // A panic elsewhere cannot leave the map half-written, so a poisoned lock is still good.
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.entry(workload.clone()).or_default().clone()
    }
}

fn replace<T: PartialEq>(channel: &watch::Sender<T>, state: T) -> bool {
    channel.send_if_modified(|current| {
        let changed = *current != state;
        if changed {
            *current = state;
        }
        changed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_states_wake_nobody() {
        let store = IdentityStore::new();
        let mut watch = store.watch(&Workload::Own);
        assert_eq!(*watch.borrow_and_update(), Availability::Pending);
        let ready = || Availability::Ready(Arc::new(IdentitySnapshot::default()));
        assert!(store.publish(&Workload::Own, ready()));
        assert!(watch.has_changed().unwrap());
        watch.borrow_and_update();
        assert!(!store.publish(&Workload::Own, ready()));
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn only_the_first_state_is_the_first() {
        let (store, denied) = (IdentityStore::new(), Availability::Denied("no".into()));
        assert!(store.publish_first(&Workload::Own, denied.clone()));
        assert!(!store.publish_first(&Workload::Own, Availability::Ready(Arc::new(IdentitySnapshot::default()))));
        assert_eq!(*store.watch(&Workload::Own).borrow(), denied);
    }
}
