//! Which connections are open, whose they are, and which one is closed when there is no room for another.
//!
//! One that carries no request gives way to a newcomer: it costs its client a reconnect and nothing else. Where all of
//! them carry some, whoever has most gives way to whoever has less, so that no user keeps another one out.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::peer::Owner;
use crate::telemetry::metrics::ConnectionMetrics;

/// How long a newcomer waits for a place.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many may wait; they are connected, and so they count too.
const WAITING: usize = 32;
/// That there is no room is said this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All peers together.
    pub(crate) all: usize,
    /// Of one user, or of one address.
    pub(crate) of_peer: usize,
    /// Where none is idle, the one that has been busy for longest is closed. For answers that take no time.
    pub(crate) interrupts: bool,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The peer has as many as it may.
    Peer,
    /// There are as many as there may be, and nobody has more than the newcomer would have.
    All,
}

/// The open connections of one endpoint. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    endpoint: &'static str,
    metrics: ConnectionMetrics,
    table: Mutex<Table>,
    left: Notify,
    waiting: Semaphore,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) activity: Activity,
    close: CancellationToken,
}

/// Notes that a connection carries requests.
#[derive(Clone, Debug)]
pub(crate) struct Activity {
    connections: Connections,
    id: u64,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Activity);

/// What happened since it was last said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crowd {
    pub(super) refused: u64,
    pub(super) closed: u64,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Entry>,
    owners: HashMap<Owner, Held>,
    next: u64,
    unsaid: Crowd,
    said: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    requests: u32,
    /// Since when it is idle, or busy.
    since: Instant,
    close: CancellationToken,
}

/// The connections of one owner, by how long they are what they are.
#[derive(Debug, Default)]
struct Held {
    idle: BTreeSet<(Instant, u64)>,
    busy: BTreeSet<(Instant, u64)>,
}

impl Connections {
    pub(crate) fn new(bounds: Bounds, metrics: ConnectionMetrics, endpoint: &'static str) -> Self {
        metrics.begin(endpoint);
        let (table, left) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { bounds, endpoint, metrics, table, left, waiting: Semaphore::new(WAITING) }))
    }

    /// A place for one more, at the cost of another one if need be.
    pub(crate) fn enter(&self, owner: Owner) -> Result<Place, Full> {
        let now = Instant::now();
        let mut table = self.table();
        if let Some(victim) = table.victim(owner, &self.0.bounds)? {
            table.close(victim);
            self.0.metrics.closed(self.0.endpoint);
        }
        let (id, close) = table.enter(owner, now);
        Ok(Place { activity: Activity { connections: self.clone(), id }, close })
    }

    /// The same, once there is one; not for long, and not for many at a time.
    pub(crate) async fn enter_soon(&self, owner: Owner) -> Result<Place, Full> {
        let full = match self.enter(owner) {
            Ok(place) => return Ok(place),
            Err(full) => full,
        };
        let waited = match self.0.waiting.try_acquire() {
            Ok(_waiting) => timeout(PATIENCE, self.entered(owner)).await.map_err(|_| full),
            Err(_) => Err(full),
        };
        if waited.is_err() {
            self.table().unsaid.refused += 1;
            self.0.metrics.refused(self.0.endpoint, full.as_str());
        }
        waited
    }

    async fn entered(&self, owner: Owner) -> Place {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            // From here on nothing is missed.
            left.as_mut().enable();
            if let Ok(place) = self.enter(owner) {
                return place;
            }
            left.await;
        }
    }

    /// Closes the one that has been idle for longest, whosever it is.
    pub(crate) fn relieve(&self) {
        let mut table = self.table();
        if let Some(idlest) = table.idlest() {
            table.close(idlest);
            self.0.metrics.closed(self.0.endpoint);
        }
    }

    /// What is to be said now, if anything.
    pub(super) fn crowd(&self) -> Option<Crowd> {
        let now = Instant::now();
        let mut table = self.table();
        let due = table.said.is_none_or(|said| now.saturating_duration_since(said) >= SAID_EVERY);
        if !due || (table.unsaid.refused == 0 && table.unsaid.closed == 0) {
            return None;
        }
        table.said = Some(now);
        Some(std::mem::take(&mut table.unsaid))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is made on the whole or not at all.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Full {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::All => "all",
        }
    }
}

impl Place {
    /// When the connection is to make room for another one.
    pub(super) async fn taken(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Activity { connections, id } = &self.activity;
        connections.table().remove(*id);
        connections.0.left.notify_waiters();
    }
}

impl Activity {
    /// A request begins.
    pub(crate) fn begin(&self) -> Busy {
        self.connections.table().count(self.id, |requests| requests.saturating_add(1));
        Busy(self.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { connections, id } = &self.0;
        connections.table().count(*id, |requests| requests.saturating_sub(1));
        connections.0.left.notify_waiters();
    }
}

impl Table {
    /// Which connection is closed for the sake of a newcomer, if any must be.
    fn victim(&self, owner: Owner, bounds: &Bounds) -> Result<Option<u64>, Full> {
        let own = self.owners.get(&owner);
        let mine = own.map_or(0, Held::len);
        if mine >= bounds.of_peer {
            let longest = || own.filter(|_| bounds.interrupts).and_then(|held| first(&held.busy));
            return own.and_then(|held| first(&held.idle)).or_else(longest).map(Some).ok_or(Full::Peer);
        }
        if self.open.len() < bounds.all {
            return Ok(None);
        }
        let largest = || self.owners.values().max_by_key(|held| held.len());
        let busy = || match largest() {
            Some(held) if bounds.interrupts => first(&held.busy),
            // The newest one, so that those that have worked for long go on.
            Some(held) if held.len() > mine + 1 => held.busy.last().map(|(_, id)| *id),
            _ => None,
        };
        self.idlest().or_else(busy).map(Some).ok_or(Full::All)
    }

    /// The idlest of whoever has most idle ones.
    fn idlest(&self) -> Option<u64> {
        let most = self.owners.values().max_by_key(|held| (held.idle.len(), Reverse(held.idle.first().copied())));
        most.and_then(|held| first(&held.idle))
    }

    fn enter(&mut self, owner: Owner, now: Instant) -> (u64, CancellationToken) {
        let (id, close) = (self.next, CancellationToken::new());
        self.next += 1;
        self.owners.entry(owner).or_default().idle.insert((now, id));
        self.open.insert(id, Entry { owner, requests: 0, since: now, close: close.clone() });
        (id, close)
    }

    /// Its place is free from now on; it ends as soon as it gets to it.
    fn close(&mut self, id: u64) {
        self.unsaid.closed += 1;
        if let Some(entry) = self.remove(id) {
            entry.close.cancel();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        if let Some(held) = self.owners.get_mut(&entry.owner) {
            held.of(entry.requests).remove(&(entry.since, id));
            if held.len() == 0 {
                self.owners.remove(&entry.owner);
            }
        }
        Some(entry)
    }

    /// Another number of requests; nothing for a connection whose place was taken.
    fn count(&mut self, id: u64, change: impl FnOnce(u32) -> u32) {
        let Some(entry) = self.open.get_mut(&id) else { return };
        let before = entry.requests;
        entry.requests = change(before);
        if (before == 0) == (entry.requests == 0) {
            return;
        }
        let since = std::mem::replace(&mut entry.since, Instant::now());
        if let Some(held) = self.owners.get_mut(&entry.owner) {
            held.of(before).remove(&(since, id));
            held.of(entry.requests).insert((entry.since, id));
        }
    }
}

impl Held {
    fn len(&self) -> usize {
        self.idle.len() + self.busy.len()
    }

    fn of(&mut self, requests: u32) -> &mut BTreeSet<(Instant, u64)> {
        if requests == 0 { &mut self.idle } else { &mut self.busy }
    }
}

fn first(set: &BTreeSet<(Instant, u64)>) -> Option<u64> {
    set.first().map(|(_, id)| *id)
}

#[cfg(test)]
mod tests;
