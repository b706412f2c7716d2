//! Start and stop: what must be there before we count as ready, and signals that become one cancellation.

pub mod clock;
mod heartbeat;
mod readiness;
mod secrecy;

use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use heartbeat::{Heartbeat, Question, Responder, heartbeat};
pub use readiness::{Condition, Latch, OPTIONAL, Readiness};
pub use secrecy::keep_memory_private;

/// Why a part of the program ended that was not told to.
#[derive(Debug, Error)]
pub enum PartError {
    /// A task panicked.
    #[error("a task failed; this is a bug, please report it with the log")]
    Failed(#[source] JoinError),
    /// A task returned, because what it follows is gone.
    #[error("a task ended unexpectedly; this is a bug, please report it with the log")]
    Ended,
}

/// Waits for `tasks`, none of which is to end before `stop`. One that does takes the others along by `stop`.
///
/// # Errors
/// [`PartError`] of the task that ended though nobody asked for it; the others have ended too then.
pub async fn together(mut tasks: JoinSet<()>, stop: &CancellationToken) -> Result<(), PartError> {
    let mut failure = None;
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Err(error) => failure = Some(PartError::Failed(error)),
            Ok(()) if !stop.is_cancelled() => failure = failure.or(Some(PartError::Ended)),
            Ok(()) => {}
        }
        if failure.is_some() {
            stop.cancel();
        }
    }
    failure.map_or(Ok(()), Err)
}

/// A token that is cancelled by the first SIGTERM or SIGINT. The second one ends the process at once, for an operator
/// who does not want to wait for the drain; `last` is what is done before.
///
/// # Errors
/// When the operating system does not let signals be watched.
pub fn stop_on_signals(last: fn()) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        for urgent in [false, true] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if urgent {
                tracing::warn!(signal = name, "second signal, ending without a drain");
                last();
                std::process::exit(130);
            }
            tracing::info!(signal = name, "draining; a second signal ends at once");
            token.cancel();
        }
    });
    Ok(stop)
}
