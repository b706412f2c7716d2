//! How much memory clients may make this server hold: each of them, and all together.
//!
//! Charged are requests that have not arrived whole, what was read from sockets and not taken up, names that streams
//! hold, responses that wait for their answer, and answers to unary calls until they are read. What is charged is given
//! back when the [`Charge`] is dropped, whichever way that happens. See `docs/adr/0030-byte-budgets.md`.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tonic::Status;

use super::live::Settings;
use crate::{
    listen::{Peer, peer::Owner},
    telemetry::metrics::StreamMetrics,
};

/// Charges grow and shrink in steps of this size, so that small changes cost nothing.
const STEP: usize = 1 << 10;

/// What all clients hold. Clones are the same.
#[derive(Clone)]
pub(super) struct Budgets(Arc<Ledger>);

struct Ledger {
    settings: Settings,
    metrics: StreamMetrics,
    used: AtomicUsize,
    accounts: Mutex<HashMap<Owner, Weak<Account>>>,
}

/// What one client holds, on all its connections.
struct Account {
    key: Owner,
    used: AtomicUsize,
    ledger: Arc<Ledger>,
}

/// A part of the memory of a client; given back when dropped.
pub(super) struct Charge {
    account: Arc<Account>,
    held: usize,
}

/// There is no more memory for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Exhausted {
    /// The client has what one may have.
    #[error(
        "this client makes the server hold {0} bytes, as much as it may; ask for fewer names on fewer streams, read what is sent, or raise limits.memory_per_peer"
    )]
    Peer(usize),
    /// All clients together have what they may have.
    #[error(
        "all clients together make the server hold {0} bytes, as much as they may; ask later, or raise limits.memory"
    )]
    All(usize),
}

impl From<Exhausted> for Status {
    fn from(exhausted: Exhausted) -> Self {
        Self::resource_exhausted(exhausted.to_string())
    }
}

impl Budgets {
    pub(super) fn new(settings: Settings, metrics: StreamMetrics) -> Self {
        Self(Arc::new(Ledger { settings, metrics, used: AtomicUsize::new(0), accounts: Mutex::default() }))
    }

    /// A charge of nothing, on the account of `peer`.
    pub(super) fn open(&self, peer: Peer) -> Charge {
        let key = Owner::from(peer);
        let mut accounts = self.0.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let account = Arc::new(Account { key, used: AtomicUsize::new(0), ledger: self.0.clone() });
            accounts.insert(key, Arc::downgrade(&account));
            account
        });
        Charge { account, held: 0 }
    }

    /// Bytes charged to all clients.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Charge {
    /// Another charge of nothing, on the same account.
    pub(super) fn beside(&self) -> Self {
        Self { account: self.account.clone(), held: 0 }
    }

    /// Makes it a charge of so many bytes, or of a few more.
    ///
    /// # Errors
    /// [`Exhausted`]; the charge is what it was.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let wanted = bytes.checked_next_multiple_of(STEP).unwrap_or(usize::MAX);
        let Some(more) = wanted.checked_sub(self.held).filter(|more| *more > 0) else {
            self.account.give_back(self.held.saturating_sub(wanted));
            self.held = wanted;
            return Ok(());
        };
        self.account.take(more)?;
        self.held = wanted;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give_back(self.held);
    }
}

impl Account {
    fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        let limits = self.ledger.settings.limits();
        let (one, all) = (limits.memory_per_peer as usize, limits.memory as usize);
        let metrics = &self.ledger.metrics;
        add(&self.used, bytes, one).map_err(Exhausted::Peer).inspect_err(|_| metrics.exhausted("peer"))?;
        add(&self.ledger.used, bytes, all).map_err(|held| {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            metrics.exhausted("all");
            Exhausted::All(held)
        })?;
        metrics.holds(bytes as i64);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.ledger.used.fetch_sub(bytes, Ordering::Relaxed);
        self.ledger.metrics.holds(-(bytes as i64));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = self.ledger.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // The same client may have come back meanwhile.
        if accounts.get(&self.key).is_some_and(|account| account.strong_count() == 0) {
            accounts.remove(&self.key);
        }
    }
}

/// Adds unless that is more than `limit`; the error is what there is already.
fn add(used: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), usize> {
    let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(|_| ())
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} bytes)", self.held)
    }
}

/// A body that is charged for until it is read or dropped.
pub(super) struct Charged<B> {
    body: B,
    _charge: Charge,
}

impl<B> Charged<B> {
    pub(super) fn new(body: B, charge: Charge) -> Self {
        Self { body, _charge: charge }
    }
}

impl<B: Body + Unpin> Body for Charged<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        secret,
        server::{Config, Limits, live},
    };

    /// Budgets of one client, and of all.
    pub(in crate::server) fn budgets(memory_per_peer: u64, memory: u64) -> Budgets {
        let limits = Limits { memory_per_peer, memory, ..Limits::default() };
        let (_, settings) = live::channel(Config { limits, ..Config::default() }, secret::Config::default());
        Budgets::new(settings, StreamMetrics::default())
    }

    fn user(uid: u32) -> Peer {
        Peer::Process { pid: i32::try_from(uid).unwrap() + fastrand::i32(0..100), uid, gid: 1 }
    }

    #[test]
    fn a_client_has_its_share_on_all_connections_and_gives_it_back() {
        let budgets = budgets(8 * STEP as u64, 12 * STEP as u64);
        let (mut one, mut two) = (budgets.open(user(1)), budgets.open(user(1)));
        one.set(5 * STEP).unwrap();
        assert_eq!(two.set(4 * STEP), Err(Exhausted::Peer(5 * STEP)));
        two.set(3 * STEP).unwrap();
        let mut other = budgets.open(user(2));
        assert_eq!(other.set(5 * STEP), Err(Exhausted::All(8 * STEP)), "all together");
        other.set(4 * STEP).unwrap();
        one.set(1).unwrap();
        assert_eq!(budgets.used(), 8 * STEP, "less is given back at once");
        drop((one, other));
        assert_eq!(budgets.used(), 3 * STEP);
        drop(two);
        assert_eq!((budgets.used(), budgets.0.accounts.lock().unwrap().len()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let budgets = budgets(8 * STEP as u64, 8 * STEP as u64);
        let mut charge = budgets.open(user(1));
        charge.set(2 * STEP).unwrap();
        for bytes in [9 * STEP, usize::MAX] {
            charge.set(bytes).unwrap_err();
            assert_eq!((charge.held, budgets.used()), (2 * STEP, 2 * STEP));
        }
        charge.beside().set(6 * STEP).unwrap();
        assert_eq!(budgets.used(), 2 * STEP);
    }
}
