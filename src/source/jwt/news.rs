//! What a supervisor of tokens waits for.

use std::{future::pending, time::Duration};

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Fetches, refresh::Demand};
use crate::{
    identity::{Availability, JwtSvid},
    lifecycle::clock,
    source::{SourceError, SourceStatus, decode::jwt::JwtKeys},
};

/// What happened.
pub(super) enum News {
    /// This source has taken over.
    Switched(usize),
    /// The X.509-SVIDs are others.
    Identities,
    /// The source is heard again.
    Back,
    Demanded(Demand),
    /// Of which schedule, and to which of its questions.
    Fetched(usize, u32, Result<JwtSvid, SourceError>),
    Keys(Result<JwtKeys, SourceError>),
    Alarm,
}

impl News {
    /// How traces call it.
    pub(super) const fn trigger(&self) -> &'static str {
        match self {
            Self::Switched(_) => "failover",
            Self::Demanded(_) => "demand",
            Self::Fetched(..) | Self::Keys(_) | Self::Identities | Self::Back => "message",
            Self::Alarm => "timer",
        }
    }
}

/// What others say.
pub(super) struct Around {
    active: watch::Receiver<Option<usize>>,
    demands: mpsc::Receiver<Demand>,
    identities: watch::Receiver<Availability>,
    status: Option<watch::Receiver<SourceStatus>>,
    connected: bool,
    clock_changes: BoxStream<'static, ()>,
}

impl Around {
    pub(super) fn new(
        active: watch::Receiver<Option<usize>>,
        demands: mpsc::Receiver<Demand>,
        identities: watch::Receiver<Availability>,
    ) -> Self {
        Self { active, demands, identities, status: None, connected: false, clock_changes: clock::changes() }
    }

    /// Hears from now on when the source is back.
    pub(super) fn follow(&mut self, status: watch::Receiver<SourceStatus>) {
        self.connected = status.borrow().connected;
        self.status = Some(status);
    }

    /// The present X.509-SVIDs.
    pub(super) fn identities(&mut self) -> Availability {
        self.identities.borrow_and_update().clone()
    }

    /// The next thing that happens; of several at once the one that changes most.
    pub(super) async fn next(
        &mut self,
        current: usize,
        fetches: &mut Fetches,
        keys: &mut BoxStream<'static, Result<JwtKeys, SourceError>>,
        nap: Duration,
    ) -> News {
        tokio::select! {
            biased;
            to = switched(&mut self.active, current) => News::Switched(to),
            Ok(()) = self.identities.changed() => News::Identities,
            () = back(&mut self.status, &mut self.connected) => News::Back,
            Some(only) = self.demands.recv() => News::Demanded(only),
            Some((index, question, fetched)) = fetches.next() => News::Fetched(index, question, fetched),
            Some(news) = keys.next() => News::Keys(news),
            Some(()) = self.clock_changes.next() => News::Alarm,
            () = sleep(nap) => News::Alarm,
        }
    }
}

/// The next source that is active instead of `current`.
async fn switched(active: &mut watch::Receiver<Option<usize>>, current: usize) -> usize {
    let other = active.wait_for(|active| active.unwrap_or_default() != current).await;
    match other.map(|active| active.unwrap_or_default()) {
        Ok(active) => active,
        // Nobody decides any more: the program is ending, or there is only one.
        Err(_) => pending().await,
    }
}

/// Ends when the source delivers again.
async fn back(status: &mut Option<watch::Receiver<SourceStatus>>, connected: &mut bool) {
    let Some(status) = status else { return pending().await };
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().connected;
        if now && !std::mem::replace(connected, now) {
            return;
        }
        *connected = now;
    }
    pending().await
}
