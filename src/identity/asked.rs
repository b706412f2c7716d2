//! What clients ask to be read from files, and what is known of it: between those who ask and the one who reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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

/// Whose share of the places a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A user of this machine.
    User(u32),
    /// Whoever is at this address.
    Address(IpAddr),
}

/// Who asks for one thing.
#[derive(Debug)]
struct Asked {
    /// With how many streams.
    holders: BTreeMap<Asker, usize>,
    /// It was looked at, and there is nothing that could be served.
    empty: bool,
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
    asker: Asker,
    held: BTreeSet<FileRequest>,
}

impl FileStore {
    /// Nobody asks for anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what is known and wakes the watchers, unless nothing changed. Says whether places have become free,
    /// because there is nothing in what has them.
    pub fn publish(&self, snapshot: FileSnapshot) -> bool {
        let mut freed = false;
        self.asked.send_if_modified(|asked| {
            for request in &snapshot.tried {
                let Some(asked) = asked.get_mut(request) else { continue };
                let empty = !snapshot.secrets.contains_key(request);
                freed |= empty && !asked.empty;
                asked.empty = empty;
            }
            // Who reads is the one who calls this.
            false
        });
        self.known.send_if_modified(|known| {
            let changed = **known != snapshot;
            if changed {
                *known = Arc::new(snapshot);
            }
            changed
        });
        freed
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

    /// The requests to follow. Those of streams come before those that only linger, then each client's first one, each
    /// one's second, and so on. At most `max` of them are not empty, and as many are: what is not there, however much of
    /// it is asked for, takes the place of nothing that is. Forgets what nobody has wanted for [`LINGER`], and what
    /// lingers without a place.
    #[must_use]
    pub fn wanted(&self, max: usize, now: Instant) -> Wanted {
        let mut wanted = Wanted::default();
        self.asked.send_if_modified(|asked| {
            asked.retain(|_, asked| asked.released.is_none_or(|at| now.saturating_duration_since(at) < LINGER));
            for empty in [false, true] {
                let order = order(asked, empty);
                wanted.waiting += order.iter().skip(max).filter(|(lingers, ..)| !lingers).count();
                wanted.requests.extend(order.into_iter().take(max).map(|(.., request)| request.clone()));
            }
            asked.retain(|request, asked| asked.lives() || wanted.requests.contains(request));
            wanted.lapses = asked.values().filter_map(|asked| asked.released).min().map(|at| at + LINGER);
            // Who reads is the one who calls this.
            false
        });
        wanted
    }

    /// A place to ask from.
    #[must_use]
    pub fn lease(self: &Arc<Self>, asker: Asker) -> FileLease {
        FileLease { store: self.clone(), asker, held: BTreeSet::new() }
    }
}

/// Requests that are empty, or all others, in the order in which they get places: whether it only lingers, the how
/// manieth it is of its client, and its age.
fn order(asked: &BTreeMap<FileRequest, Asked>, empty: bool) -> Vec<(bool, usize, Instant, &FileRequest)> {
    let mut of_age: Vec<_> = asked.iter().filter(|(_, asked)| asked.empty == empty).collect();
    of_age.sort_by_key(|(request, asked)| (asked.first, *request));
    let mut counts: BTreeMap<Asker, usize> = BTreeMap::new();
    let mut order: Vec<_> = of_age
        .into_iter()
        .map(|(request, asked)| {
            let count = |asker: &Asker| {
                let count = counts.entry(*asker).or_default();
                *count += 1;
                *count
            };
            let rank = asked.holders.keys().map(count).min().unwrap_or_default();
            (!asked.lives(), rank, asked.first, request)
        })
        .collect();
    order.sort();
    order
}

impl Asked {
    /// Whether a stream has it.
    fn lives(&self) -> bool {
        !self.holders.is_empty()
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
        let (held, asker, now) = (&self.held, self.asker, Instant::now());
        self.store.asked.send_modify(|asked| {
            for request in held.difference(&before) {
                let new = || Asked { holders: BTreeMap::new(), empty: false, first: now, released: None };
                let entry = asked.entry(request.clone()).or_insert_with(new);
                *entry.holders.entry(asker).or_default() += 1;
                entry.released = None;
            }
            for request in before.difference(held) {
                let Some(entry) = asked.get_mut(request) else { continue };
                if let Some(streams) = entry.holders.get_mut(&asker) {
                    *streams = streams.saturating_sub(1);
                }
                entry.holders.retain(|_, streams| *streams > 0);
                entry.released = (!entry.lives()).then_some(now);
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

    const ONE: Asker = Asker::User(1);
    const OTHER: Asker = Asker::User(2);

    fn some(names: &[&str]) -> BTreeSet<FileRequest> {
        names.iter().map(|name| FileRequest::Roots(name.into())).collect()
    }

    #[test]
    fn what_is_asked_for_is_wanted_and_lingers() {
        let store = Arc::new(FileStore::new());
        let (mut one, mut two) = (store.lease(ONE), store.lease(ONE));
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
                let mut lease = store.lease(ONE);
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

    #[test]
    fn whoever_asks_for_much_leaves_others_their_share() {
        let store = Arc::new(FileStore::new());
        let (mut one, mut other) = (store.lease(ONE), store.lease(OTHER));
        one.hold(some(&["/a", "/b", "/c", "/d", "/e", "/f"]));
        assert_eq!(
            store.wanted(4, Instant::now()).requests,
            some(&["/a", "/b", "/c", "/d"]),
            "all, while nobody else asks"
        );
        other.hold(some(&["/x", "/y", "/z"]));
        let wanted = store.wanted(4, Instant::now());
        assert_eq!((wanted.requests, wanted.waiting), (some(&["/a", "/b", "/x", "/y"]), 5));
        // What both want is on the account of whoever has less.
        other.hold(some(&["/f"]));
        assert_eq!(store.wanted(4, Instant::now()).requests, some(&["/a", "/b", "/c", "/f"]));
    }

    #[test]
    fn what_is_empty_takes_no_place_of_what_is_not() {
        let store = Arc::new(FileStore::new());
        let (mut one, mut other) = (store.lease(ONE), store.lease(ONE));
        one.hold(some(&["/a", "/b", "/c"]));
        other.hold(some(&["/x"]));
        assert_eq!(store.wanted(2, Instant::now()).requests, some(&["/a", "/b"]));
        let tried = |names| FileSnapshot { tried: some(names), ..FileSnapshot::default() };
        assert!(store.publish(tried(&["/a", "/b"])), "two places are free");
        assert!(!store.publish(tried(&["/a", "/b"])), "they were before");
        let wanted = store.wanted(2, Instant::now());
        assert_eq!(
            (wanted.requests, wanted.waiting),
            (some(&["/a", "/b", "/c", "/x"]), 0),
            "and they are still followed"
        );
        let _ = store.publish(tried(&["/c"]));
        let wanted = store.wanted(2, Instant::now());
        assert_eq!((wanted.requests, wanted.waiting), (some(&["/a", "/b", "/x"]), 1), "so many of them");
    }
}
