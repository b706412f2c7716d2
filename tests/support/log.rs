//! What a test logs. One subscriber serves the whole process, so that no test decides for another what is worth logging;
//! each thread has its lines to itself. A test on a runtime of one thread has them all.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::Once,
};

use tracing::Level;
use tracing_subscriber::{
    filter::dynamic_filter_fn,
    fmt::{self, MakeWriter},
    layer::{Layer as _, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

thread_local! {
    static WANTED: Cell<Option<Level>> = const { Cell::new(None) };
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this thread has logged.
pub struct Log(());

/// The log of this thread from here on, up to this level.
pub fn lines(level: Level) -> Log {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let wanted = |metadata: &tracing::Metadata<'_>| WANTED.get().is_some_and(|most| *metadata.level() <= most);
        let layer = fmt::layer().with_writer(Writer).with_ansi(false);
        let filter = dynamic_filter_fn(move |metadata, _| wanted(metadata));
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    });
    WANTED.set(Some(level));
    Log(())
}

impl Log {
    pub fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8_lossy(lines).into_owned())
    }

    /// The warnings that hold this.
    pub fn about(&self, words: &str) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| line.contains("WARN") && line.contains(words)).map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy)]
struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}
