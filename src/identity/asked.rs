//! What clients ask to be read from files, and what is known of it: between those who ask and the one who reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{FileRequest, FileSnapshot};

/// How long a request outlives the last stream that had it. A client that reconnects meanwhile finds what it had, also
/// if the file has gone bad since; a client that polls finds it from one poll to the next.
pub const LINGER: Duration = Duration::from_secs(60);

/// Requests of all streams, and the newest snapshot of what they are about.
#[derive(Debug, Default)]
pub struct FileStore {
    asked: watch::Sender<BTreeMap<FileRequest, Asked>>,
    known: watch::Sender<Arc<FileSnapshot>>,
}

/// Who asks for one thing.
#[derive(Debug)]
struct Asked {
    holders: usize,
    first: Instant,
    /// When the last one went.
    released: Option<Instant>,
}

/// What is to be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These, in their order.
    pub requests: BTreeSet<FileRequest>,
    /// How many had to be left out.
    pub waiting: usize,
    /// When the first of them may be forgotten.
    pub lapses: Option<Instant>,
}

/// Tells of changes of what is asked for.
#[derive(Debug)]
pub struct Questions(watch::Receiver<BTreeMap<FileRequest, Asked>>);

/// One stream's requests; gives them back when dropped.
#[derive(Debug)]
pub struct FileLease {
    store: Arc<FileStore>,
    held: BTreeSet<FileRequest>,
}

impl FileStore {
    /// Nobody asks for anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what is known and wakes the watchers, unless nothing changed.
    pub fn publish(&self, snapshot: FileSnapshot) {
        self.known.send_if_modified(|known| {
            let changed = **known != snapshot;
            if changed {
                *known = Arc::new(snapshot);
            }
            changed
        });
    }

    /// What is known, now and as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<FileSnapshot>> {
        self.known.subscribe()
    }

    /// Tells whenever somebody asks for something else.
    #[must_use]
    pub fn asked(&self) -> Questions {
        Questions(self.asked.subscribe())
    }

    /// The requests to follow, at most `max`: those of streams before those that only linger, older ones first. Forgets
    /// what nobody has wanted for [`LINGER`], and what lingers without a place.
    #[must_use]
    pub fn wanted(&self, max: usize, now: Instant) -> Wanted {
        let mut wanted = Wanted::default();
        self.asked.send_if_modified(|asked| {
            asked.retain(|_, asked| asked.released.is_none_or(|at| now.saturating_duration_since(at) < LINGER));
            let mut order: Vec<_> =
                asked.iter().map(|(request, asked)| (asked.holders == 0, asked.first, request)).collect();
            order.sort();
            wanted.waiting = order.iter().skip(max).filter(|(lingers, ..)| !lingers).count();
            wanted.requests = order.into_iter().take(max).map(|(.., request)| request.clone()).collect();
            asked.retain(|request, asked| asked.holders > 0 || wanted.requests.contains(request));
            wanted.lapses = asked.values().filter_map(|asked| asked.released).min().map(|at| at + LINGER);
            // Who reads is the one who calls this.
            false
        });
        wanted
    }

    /// A place to ask from.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> FileLease {
        FileLease { store: self.clone(), held: BTreeSet::new() }
    }
}

impl Questions {
    /// Ends at the next change; `false` when the store is gone.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl FileLease {
    /// Asks for these, and no longer for others.
    pub fn hold(&mut self, requests: BTreeSet<FileRequest>) {
        if requests == self.held {
            return;
        }
        let before = std::mem::replace(&mut self.held, requests);
        let (held, now) = (&self.held, Instant::now());
        self.store.asked.send_modify(|asked| {
            for request in held.difference(&before) {
                let entry = asked.entry(request.clone()).or_insert(Asked { holders: 0, first: now, released: None });
                entry.holders += 1;
                entry.released = None;
            }
            for request in before.difference(held) {
                if let Some(entry) = asked.get_mut(request) {
                    entry.holders = entry.holders.saturating_sub(1);
                    entry.released = (entry.holders == 0).then_some(now);
                }
            }
        });
    }

    /// Waits until everything that is held was looked at.
    pub async fn tried(&self) {
        // Nobody who could be waited for is gone while somebody holds a lease.
        let _ = self.store.watch().wait_for(|known| self.held.is_subset(&known.tried)).await;
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        self.hold(BTreeSet::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(names: &[&str]) -> BTreeSet<FileRequest> {
        names.iter().map(|name| FileRequest::Roots(name.into())).collect()
    }

    #[test]
    fn what_is_asked_for_is_wanted_and_lingers() {
        let store = Arc::new(FileStore::new());
        let (mut one, mut two) = (store.lease(), store.lease());
        one.hold(some(&["/a", "/b"]));
        two.hold(some(&["/b"]));
        assert_eq!(store.wanted(9, Instant::now()).requests, some(&["/a", "/b"]));
        one.hold(some(&[]));
        drop(two);
        let now = Instant::now();
        assert_eq!(store.wanted(9, now).requests, some(&["/a", "/b"]));
        one.hold(some(&["/b"]));
        assert_eq!(store.wanted(9, now + 2 * LINGER).requests, some(&["/b"]));
        assert_eq!(store.wanted(9, now).requests, some(&["/b"]), "the other one is forgotten");
    }

    #[test]
    fn there_is_room_for_so_many_and_who_comes_first_keeps_it() {
        let store = Arc::new(FileStore::new());
        let leases: Vec<_> = ["/z", "/y", "/x", "/w"]
            .into_iter()
            .map(|name| {
                let mut lease = store.lease();
                lease.hold(some(&[name]));
                lease
            })
            .collect();
        let wanted = store.wanted(2, Instant::now());
        assert_eq!((wanted.requests, wanted.waiting), (some(&["/y", "/z"]), 2));
        let mut leases = leases.into_iter();
        drop(leases.next());
        let wanted = store.wanted(2, Instant::now());
        assert_eq!((wanted.requests, wanted.waiting), (some(&["/x", "/y"]), 1), "one that lingers makes room");
        drop(leases);
        assert_eq!(store.wanted(2, Instant::now()).requests.len(), 2);
        assert!(store.asked.borrow().len() <= 2, "what lingers is bounded too");
    }
}
