//! What a supervisor of tokens waits for.

use std::{future::pending, time::Duration};

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Fetches, JwtBundles, refresh::Demand};
use crate::{identity::JwtSvid, source::SourceError};

/// What happened.
pub(super) enum News {
    /// This source has taken over.
    Switched(usize),
    Demanded(Demand),
    Fetched(usize, Result<JwtSvid, SourceError>),
    Keys(Result<JwtBundles, SourceError>),
    Alarm,
}

impl News {
    /// How traces call it.
    pub(super) const fn trigger(&self) -> &'static str {
        match self {
            Self::Switched(_) => "failover",
            Self::Demanded(_) => "demand",
            Self::Fetched(..) | Self::Keys(_) => "message",
            Self::Alarm => "timer",
        }
    }
}

/// The next thing that happens; of several at once the one that changes most.
pub(super) async fn next(
    (active, current): (&mut watch::Receiver<Option<usize>>, usize),
    demands: &mut mpsc::Receiver<Demand>,
    fetches: &mut Fetches,
    keys: &mut BoxStream<'static, Result<JwtBundles, SourceError>>,
    nap: Duration,
) -> News {
    tokio::select! {
        biased;
        to = switched(active, current) => News::Switched(to),
        Some(only) = demands.recv() => News::Demanded(only),
        Some((index, fetched)) = fetches.next() => News::Fetched(index, fetched),
        Some(news) = keys.next() => News::Keys(news),
        () = sleep(nap) => News::Alarm,
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
