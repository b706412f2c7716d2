//! Start and stop: what must be there before we count as ready, and signals that become one cancellation.

mod readiness;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use readiness::{Condition, Latch, Readiness};

/// A token that is cancelled by the first SIGTERM or SIGINT. The second one ends the process at once, for an operator
/// who does not want to wait for the drain.
///
/// # Errors
/// When the operating system does not let signals be watched.
pub fn stop_on_signals() -> std::io::Result<CancellationToken> {
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
                std::process::exit(130);
            }
            tracing::info!(signal = name, "draining; a second signal ends at once");
            token.cancel();
        }
    });
    Ok(stop)
}
