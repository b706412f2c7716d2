//! Work that may block for ever: a file system that does not answer, a program on one.

use std::{io, thread};

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own and waits for it without blocking the caller's.
///
/// Not `spawn_blocking`: the runtime waits at its end for what runs there, and a hanging file system must neither hold
/// up the other users of that pool nor the end of the process.
///
/// # Errors
/// When no thread can be started, or `work` panicked.
pub(crate) async fn run<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever waited may have been told to stop.
        let _ = done.send(work());
    })?;
    result.await.map_err(|_| io::Error::other("the thread ended without a result"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_and_panics_are_errors() {
        assert_eq!(run("test", || 1).await.unwrap(), 1);
        assert!(run("test", || -> () { panic!("on purpose") }).await.is_err());
    }
}
