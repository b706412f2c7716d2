//! Who is connected and what each has: one small cell a stream, written by the stream when something changes and read
//! by whoever looks. Streams never wait for readers longer than it takes to copy one cell.

mod details;
mod resend;
mod row;
mod search;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
    time::SystemTime,
};

use futures_util::task::AtomicWaker;

use super::{
    live::{Live, Settings},
    observe::Client,
};
use crate::secret::Missing;
use crate::xds::{Changes, Details, ResourceName, ResourceSet, Status, Subscription, Version};

use details::Shelf;
pub(super) use resend::Resend;
use row::Row;
pub use search::{Counts, Found, Query};
#[cfg(test)]
pub(crate) use tests::crowd;

/// Every live stream. Clones are the same list.
#[derive(Clone, Default)]
pub struct Streams(Arc<Inner>);

#[derive(Default)]
struct Inner {
    opened: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Cell>>>,
    details: Shelf,
    /// What says why a name is not given.
    settings: Option<Settings>,
}

/// How a name stands with a client, in the words of the Client Status Discovery Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The client has taken what there is.
    Synced,
    /// Sent and not answered, or what the client has taken is no longer the newest.
    Stale,
    /// There is nothing to send, or it has not been sent yet.
    NotSent,
    /// There is nothing to send, and never will be for this client: the name is misspelt, foreign or not allowed.
    Never,
    /// The client refused it, and has not taken other content since.
    Error,
}

impl State {
    /// Every state, the best first.
    pub const ALL: [Self; 5] = [Self::Synced, Self::Stale, Self::NotSent, Self::Never, Self::Error];

    /// How JSON and the page spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Stale => "stale",
            Self::NotSent => "not_sent",
            Self::Never => "never",
            Self::Error => "error",
        }
    }
}

/// One stream as of one moment.
#[derive(Clone, Debug)]
pub struct StreamView {
    /// Unique in the life of the process; grows in the order of opening.
    pub id: u64,
    /// Who.
    pub client: Arc<Client>,
    /// What the client says of itself beside that.
    pub details: Arc<Details>,
    /// Since when.
    pub opened: SystemTime,
    /// What it wants, by name.
    pub names: Vec<NameView>,
}

/// One name that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameView {
    /// As asked.
    pub name: ResourceName,
    /// How it stands.
    pub state: State,
    /// What the client took last, or said that it holds: what it uses.
    pub held: Option<Version>,
    /// What was sent last. Other than what is held, it was not answered yet, or refused.
    pub sent_version: Option<Version>,
    /// What there is for it now.
    pub current: Option<Version>,
    /// There is nothing of this name, and never will be for this client: the name is misspelt, foreign, or not allowed.
    pub never: bool,
    /// Why there is nothing of this name; `None` if there is.
    pub missing: Option<Missing>,
    /// When it was last sent on this stream.
    pub sent: Option<SystemTime>,
    /// When the client last took it.
    pub acked: Option<SystemTime>,
    /// The client's words, when it refused it.
    pub rejection: Option<Arc<str>>,
    /// What it refused.
    pub rejected: Option<Version>,
}

/// One stream's place in the list; leaves it when dropped.
pub(super) struct Seat {
    cell: Arc<Cell>,
    streams: Streams,
}

struct Cell {
    id: u64,
    opened: SystemTime,
    asked: AtomicBool,
    waker: AtomicWaker,
    /// The last step of a roll-out that the client has, or [`UNCOUNTED`].
    step: AtomicU64,
    view: Mutex<View>,
}

/// The step of a stream that roll-outs do not wait for.
const UNCOUNTED: u64 = u64::MAX;

struct View {
    client: Arc<Client>,
    details: Arc<Details>,
    /// What the stream looked at last.
    now: Option<Arc<ResourceSet>>,
    /// Sorted by name.
    rows: Vec<Row>,
    resend: Option<Resend>,
}

impl Streams {
    /// None yet.
    pub(super) fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner { settings: Some(settings), ..Inner::default() }))
    }

    /// What says why a name is not given, at this moment.
    fn live_settings(&self) -> Option<Arc<Live>> {
        self.0.settings.as_ref().map(Settings::now)
    }

    pub(super) fn open(&self, client: Arc<Client>) -> Seat {
        let id = self.0.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let view = View { client, details: Arc::default(), now: None, rows: Vec::new(), resend: None };
        let cell = Arc::new(Cell {
            id,
            opened: SystemTime::now(),
            asked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            step: AtomicU64::new(UNCOUNTED),
            view: Mutex::new(view),
        });
        self.live().insert(id, cell.clone());
        Seat { cell, streams: self.clone() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The clients that a roll-out waits for and that have not this step of it. They are not named again before they have
    /// another one.
    pub(super) fn give_up(&self, step: u64) -> Vec<Arc<Client>> {
        let without = |cell: &Arc<Cell>| {
            let late = cell.step.load(Ordering::Relaxed) < step;
            if late {
                cell.step.store(UNCOUNTED, Ordering::Relaxed);
            }
            late
        };
        self.cells().iter().filter(|cell| without(cell)).map(|cell| cell.view().client.clone()).collect()
    }

    /// How many streams still have something of this version, as far as they were told.
    #[must_use]
    pub fn holders(&self, version: &Version) -> usize {
        self.cells().iter().filter(|cell| cell.view().rows.iter().any(|row| row.has(version))).count()
    }

    fn cells(&self) -> Vec<Arc<Cell>> {
        self.live().values().cloned().collect()
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Cell>>> {
        // A panic elsewhere cannot leave the map half-written.
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The client has said who it is.
    pub(super) fn is(&self, client: Arc<Client>) {
        self.cell.view().client = client;
    }

    /// And this beside it; says how many bytes that costs.
    pub(super) fn knows(&self, details: Details) -> usize {
        let weight = details.weight();
        self.cell.view().details = self.streams.0.details.share(details);
        weight
    }

    /// These names of interest stand otherwise than before.
    pub(super) fn wants(&self, subscription: &Subscription, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        let mut view = self.cell.view();
        if let Some(names) = changes.names() {
            names.iter().for_each(|name| view.want(name, subscription.standing(name)));
            return;
        }
        let mut before = std::mem::take(&mut view.rows).into_iter().peekable();
        let mut rows = Vec::with_capacity(subscription.names());
        for standing in subscription.standings() {
            while before.next_if(|row| row.name < *standing.name).is_some() {}
            let known = before.next_if(|row| row.name == *standing.name);
            let known = known.unwrap_or_else(|| Row::new(standing.name.clone()));
            rows.push(known.standing(standing));
        }
        view.rows = rows;
    }

    /// The last step of a roll-out that the client has; `None` if it is not waited for.
    pub(super) fn has_step(&self, step: Option<u64>) {
        self.cell.step.store(step.unwrap_or(UNCOUNTED), Ordering::Relaxed);
    }

    /// What the stream looks at.
    pub(super) fn sees(&self, now: &Arc<ResourceSet>) {
        self.cell.view().now = Some(now.clone());
    }

    pub(super) fn sent(&self, name: &ResourceName, version: &Version) {
        let mut view = self.cell.view();
        let row = match view.rows.binary_search_by(|row| row.name.cmp(name)) {
            Ok(at) => view.rows.get_mut(at),
            // A wildcard has come to include it.
            Err(at) => {
                view.rows.insert(at, Row::new(name.clone()));
                view.rows.get_mut(at)
            }
        };
        let Some(row) = row else { return };
        row.status = Status::Sent;
        (row.told, row.left) = (Some(version.clone()), None);
        row.sent = Some(SystemTime::now());
    }

    pub(super) fn acked(&self, name: &ResourceName, version: &Version) {
        self.answered(name, |row| {
            // Envoy acknowledges the bytes that it has just refused when it sees them again, and does not use them.
            row.rejected.take_if(|rejected| rejected.0 != *version);
            row.acked = Some(SystemTime::now());
            if row.rejected.is_none() {
                row.held = Some(version.clone());
            }
            if row.told.as_ref() == Some(version) {
                row.status = Status::Acked;
            }
        });
    }

    pub(super) fn nacked(&self, name: &ResourceName, version: &Version, detail: &str) {
        self.answered(name, |row| {
            row.rejected = Some(Box::new((version.clone(), Arc::from(detail))));
        });
    }

    fn answered(&self, name: &ResourceName, change: impl FnOnce(&mut Row)) {
        let mut view = self.cell.view();
        let found = view.rows.binary_search_by(|row| row.name.cmp(name)).ok();
        found.and_then(|at| view.rows.get_mut(at)).map(change);
    }

    /// What an operator wants sent again, if anything; wakes the task of `cx` when that changes.
    pub(super) fn asked(&self, cx: &Context<'_>) -> Option<Resend> {
        self.cell.waker.register(cx.waker());
        if self.cell.asked.swap(false, Ordering::Acquire) { self.cell.view().resend.take() } else { None }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.streams.live().remove(&self.cell.id);
        let details = std::mem::take(&mut self.cell.view().details);
        self.streams.0.details.give_back(details);
    }
}

impl Cell {
    fn view(&self) -> MutexGuard<'_, View> {
        // Every change is complete in itself.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streams({})", self.len())
    }
}
