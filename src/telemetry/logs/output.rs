//! The one way to standard error once the process logs: whoever writes there otherwise waits for the reader.

use std::{backtrace::Backtrace, backtrace::BacktraceStatus, panic, sync::OnceLock, thread, time::Duration};

use super::Queue;

/// How long the end of the process waits for the reader of its last lines.
const LAST: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<Queue> = OnceLock::new();

/// From now on panics are lines of the log, and [`print`] and [`flush`] are about this queue.
pub(super) fn install(queue: Queue) {
    // Only one log can be initialized.
    let _ = QUEUE.set(queue);
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let words = payload.downcast_ref::<&str>().copied();
        let reason = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let (current, backtrace) = (thread::current(), Backtrace::capture());
        let thread = current.name().unwrap_or_default();
        let trace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(
            thread,
            location,
            reason,
            backtrace = trace,
            "panicked; this is a bug, please report it with the log"
        );
        // The process may end with this thread, without passing by anywhere else.
        if thread == "main" {
            flush();
        }
    }));
}

/// Writes `text` to standard error after the lines before it. `false` if the process does not log, and the caller may do so
/// itself.
pub fn print(text: &str) -> bool {
    let queue = QUEUE.get();
    if let Some(queue) = queue {
        queue.put(text.as_bytes());
    }
    queue.is_some()
}

/// Waits for the last lines to be read, for half a second at most. Call it before the process ends.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST);
    }
}
