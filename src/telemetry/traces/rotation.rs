//! One rotation that is under way.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, task::AbortHandle, time::sleep};

use super::{Attribute, Context, Open, Span, Value};
use crate::xds::{ResourceName, Version};

/// A client that has not answered by then is not waited for: the trace says which it was.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pushes that are waited for, of all rotations. Further ones are counted, and not traced.
const WAITING: usize = 32_768;

/// A rotation that is over when its last clone is dropped, and at the latest after five minutes.
#[derive(Clone)]
pub struct Rotation(Arc<Inner>);

struct Inner {
    context: Context,
    state: Mutex<State>,
    waiting: Arc<AtomicUsize>,
    deadline: OnceLock<AbortHandle>,
}

struct State {
    /// `None` once it is over.
    open: Option<Box<dyn Open>>,
    attributes: Vec<Attribute>,
    begun: SystemTime,
    /// The end of its last child so far.
    last: SystemTime,
    pushes: BTreeMap<u64, Push>,
    next: u64,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    acked: usize,
    rejected: usize,
    unanswered: usize,
    untraced: usize,
    superseded: bool,
}

/// A resource that was handed to a connection.
#[derive(Clone, Debug)]
pub struct Push {
    /// What all pushes of its stream have in common.
    pub stream: Arc<[Attribute]>,
    /// What kind of resource.
    pub type_url: &'static str,
    /// Its name.
    pub name: ResourceName,
    /// Its version.
    pub version: Version,
    /// What the client answers with.
    pub nonce: Box<str>,
    /// Bytes on the wire.
    pub bytes: usize,
    /// When.
    pub at: SystemTime,
    /// Other rotations that it completes.
    pub links: Vec<Context>,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The client took it.
    Acked,
    /// The client refused it, in its own words.
    Rejected(&'a str),
    /// It will not be answered any more, for this reason.
    Unanswered(&'static str),
}

impl Rotation {
    pub(super) fn new(
        open: Box<dyn Open>,
        begun: SystemTime,
        attributes: Vec<Attribute>,
        waiting: Arc<AtomicUsize>,
    ) -> Self {
        let state = State {
            attributes,
            begun,
            last: begun,
            pushes: BTreeMap::new(),
            next: 0,
            tally: Tally::default(),
            open: None,
        };
        let inner = Inner { context: open.context(), state: Mutex::new(state), waiting, deadline: OnceLock::new() };
        inner.lock().open = Some(open);
        let rotation = Self(Arc::new(inner));
        if let Ok(runtime) = Handle::try_current() {
            let guard = runtime.spawn(give_up(Arc::downgrade(&rotation.0)));
            let _ = rotation.0.deadline.set(guard.abort_handle());
        }
        rotation
    }

    /// The root of its trace.
    #[must_use]
    pub fn context(&self) -> Context {
        self.0.context
    }

    /// A part of it is over.
    pub fn child(&self, span: Span) {
        self.0.lock().child(span);
    }

    /// A newer state has taken its place before its last step.
    pub fn supersede(&self) {
        self.0.lock().tally.superseded = true;
    }

    /// Waits for the answer to `push`. `None` when too much is waited for already, or it is over.
    #[must_use]
    pub fn pushed(&self, push: Push) -> Option<u64> {
        let mut state = self.0.lock();
        state.open.as_ref()?;
        if self.0.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.0.waiting.fetch_sub(1, Ordering::Relaxed);
            state.tally.untraced += 1;
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.pushes.insert(number, push);
        Some(number)
    }

    /// The push with this number has been answered.
    pub fn answered(&self, number: u64, verdict: Verdict<'_>, at: SystemTime) {
        self.0.lock().answered(&self.0.waiting, number, verdict, at);
    }

    /// A push of another rotation that completes this one too has been answered.
    pub fn completed(&self, at: SystemTime) {
        let mut state = self.0.lock();
        state.last = state.last.max(at);
    }

    /// Ends it, whatever is still waited for.
    pub(super) fn give_up(&self, at: SystemTime) {
        self.0.close(at, Some("timeout"));
    }
}

/// Ends a rotation that somebody still holds after a long time.
async fn give_up(rotation: Weak<Inner>) {
    sleep(PATIENCE).await;
    if let Some(inner) = rotation.upgrade() {
        Rotation(inner).give_up(SystemTime::now());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, at: SystemTime, outcome: Option<&'static str>) {
        let mut state = self.lock();
        let numbers: Vec<_> = state.pushes.keys().copied().collect();
        for number in numbers {
            state.answered(&self.waiting, number, Verdict::Unanswered("no answer in five minutes"), at);
        }
        let Some(open) = state.open.take() else { return };
        let State { begun, last, .. } = *state;
        let Tally { acked, rejected, unanswered, untraced, superseded } = std::mem::take(&mut state.tally);
        let outcome = outcome.unwrap_or(match (superseded, rejected, unanswered) {
            (true, ..) => "superseded",
            (_, 0, 0) => "complete",
            (_, 0, _) => "unanswered",
            _ => "rejected",
        });
        let mut attributes = std::mem::take(&mut state.attributes);
        drop(state);
        attributes.push(("outcome", outcome.into()));
        let pushes = acked + rejected + unanswered + untraced;
        let counts = [("pushes", pushes), ("acked", acked), ("rejected", rejected), ("unanswered", unanswered)];
        attributes.extend(counts.map(|(name, count)| (name, Value::from(count))));
        if untraced > 0 {
            attributes.push(("untraced", untraced.into()));
        }
        let error = (rejected > 0).then(|| format!("{rejected} of {pushes} pushes were rejected"));
        let end = if outcome == "timeout" { at } else { last };
        let took_ms = end.duration_since(begun).unwrap_or_default().as_millis() as u64;
        let trace_id = format_args!("{:032x}", self.context.trace);
        tracing::debug!(%trace_id, outcome, pushes, acked, rejected, unanswered, took_ms, "rotation is over");
        open.end(end, attributes, error);
    }
}

impl State {
    fn child(&mut self, span: Span) {
        self.last = self.last.max(span.end);
        if let Some(open) = &self.open {
            open.child(span);
        }
    }

    fn answered(&mut self, waiting: &AtomicUsize, number: u64, verdict: Verdict<'_>, at: SystemTime) {
        let Some(push) = self.pushes.remove(&number) else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        let mut span = Span { links: push.links, ..Span::new("push", push.at, at) };
        span.attributes = push.stream.to_vec();
        span.attributes.extend([
            ("type_url", push.type_url.into()),
            // As it is shown in logs: one bounded line, whatever a client calls it.
            ("name", push.name.to_string().into()),
            ("version", push.version.to_string().into()),
            ("nonce", String::from(push.nonce).into()),
            ("bytes", push.bytes.into()),
        ]);
        let answer = match verdict {
            Verdict::Acked => {
                self.tally.acked += 1;
                "ack"
            }
            Verdict::Rejected(detail) => {
                self.tally.rejected += 1;
                span.error = Some(detail.to_owned());
                "nack"
            }
            Verdict::Unanswered(reason) => {
                self.tally.unanswered += 1;
                span.error = Some(reason.to_owned());
                "none"
            }
        };
        span.attributes.push(("answer", answer.into()));
        self.child(span);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(deadline) = self.deadline.get() {
            deadline.abort();
        }
        self.close(SystemTime::now(), None);
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotation({:032x})", self.0.context.trace)
    }
}
