//! Which events become lines: none that would only be dropped, and of one kind so many that they can be read.

use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

use super::{
    limit::{Limits, Line, OWN, PEER, Summary},
    queue::{Attend, Queue},
};

/// Who causes an event, or what it is about: the first of these fields that it has.
const SUBJECTS: [&str; 15] = [
    "peer",
    "client",
    "node",
    "listener",
    "source",
    "endpoint",
    "spiffe_id",
    "trust_domain",
    "subject",
    "hook",
    "directory",
    "path",
    "program",
    "name",
    "log.target",
];
/// The first of them name somebody who is not us.
const PEERS: usize = 4;
/// Events of this target are about the log itself.
const OURSELVES: &str = "spiffe_sds::telemetry::logs";
/// Watches directories, and tells of each event in them. Where the log is written to a watched directory, each line would
/// cause the next one.
const WATCHER: &str = "notify";

/// Decides for each event. Clones share what they know.
#[derive(Clone, Default)]
pub(super) struct Admission {
    limits: Arc<Mutex<Limits<Identifier>>>,
    repeated: Arc<AtomicU64>,
    /// Where the lines go; `None` where that is not bounded.
    queue: Option<Queue>,
}

impl Admission {
    /// The same for lines that go there.
    pub(super) fn before(self, queue: Queue) -> Self {
        Self { queue: Some(queue), ..self }
    }

    /// What says at the output what was left out.
    pub(super) fn attendant(&self) -> Attendant {
        Attendant(self.limits.clone())
    }

    /// Lines that were left out because there were too many of their kind.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// Lines that were left out because nobody read those before them.
    pub(super) fn unread(&self) -> u64 {
        self.queue.as_ref().map(Queue::dropped).unwrap_or_default()
    }

    fn admit(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == OURSELVES {
            return true;
        }
        let may_watch = metadata.target() == "log" || metadata.target().starts_with(WATCHER);
        if *metadata.level() > Level::INFO && !may_watch {
            return true;
        }
        let mut seen = Seen::default();
        event.record(&mut seen);
        if *metadata.level() > Level::INFO
            && !metadata.target().starts_with(WATCHER)
            && !seen.subject.starts_with(WATCHER)
        {
            return true;
        }
        let theirs = seen.rank < PEERS || !metadata.target().starts_with("spiffe_sds");
        let line = Line {
            kind: metadata.callsite(),
            allowance: if theirs { PEER } else { OWN },
            level: *metadata.level(),
            message: &seen.message,
            subject: &seen.subject,
            digest: seen.digest.finish(),
        };
        let admitted = lock(&self.limits).admit(line, Instant::now());
        if let Err(due) = admitted {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            if let Some(queue) = &self.queue {
                queue.call_at(due);
            }
        }
        admitted.is_ok()
    }
}

impl<S: Subscriber> Filter<S> for Admission {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.queue.as_ref().is_none_or(Queue::has_room) && self.admit(event)
    }
}

/// Nothing panics while it is held.
fn lock(limits: &Mutex<Limits<Identifier>>) -> MutexGuard<'_, Limits<Identifier>> {
    limits.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an event says.
struct Seen {
    message: String,
    subject: String,
    /// Of the subject in [`SUBJECTS`].
    rank: usize,
    digest: DefaultHasher,
    value: String,
}

impl Default for Seen {
    fn default() -> Self {
        let text = String::new;
        Self { message: text(), subject: text(), rank: usize::MAX, digest: DefaultHasher::new(), value: text() }
    }
}

impl Seen {
    fn take(&mut self, name: &str) {
        (name, &self.value).hash(&mut self.digest);
        let rank = SUBJECTS.iter().position(|subject| *subject == name);
        if name == "message" {
            std::mem::swap(&mut self.message, &mut self.value);
        } else if let Some(rank) = rank.filter(|rank| *rank < self.rank) {
            self.rank = rank;
            std::mem::swap(&mut self.subject, &mut self.value);
        }
        self.value.clear();
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        // Writing to a string does not fail.
        let _ = write!(self.value, "{value:?}");
        self.take(field.name());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.value.push_str(value);
        self.take(field.name());
    }
}

/// Says what was left out, from the thread that writes: it may log, and whoever decides about an event must not.
pub(super) struct Attendant(Arc<Mutex<Limits<Identifier>>>);

impl Attend for Attendant {
    fn dropped(&mut self, lines: u64) {
        tracing::warn!(target: OURSELVES, lines, "log lines were dropped, nobody read them fast enough");
    }

    fn due(&mut self) -> Option<Instant> {
        let (summaries, next) = lock(&self.0).due(Instant::now());
        summaries.iter().for_each(say);
        next
    }
}

fn say(Summary { level, message, subject, count, seconds }: &Summary) {
    match *level {
        Level::ERROR => {
            tracing::error!(target: OURSELVES, of = %message, about = %subject, count, seconds, "more of the same was not logged");
        }
        Level::WARN => {
            tracing::warn!(target: OURSELVES, of = %message, about = %subject, count, seconds, "more of the same was not logged");
        }
        _ => {
            tracing::info!(target: OURSELVES, of = %message, about = %subject, count, seconds, "more of the same was not logged")
        }
    }
}
