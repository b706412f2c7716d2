//! One session: the files as they are, and as they change.

use std::{
    future::pending,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use futures_util::stream::{self, Stream};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Files, FilesError, watch::Watch};
use crate::{
    detached,
    identity::{IdentitySnapshot, Refusal},
    source::SourceError,
};

/// How long files may not fit together before that is said. Writers take less.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a failure that was said already waits for a change. Not for ever: clocks move too, and some file systems
/// tell of nothing.
const LONGEST_FAILURE: Duration = Duration::from_secs(60);
const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Until this moment; never for none. In steps: the wall clock may be set.
async fn until(at: Option<SystemTime>) {
    let Some(at) = at else { return pending().await };
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        sleep(left.clamp(SHORTEST_WAIT, LONGEST_FAILURE)).await;
    }
}

/// The session as a stream. Dropping it ends the watch.
pub(super) fn open(files: Files) -> impl Stream<Item = Result<IdentitySnapshot, SourceError>> + Send + 'static {
    stream::try_unfold(None::<(Watch, Option<SystemTime>)>, move |watch| {
        let files = files.clone();
        async move {
            if let Some((watch, heals_at)) = watch {
                tokio::select! {
                    () = watch.changed() => {}
                    () = until(heals_at) => {}
                }
            }
            files.next_good().await.map(|(snapshot, watch)| {
                let heals_at = snapshot.refusals.iter().filter_map(|refusal| refusal.heals_at).min();
                Some((snapshot, Some((watch, heals_at))))
            })
        }
    })
}

impl Files {
    /// Reads until everything fits together, or has not for too long.
    async fn next_good(&self) -> Result<(IdentitySnapshot, Watch), SourceError> {
        let began = Instant::now();
        loop {
            // Before reading, so that a change while we read is seen.
            let (watch, loaded) = self.watch_and_load().await?;
            let error = match loaded {
                Ok(snapshot) => {
                    // What does not fit together may be half-written: what is left out is left out when that lasts.
                    if !self.is_news(&snapshot.refusals) || timeout_at(began + SETTLE, watch.changed()).await.is_err() {
                        self.remember(None);
                        self.said(&snapshot.refusals);
                        return Ok((snapshot, watch));
                    }
                    continue;
                }
                Err(error) => error,
            };
            let text = error.chain();
            let patience = if self.is_known(&text) { LONGEST_FAILURE } else { SETTLE };
            tracing::debug!(error = %text, "files do not fit together, waiting for the next change");
            if timeout_at(began + patience, watch.changed()).await.is_err() {
                self.remember(Some(text));
                return Err(error);
            }
        }
    }

    async fn watch_and_load(&self) -> Result<(Watch, Result<IdentitySnapshot, SourceError>), SourceError> {
        let files = self.clone();
        let both = detached::run("files", move || {
            let watch = Watch::new(&files.config.files())?;
            Ok::<_, FilesError>((watch, files.load(SystemTime::now())))
        });
        Ok(both.await.map_err(|_| SourceError::Closed)??)
    }

    fn is_known(&self, failure: &str) -> bool {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.failure.as_deref() == Some(failure)
    }

    /// Whether something is left out that was not, or for another reason.
    fn is_news(&self, refusals: &[Refusal]) -> bool {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |refusal: &Refusal| {
            memory.refusals.iter().any(|it| (&it.item, &it.reason) == (&refusal.item, &refusal.reason))
        };
        !refusals.iter().all(known)
    }

    fn said(&self, refusals: &[Refusal]) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).refusals = refusals.to_vec();
    }

    fn remember(&self, failure: Option<String>) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).failure = failure;
    }
}
