//! Session after session about the keys.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep};

use super::News;
use crate::{
    identity::Workload,
    source::{ErrorKind, JwtSource, SourceError, backoff::Backoff, supervisor::MISCONFIGURED_RETRY},
};

/// Where the series stands.
enum Step {
    Open,
    Session { messages: BoxStream<'static, News>, opened: Instant, delivered: bool },
    Wait(Duration),
}

/// Session after session, with the waits of the supervisor between them. Never ends.
pub(in crate::source::jwt) fn follow(
    source: Arc<dyn JwtSource>,
    workload: Workload,
    backoff: Backoff,
) -> BoxStream<'static, News> {
    let longest = backoff.config().max;
    let start = (source, workload, backoff, Step::Open, false);
    let series = stream::unfold(start, move |(source, workload, mut backoff, mut step, proven)| async move {
        loop {
            step = match step {
                Step::Open => {
                    let messages = source.watch_keys(&workload);
                    Step::Session { messages, opened: Instant::now(), delivered: false }
                }
                Step::Wait(delay) => {
                    sleep(delay).await;
                    Step::Open
                }
                Step::Session { mut messages, opened, delivered } => {
                    match messages.next().await.unwrap_or(Err(SourceError::Closed)) {
                        Ok(keys) => {
                            let step = Step::Session { messages, opened, delivered: true };
                            return Some((Ok(keys), (source, workload, backoff, step, true)));
                        }
                        Err(error) => {
                            let lasted = opened.elapsed();
                            if delivered && lasted >= longest {
                                backoff.reset();
                            }
                            let delay = match error.kind() {
                                // An agent that restarts may refuse for a moment what it gave before.
                                ErrorKind::Misconfigured if !proven => MISCONFIGURED_RETRY,
                                // The delay counts from the start of the session: one that lasted is followed at once.
                                _ => backoff.next_delay().saturating_sub(lasted),
                            };
                            return Some((Err(error), (source, workload, backoff, Step::Wait(delay), proven)));
                        }
                    }
                }
            };
        }
    });
    series.boxed()
}
