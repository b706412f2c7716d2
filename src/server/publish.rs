//! Turns what the store holds into what streams send: one task a workload, however many streams there are.

mod encoded;
mod feed;
mod pace;
mod traced;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use encoded::Encoded;
pub(super) use feed::{Arrival, Feed, Feeds};
use pace::Pace;
use traced::Traced;

use super::live::Live;
use crate::{
    identity::{Availability, FileSnapshot, IdentitySnapshot, JwtSnapshot},
    lifecycle::{Heartbeat, Responder, heartbeat},
    secret::{self, Change, Flavour, Note, Part, SecretCatalog},
    telemetry::{metrics::RolloutMetrics, traces::Traces},
};

/// Publishes one workload's resources in the rollout order.
#[derive(Debug)]
pub(super) struct Publisher {
    catalog: SecretCatalog,
    pace: Pace,
    spiffe: watch::Sender<Feed>,
    plain: watch::Sender<Feed>,
    /// What streams have been given last, `None` before anything and after a denial.
    published: Option<Arc<IdentitySnapshot>>,
    /// The same encoded, `None` before anything.
    encoded: Option<Encoded>,
    tokens: Part,
    files: Part,
    /// When the oldest update came that streams have not been given in full; `None` when they have.
    arrived: Option<Instant>,
    /// The step at hand had to wait for its turn, or still does.
    held: bool,
    metrics: RolloutMetrics,
    traced: Traced,
    heartbeat: (Heartbeat, Responder),
    /// What the log has been told about it.
    noted: Vec<Note>,
}

/// What the publisher waits for next.
enum Next {
    /// The rest of a rollout, not before this moment.
    Stage(Instant),
    /// The first certificate to expire.
    Expiry(Instant),
    Nothing,
}

impl Publisher {
    /// A publisher and the feeds that it fills. Until something is known they withhold everything.
    #[must_use]
    pub(super) fn new(catalog: SecretCatalog, config: &secret::Config) -> (Self, Feeds) {
        let arrival = Arrival { since: Instant::now(), held: false, step: 0 };
        let files = catalog.files(&FileSnapshot::default(), None);
        let pending = || Feed::Live(Arc::new(catalog.pending(&files)), arrival);
        let (spiffe, spiffe_feed) = watch::channel(pending());
        let (plain, plain_feed) = watch::channel(pending());
        let tokens = catalog.tokens(&JwtSnapshot::default(), SystemTime::UNIX_EPOCH, None);
        let publisher = Self {
            catalog,
            pace: Pace::new(config.rollout_hold),
            spiffe,
            plain,
            published: None,
            encoded: None,
            tokens,
            files,
            heartbeat: heartbeat("publisher"),
            noted: Vec::new(),
            arrived: None,
            held: false,
            metrics: RolloutMetrics::default(),
            traced: Traced::default(),
        };
        (publisher, Feeds { spiffe: spiffe_feed, plain: plain_feed })
    }

    /// What is counted about publishing.
    #[must_use]
    pub(super) fn metrics(&self) -> &RolloutMetrics {
        &self.metrics
    }

    /// Traces the rotations that it publishes.
    pub(super) fn trace(&mut self, traces: Traces) {
        self.traced = Traced::by(traces);
    }

    /// Asks this publisher for a sign of life.
    #[must_use]
    pub(super) fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.0.clone()
    }

    /// Follows `states`, `tokens` and `files` until `stop`, then tells every stream that the server is going away.
    pub(super) async fn run(
        mut self,
        mut states: watch::Receiver<Availability>,
        mut tokens: watch::Receiver<Arc<JwtSnapshot>>,
        mut files: watch::Receiver<Arc<FileSnapshot>>,
        mut settings: watch::Receiver<Arc<Live>>,
        stop: CancellationToken,
    ) {
        states.mark_changed();
        tokens.mark_changed();
        // A server that was given no tokens has nothing to follow.
        let mut following = true;
        let mut tuned = None;
        let mut next = Next::Nothing;
        loop {
            let wake = match next {
                Next::Stage(at) | Next::Expiry(at) => Some(at),
                Next::Nothing => None,
            };
            // A rollout in progress is not disturbed by newer states: they are taken up at its next step.
            let holding = matches!(next, Next::Stage(_));
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.heartbeat.1.answer() => continue,
                Ok(()) = settings.changed() => {
                    let live = settings.borrow_and_update().clone();
                    // A reload that changes nothing here must not wake every stream.
                    if tuned.as_ref().is_none_or(|before: &Arc<Live>| before.secrets != live.secrets) {
                        self.retune(&live.secrets);
                    }
                    tuned = Some(live);
                    continue;
                }
                changed = states.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.arrived.get_or_insert_with(Instant::now);
                    if holding {
                        continue;
                    }
                }
                // Tokens and certificates have nothing to do with each other: neither waits, or makes the other wait.
                changed = tokens.changed(), if following => {
                    following = changed.is_ok();
                    let snapshot = tokens.borrow_and_update().clone();
                    self.renew_tokens(&snapshot);
                    continue;
                }
                // Files have nothing to do with either, and their store lives as long as the server.
                Ok(()) = files.changed() => {
                    let snapshot = files.borrow_and_update().clone();
                    self.files = self.catalog.files(&snapshot, Some(&self.files));
                    self.send(Arrival { since: Instant::now(), held: false, step: 0 });
                    continue;
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            let state = states.borrow_and_update().clone();
            self.traced.takes_up(&state);
            next = self.advance(&state);
            if !matches!(next, Next::Stage(_)) {
                self.traced.settles();
                self.arrived = None;
            }
        }
        self.spiffe.send_replace(Feed::Closing);
        self.plain.send_replace(Feed::Closing);
    }

    /// Publishes the next step towards `state`.
    fn advance(&mut self, state: &Availability) -> Next {
        let target = match state {
            Availability::Pending => return Next::Nothing,
            Availability::Denied(_) => {
                self.published = None;
                self.traced.begins(Change::default());
                let nothing = self.catalog.nothing();
                self.encoded = Some(Encoded { contents: None, spiffe: nothing.clone(), plain: nothing });
                self.held = false;
                self.metrics.hold(false);
                self.send(self.arrival());
                return Next::Nothing;
            }
            Availability::Ready(target) => target,
        };
        let (step, change, more) = match &self.published {
            None => (Arc::clone(target), Change::default(), false),
            Some(published) => {
                let mut stages = secret::stages(published, target).into_iter();
                // Without a stage there is nothing new; but a certificate may have expired meanwhile.
                let step = stages.next().map_or_else(|| Arc::clone(published), Arc::new);
                let change = Change::between(published, &step);
                (step, change, stages.next().is_some())
            }
        };
        let now = Instant::now();
        if let Some(at) = self.pace.not_before(change).filter(|at| *at > now) {
            self.traced.holds();
            tracing::debug!(hold_ms = (at - now).as_millis() as u64, "rollout holds before its next step");
            self.held = true;
            self.metrics.hold(true);
            return Next::Stage(at);
        }
        if self.held {
            self.metrics.hold(false);
        }
        self.traced.begins(change);
        let at = SystemTime::now();
        let rendered = self.render(&step, at);
        self.held = false;
        if !rendered {
            return Next::Nothing;
        }
        self.published = Some(Arc::clone(&step));
        self.pace.took(change, now);
        // The rest of the rollout has its hold looked up when its turn comes, which is now.
        if more { Next::Stage(now) } else { next_expiry(&step, at) }
    }

    /// Serves what is published by other rules. A rollout goes on where it is: neither its step nor its hold changes.
    fn retune(&mut self, config: &secret::Config) {
        self.pace.hold = config.rollout_hold;
        let named = self.catalog.clone().configured(config.clone());
        let before = std::mem::replace(&mut self.catalog, named);
        if let Some(published) = self.published.clone()
            && !self.render(&published, SystemTime::now())
        {
            self.catalog = before;
        }
        // Each stream looks up whether its flavour is still the right one.
        self.spiffe.send_modify(|_| ());
        self.plain.send_modify(|_| ());
    }

    /// Encodes and sends one state as of `at`; on failure the last one stays in service.
    fn render(&mut self, step: &Arc<IdentitySnapshot>, at: SystemTime) -> bool {
        let encoded = self.catalog.contents(step, at).and_then(|contents| {
            let spiffe = self.catalog.x509(&contents, Flavour::Spiffe)?;
            let plain = self.catalog.x509(&contents, Flavour::Plain)?;
            Ok((contents, spiffe, plain))
        });
        match encoded {
            Ok((contents, spiffe, plain)) => {
                self.note(contents.notes());
                self.encoded = Some(Encoded { contents: Some(contents), spiffe, plain });
                self.send(self.arrival());
                true
            }
            Err(error) => {
                self.metrics.failed();
                self.traced.ends(Some(error.to_string()));
                tracing::error!(%error, "identity update cannot be served, the last good one stays");
                false
            }
        }
    }

    /// Says what is new since the last state.
    fn note(&mut self, notes: &[Note]) {
        for note in notes.iter().filter(|note| !self.noted.contains(note)) {
            match note {
                Note::NoDefault(wanted) => {
                    tracing::warn!(%wanted, "no identity is the default one that is configured, its name waits for one");
                }
                Note::IncompleteCrls(trust_domain) => {
                    tracing::warn!(%trust_domain, "some authorities of the trust domain have no revocation list");
                }
            }
        }
        self.noted = notes.to_vec();
    }

    /// Takes up the newest tokens; certificates and contexts are not encoded again.
    fn renew_tokens(&mut self, snapshot: &Arc<JwtSnapshot>) {
        self.traced.begins_tokens(snapshot);
        self.tokens = self.catalog.tokens(snapshot, SystemTime::now(), Some(&self.tokens));
        self.send(Arrival { since: Instant::now(), held: false, step: 0 });
    }

    /// When and how the step at hand came.
    fn arrival(&self) -> Arrival {
        Arrival { since: self.arrived.unwrap_or_else(Instant::now), held: self.held, step: 0 }
    }

    /// Sends what is encoded. Before the source has said anything about certificates nothing is, but for files: a set
    /// without them would withdraw what clients hold from before our start.
    fn send(&mut self, mut arrival: Arrival) {
        let mut news = None;
        for (feed, flavour) in [(&self.spiffe, Flavour::Spiffe), (&self.plain, Flavour::Plain)] {
            let view = match &self.encoded {
                Some(encoded) => {
                    let x509 = encoded.of(flavour);
                    self.catalog.view(encoded.contents.clone(), flavour, x509, &self.tokens, &self.files)
                }
                None => self.catalog.pending(&self.files),
            };
            let listed = view.set().listed().count();
            let modified = feed.send_if_modified(|current| {
                let known = if let Feed::Live(live, _) = current { Some(&**live) } else { None };
                let same = known.is_some_and(|live| live.says_the_same_as(&view));
                if !same {
                    // Streams must hear of the step before they see it, whatever their flavour.
                    arrival.step = self.traced.announces(known, &view);
                    *current = Feed::Live(Arc::new(view), arrival);
                }
                !same
            });
            news = news.or(modified.then_some(listed));
        }
        self.traced.ends(None);
        if let Some(listed) = news {
            self.metrics.published(listed);
        }
    }
}

/// When the next certificate of `snapshot` stops being served to newcomers, of those that were when it was rendered.
fn next_expiry(snapshot: &IdentitySnapshot, rendered: SystemTime) -> Next {
    let ends = snapshot.svids.iter().map(|svid| svid.validity.not_after);
    let Some(next) = ends.filter(|end| *end >= rendered).min() else { return Next::Nothing };
    // One tick later, because the last moment still counts as valid.
    let left = next.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(1);
    Next::Expiry(Instant::now() + left)
}

#[cfg(test)]
mod tests;
