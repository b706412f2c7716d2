//! Lines on their way out: a bounded queue in memory, and a thread of its own that writes.
//!
//! Whoever logs never waits: what does not fit, because nobody reads what was written before, is dropped and counted, and
//! that is said as soon as somebody reads again.

use std::{
    fmt,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait; as many may be on their way to the reader.
const BOUND: usize = 1 << 20;
/// A line is hardly shorter: with less room than this, none is formatted.
const SHORTEST: usize = 128;
/// Buffers that grew beyond this are given back once they are empty.
const KEPT: usize = 64 << 10;

/// Takes lines for one output. Clones feed the same one.
#[derive(Clone)]
pub struct Queue(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
    /// Everything has been written.
    idle: Condvar,
    dropped: AtomicU64,
    bound: usize,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    /// When the thread is to call its `due`.
    alarm: Option<Instant>,
}

/// What the thread does beside writing.
pub(super) trait Attend: Send + 'static {
    /// So many lines were dropped, and somebody reads again.
    fn dropped(&mut self, lines: u64);

    /// The time of [`Queue::call_at`] has come; tells the next one.
    fn due(&mut self) -> Option<Instant>;
}

/// Nothing beside writing.
impl Attend for () {
    fn dropped(&mut self, _: u64) {}

    fn due(&mut self) -> Option<Instant> {
        None
    }
}

impl Queue {
    /// A queue in front of `output`, which is given a file descriptor of its own: a lock that others take as well, such as
    /// that of [`io::Stderr`], would make them wait.
    ///
    /// # Errors
    /// When the operating system has no thread or file descriptor left.
    pub fn start(name: &str, output: impl AsFd) -> io::Result<Self> {
        Self::attended(name, output, ())
    }

    pub(super) fn attended(name: &str, output: impl AsFd, attend: impl Attend) -> io::Result<Self> {
        let queue = Self::new(BOUND);
        queue.run(name, Output(output.as_fd().try_clone_to_owned()?), attend)?;
        Ok(queue)
    }

    fn new(bound: usize) -> Self {
        let inner = Inner {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            dropped: AtomicU64::new(0),
            bound,
        };
        Self(Arc::new(inner))
    }

    fn run(&self, name: &str, mut output: impl Write + Send + 'static, mut attend: impl Attend) -> io::Result<()> {
        let queue = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || queue.0.work(&mut output, &mut attend)).map(drop)
    }

    /// Takes `text`, or drops and counts it.
    pub fn put(&self, text: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + text.len() > self.0.bound {
            drop(state);
            return self.count_dropped(text);
        }
        state.waiting.extend_from_slice(text);
        drop(state);
        self.0.work.notify_one();
    }

    /// Whether a line has room. One that has none is counted, and need not be formatted.
    pub(super) fn has_room(&self) -> bool {
        let room = self.0.lock().waiting.len() + SHORTEST <= self.0.bound;
        if !room {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Has [`Attend::due`] called at `at`, or earlier if that is wanted already.
    pub(super) fn call_at(&self, at: Instant) {
        self.0.call_at(at);
    }

    /// Lines that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything has been written, for `bound` at most. Says whether it has.
    pub fn flush(&self, bound: Duration) -> bool {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.0.idle.wait_timeout_while(self.0.lock(), bound, busy);
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn count_dropped(&self, text: &[u8]) {
        self.0.dropped.fetch_add(lines(text), Ordering::Relaxed);
    }
}

impl Inner {
    /// Nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call_at(&self, at: Instant) {
        let mut state = self.lock();
        if state.alarm.is_none_or(|alarm| at < alarm) {
            state.alarm = Some(at);
            drop(state);
            self.work.notify_one();
        }
    }

    fn work(&self, output: &mut impl Write, attend: &mut impl Attend) {
        let (mut batch, mut said) = (Vec::new(), 0);
        loop {
            let due = self.next(&mut batch);
            if due && let Some(next) = attend.due() {
                self.call_at(next);
            }
            if batch.is_empty() {
                continue;
            }
            let written = output.write_all(&batch);
            if written.is_err() {
                // The reader is gone, or the disk is full.
                self.dropped.fetch_add(lines(&batch), Ordering::Relaxed);
            } else {
                let dropped = self.dropped.load(Ordering::Relaxed);
                if dropped > said {
                    attend.dropped(dropped - said);
                    said = dropped;
                }
            }
            batch.clear();
            batch.shrink_to(KEPT);
        }
    }

    /// Waits for something to write, which is moved to `batch`, or until the alarm: then it returns true.
    fn next(&self, batch: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        state.writing = false;
        loop {
            let due = state.alarm.is_some_and(|alarm| alarm <= Instant::now());
            if due {
                state.alarm = None;
            }
            if !state.waiting.is_empty() {
                state.writing = true;
                std::mem::swap(&mut state.waiting, batch);
                return due;
            }
            self.idle.notify_all();
            if due {
                return true;
            }
            let left = state.alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) => self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Lines in a text that consists of whole ones.
fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count().max(1) as u64
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

/// The formatter hands over each line as a whole.
impl Write for &Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// A file descriptor that may have been made non-blocking by another process that shares it.
struct Output(OwnedFd);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(&self.0, bytes) {
                Err(nix::Error::EAGAIN) => {
                    let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut ready, PollTimeout::NONE) {
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(nix::Error::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// An output that takes one batch each time it is allowed to.
    struct Gate {
        allowed: mpsc::Receiver<()>,
        written: mpsc::Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8(bytes.to_vec()).unwrap()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Told(mpsc::Sender<u64>);

    impl Attend for Told {
        fn dropped(&mut self, lines: u64) {
            self.0.send(lines).unwrap();
        }

        fn due(&mut self) -> Option<Instant> {
            self.0.send(0).unwrap();
            None
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_dropped_is_counted_and_said() {
        let (allow, allowed) = mpsc::channel();
        let (written, output) = mpsc::channel();
        let (told, dropped) = mpsc::channel();
        let queue = Queue::new(300);
        queue.run("test", Gate { allowed, written }, Told(told)).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        // As many as wait may be with the thread already.
        let put = 100;
        for _ in 0..put {
            queue.put(line.as_bytes());
        }
        assert!((put - 6..=put - 3).contains(&queue.dropped()), "{}", queue.dropped());
        assert!(!queue.has_room());
        assert!(!queue.flush(Duration::from_millis(1)), "nobody has read");
        let counted = queue.dropped();
        let mut read = 0;
        while read < put - counted + 1 {
            allow.send(()).unwrap();
            read += lines(output.recv_timeout(LONG).unwrap().as_bytes());
        }
        assert_eq!(read, put - counted + 1);
        assert_eq!(dropped.recv_timeout(LONG).unwrap(), counted);
        assert!(queue.flush(LONG));
        queue.call_at(Instant::now());
        assert_eq!(dropped.recv_timeout(LONG).unwrap(), 0, "the alarm did not ring");
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = Queue::start("test", &writer).unwrap();
        queue.put(b"one\ntwo\n");
        assert!(queue.flush(LONG));
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_pipe_that_does_not_block_is_written_to_when_it_can_be() {
        use std::io::Read as _;
        let (mut reader, writer) = io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let queue = Queue::start("test", &writer).unwrap();
        let text = vec![b'\n'; 500_000];
        queue.put(&text);
        assert!(!queue.flush(Duration::from_millis(1)), "the pipe took everything");
        let mut read = vec![0; text.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(queue.flush(LONG));
        assert_eq!((read, queue.dropped()), (text, 0));
    }
}
