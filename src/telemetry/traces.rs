//! One trace a rotation: from the message of the source to the last acknowledgement.
//!
//! ```text
//!  rotation            kind, trigger, source, spiffe_ids, trust_domains; outcome, pushes, acked, rejected, unanswered
//!    decode            from the arrival of the message until it is a validated state
//!    hold              the pause that the roll-out keeps before the next step
//!    publish           encoding one step and handing it to all streams
//!    push              one resource on one stream, until it is answered: peer, node, variant, name, version, nonce
//! ```
//!
//! The parts do not pass spans to each other. Whoever publishes a state says before it what caused it ([`Traces::publishing`]);
//! the publisher of the server claims that by the identity of the state ([`Traces::claim`]), and tells each step to all streams
//! ([`Traces::step`]). A [`Rotation`] is over when nobody holds it any more: the publisher until its last step, a step
//! until the last stream has looked at it, and a push until it is answered.
//!
//! Nothing of it exists unless a [`Backend`] takes the spans, which needs the feature `otlp` and a configuration.

mod config;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(feature = "otlp")]
mod otlp;
mod rotation;
mod span;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

pub use config::{Config, Endpoint, EndpointError, TraceError};
#[cfg(feature = "otlp")]
pub use otlp::Otlp;
pub use rotation::{Push, Rotation, Verdict};
pub use span::{Attribute, Backend, Context, Open, Span, Value};

use crate::{
    identity::{Availability, IdentitySnapshot, JwtSnapshot},
    xds::Version,
};

/// Causes that nobody has claimed. One is enough unless the source is faster than the publisher.
const ANNOUNCED: usize = 16;
/// Steps that a stream may lag behind. One that its client does not let on further is not waited for.
const STEPS: usize = 16;
/// Names of identities and trust domains on one span.
const LISTED: usize = 16;

/// What made a state appear.
#[derive(Clone, Debug)]
pub struct Cause {
    /// `message` of a source, `failover` to another one, a `failure` or a `timer` that takes something out of service.
    pub trigger: &'static str,
    /// The name of the source that is in service, if it is known.
    pub source: Option<Arc<str>>,
    /// When the message came.
    pub received: SystemTime,
}

/// Where rotations are traced; by default nowhere. Clones share everything.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Ledger>>);

struct Ledger {
    backend: Box<dyn Backend>,
    announced: Mutex<VecDeque<Announced>>,
    steps: broadcast::Sender<Arc<Step>>,
    numbered: AtomicU64,
    /// Pushes that are waited for, of all rotations.
    waiting: Arc<AtomicUsize>,
}

struct Announced {
    subject: Subject,
    cause: Cause,
    decoded: SystemTime,
}

/// A state, by its place in memory, which a weak reference keeps from being reused.
enum Subject {
    X509(Weak<IdentitySnapshot>),
    Denied(Weak<str>),
    Jwt(Weak<JwtSnapshot>),
}

/// What one publication changed, for streams.
#[derive(Debug)]
pub struct Step {
    /// Numbers grow with time.
    pub number: u64,
    /// Whose step it is.
    pub rotation: Rotation,
    /// The contents that are new with it.
    pub versions: HashSet<Version>,
}

impl Traces {
    /// Sends the spans of rotations to `backend`.
    #[must_use]
    pub fn to(backend: impl Backend + 'static) -> Self {
        Self(Some(Arc::new(Ledger {
            backend: Box::new(backend),
            announced: Mutex::default(),
            steps: broadcast::Sender::new(STEPS),
            numbered: AtomicU64::new(0),
            waiting: Arc::default(),
        })))
    }

    /// Traces as they are configured. Needs a tokio runtime, and does not wait for the receiver.
    ///
    /// # Errors
    /// [`TraceError`]; that nobody receives them is none.
    pub fn configured(config: Option<&Config>) -> Result<Self, TraceError> {
        match config {
            None => Ok(Self::default()),
            #[cfg(feature = "otlp")]
            Some(config) => Ok(Self::to(Otlp::new(config)?)),
            #[cfg(not(feature = "otlp"))]
            Some(_) => Err(TraceError::NotBuilt),
        }
    }

    /// Whether anything is traced.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Says what caused `state`, and publishes it. What turns out to be no news is forgotten.
    pub fn publishing(&self, state: &Availability, cause: impl FnOnce() -> Cause, publish: impl FnOnce() -> bool) {
        self.announced(|| Subject::of(state), cause, publish);
    }

    /// The same for tokens.
    pub fn publishing_tokens(
        &self,
        state: &Arc<JwtSnapshot>,
        cause: impl FnOnce() -> Cause,
        publish: impl FnOnce() -> bool,
    ) {
        self.announced(|| Some(Subject::Jwt(Arc::downgrade(state))), cause, publish);
    }

    fn announced(
        &self,
        subject: impl Fn() -> Option<Subject>,
        cause: impl FnOnce() -> Cause,
        publish: impl FnOnce() -> bool,
    ) {
        let Some((ledger, announced)) = self.0.as_ref().and_then(|ledger| Some((ledger, subject()?))) else {
            publish();
            return;
        };
        {
            // Before the publisher can see the state.
            let mut waiting = ledger.lock();
            if waiting.len() == ANNOUNCED {
                waiting.pop_front();
            }
            waiting.push_back(Announced { subject: announced, cause: cause(), decoded: SystemTime::now() });
        }
        if !publish()
            && let Some(unchanged) = subject()
        {
            ledger.lock().retain(|other| !other.subject.is(&unchanged));
        }
    }

    /// The rotation that `state` begins; `None` if it began earlier, or is not traced. Earlier states that nobody claimed
    /// were replaced before anybody saw them: their traces say so, and are over.
    #[must_use]
    pub fn claim(&self, state: &Availability) -> Option<Rotation> {
        let (ids, domains) = match state {
            Availability::Ready(snapshot) => (
                list(snapshot.svids.iter().map(|svid| svid.id.to_string())),
                list(snapshot.bundles.keys().map(ToString::to_string)),
            ),
            Availability::Pending | Availability::Denied(_) => (Vec::new(), Vec::new()),
        };
        let attributes = || [("spiffe_ids", Value::Texts(ids)), ("trust_domains", Value::Texts(domains))];
        self.claimed(&Subject::of(state)?, "x509", attributes)
    }

    /// The same for tokens.
    #[must_use]
    pub fn claim_tokens(&self, state: &Arc<JwtSnapshot>) -> Option<Rotation> {
        let audiences = || {
            let audiences = state.svids.keys().flat_map(|request| request.audience.iter().cloned());
            [
                ("audiences", Value::Texts(list(audiences))),
                ("trust_domains", Value::Texts(list(state.bundles.keys().map(ToString::to_string)))),
            ]
        };
        self.claimed(&Subject::Jwt(Arc::downgrade(state)), "jwt", audiences)
    }

    fn claimed(
        &self,
        subject: &Subject,
        kind: &'static str,
        attributes: impl FnOnce() -> [Attribute; 2],
    ) -> Option<Rotation> {
        let ledger = self.0.as_ref()?;
        let (mut replaced, mut found) = (Vec::new(), None);
        {
            let mut waiting = ledger.lock();
            let position = waiting.iter().position(|announced| announced.subject.is(subject))?;
            let (before, after): (Vec<_>, Vec<_>) = waiting.drain(..).enumerate().partition(|(at, _)| *at <= position);
            waiting.extend(after.into_iter().map(|(_, announced)| announced));
            for (at, announced) in before {
                if at == position {
                    found = Some(announced);
                } else if announced.subject.is_of_kind(subject) {
                    replaced.push(announced);
                } else {
                    waiting.push_back(announced);
                }
            }
        }
        let announced = found?;
        let links = replaced.into_iter().filter_map(|announced| {
            let rotation = ledger.begin(announced, kind, [].into(), Vec::new())?;
            rotation.supersede();
            Some(rotation.context())
        });
        let links = links.collect();
        ledger.begin(announced, kind, attributes().into(), links)
    }

    /// Tells all streams, before they are told the news itself, that a step of `rotation` is on its way. Returns its number.
    pub fn step(&self, rotation: &Rotation, versions: HashSet<Version>) -> u64 {
        let Some(ledger) = &self.0 else { return 0 };
        let number = ledger.numbered.fetch_add(1, Ordering::Relaxed) + 1;
        // Without a stream nobody needs to be waited for.
        let _ = ledger.steps.send(Arc::new(Step { number, rotation: rotation.clone(), versions }));
        number
    }

    /// How many streams a step will be told to.
    #[must_use]
    pub fn followers(&self) -> usize {
        self.0.as_ref().map_or(0, |ledger| ledger.steps.receiver_count())
    }

    /// Every step from now on. What is received must be dropped once it has been dealt with: a rotation waits for it.
    #[must_use]
    pub fn follow(&self) -> Option<broadcast::Receiver<Arc<Step>>> {
        self.0.as_ref().map(|ledger| ledger.steps.subscribe())
    }

    /// Sends what is left, for as long as that may take.
    pub async fn shutdown(self, patience: Duration) {
        if let Some(ledger) = self.0 {
            // It waits for a thread; a runtime that is going away already has none left to wait in.
            let _ = tokio::task::spawn_blocking(move || ledger.backend.shutdown(patience)).await;
        }
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Announced>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        &self,
        announced: Announced,
        kind: &'static str,
        mut attributes: Vec<Attribute>,
        links: Vec<Context>,
    ) -> Option<Rotation> {
        let Announced { cause, decoded, .. } = announced;
        let open = self.backend.begin("rotation", cause.received, links)?;
        attributes.push(("kind", kind.into()));
        attributes.push(("trigger", cause.trigger.into()));
        attributes.extend(cause.source.map(|source| ("source", Value::Shared(source))));
        let rotation = Rotation::new(open, cause.received, attributes, self.waiting.clone());
        rotation.child(Span::new("decode", cause.received, decoded));
        Some(rotation)
    }
}

impl Subject {
    fn of(state: &Availability) -> Option<Self> {
        match state {
            Availability::Pending => None,
            Availability::Ready(snapshot) => Some(Self::X509(Arc::downgrade(snapshot))),
            Availability::Denied(reason) => Some(Self::Denied(Arc::downgrade(reason))),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::X509(a), Self::X509(b)) => Weak::ptr_eq(a, b),
            (Self::Denied(a), Self::Denied(b)) => Weak::ptr_eq(a, b),
            (Self::Jwt(a), Self::Jwt(b)) => Weak::ptr_eq(a, b),
            _ => false,
        }
    }

    fn is_of_kind(&self, other: &Self) -> bool {
        matches!(self, Self::Jwt(_)) == matches!(other, Self::Jwt(_))
    }
}

/// What `future` gives, and when the last piece of work on it began. For a session that is when its message arrived:
/// decoding happens in the same piece of work.
pub async fn timed<F: Future>(future: F) -> (F::Output, SystemTime) {
    let mut future = pin!(future);
    poll_fn(|context| {
        let began = SystemTime::now();
        future.as_mut().poll(context).map(|output| (output, began))
    })
    .await
}

fn list(names: impl Iterator<Item = String>) -> Vec<String> {
    names.take(LISTED).collect()
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traces").field(&self.0.as_ref().map(|ledger| &ledger.backend)).finish()
    }
}
