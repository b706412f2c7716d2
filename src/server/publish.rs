//! Turns what the store holds into what streams send: one task a workload, however many streams there are.

mod acks;
mod encoded;
mod feed;
mod report;
mod traced;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(super) use acks::{AckSeat, Acks};
use encoded::Encoded;
pub(super) use feed::{Arrival, Feed, Feeds};
use traced::Traced;

use super::{Streams, live::Live};
use crate::{
    identity::{Availability, FileSnapshot, IdentitySnapshot, JwtSnapshot},
    lifecycle::{Heartbeat, Responder, clock, heartbeat},
    secret::{self, Change, Flavour, Hold, Note, Part, Rollout, SecretCatalog},
    telemetry::{metrics::RolloutMetrics, traces::Traces},
};

/// Nothing is looked at again sooner without a reason.
const TICK: Duration = Duration::from_millis(1);

/// Publishes one workload's resources in the rollout order.
#[derive(Debug)]
pub(super) struct Publisher {
    catalog: SecretCatalog,
    rollout: Rollout,
    /// When its time began.
    started: Instant,
    acks: Acks,
    /// The last step that streams were given.
    number: u64,
    /// Since which step certificates are kept back from former clients.
    keeps_back: Option<u64>,
    /// What waits now, and for what.
    waiting: Option<Hold>,
    streams: Streams,
    spiffe: watch::Sender<Feed>,
    plain: watch::Sender<Feed>,
    /// What streams were given last, encoded; `None` before anything.
    encoded: Option<Encoded>,
    tokens: Part,
    files: Part,
    /// When the oldest update came that streams have not been given in full; `None` when they have.
    arrived: Option<Instant>,
    /// When the next certificate of what was given last expires.
    expiry: Option<Instant>,
    /// What was given before a denial may be held by clients.
    after_denial: bool,
    metrics: RolloutMetrics,
    traced: Traced,
    heartbeat: (Heartbeat, Responder),
    /// What the log has been told about it.
    noted: Vec<Note>,
}

impl Publisher {
    /// A publisher and the feeds that it fills. Until something is known they withhold everything.
    #[must_use]
    pub(super) fn new(catalog: SecretCatalog, config: &secret::Config, streams: Streams) -> (Self, Feeds) {
        let metrics = RolloutMetrics::default();
        let arrival = Arrival { since: Instant::now(), held: false, step: 0, number: 0, keeps_back: None };
        let files = catalog.files(&FileSnapshot::default(), None);
        let pending = || Feed::Live(Arc::new(catalog.pending(&files)), arrival);
        let (spiffe, spiffe_feed) = watch::channel(pending());
        let (plain, plain_feed) = watch::channel(pending());
        let tokens = catalog.tokens(&JwtSnapshot::default(), SystemTime::UNIX_EPOCH, None);
        let publisher = Self {
            catalog,
            rollout: Rollout::new(config.timing()),
            started: Instant::now(),
            acks: Acks::counting(metrics.clone()),
            number: 0,
            keeps_back: None,
            waiting: None,
            streams,
            spiffe,
            plain,
            encoded: None,
            tokens,
            files,
            heartbeat: heartbeat("publisher"),
            noted: Vec::new(),
            arrived: None,
            expiry: None,
            after_denial: false,
            metrics,
            traced: Traced::default(),
        };
        (publisher, Feeds { spiffe: spiffe_feed, plain: plain_feed })
    }

    /// What is counted about publishing.
    #[must_use]
    pub(super) fn metrics(&self) -> &RolloutMetrics {
        &self.metrics
    }

    /// Where streams say how far they are.
    #[must_use]
    pub(super) fn acks(&self) -> &Acks {
        &self.acks
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
        let mut wake = None;
        let acks = self.acks.clone();
        let mut clock_changes = clock::changes();
        self.started = Instant::now();
        loop {
            let direct = tokio::select! {
                () = stop.cancelled() => break,
                () = self.heartbeat.1.answer() => continue,
                Ok(()) = settings.changed() => {
                    let live = settings.borrow_and_update().clone();
                    // A reload that changes nothing here must not wake every stream.
                    if tuned.as_ref().is_none_or(|before: &Arc<Live>| before.secrets != live.secrets) {
                        self.retune(&live.secrets);
                    }
                    tuned = Some(live);
                    false
                }
                changed = states.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    true
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
                    self.send(Instant::now(), false);
                    continue;
                }
                () = acks.changed() => false,
                // What is valid is another question then.
                Some(()) = clock_changes.next() => {
                    self.expiry = self.rollout.published().map(|_| Instant::now());
                    false
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => false,
            };
            let direct = direct || states.has_changed().unwrap_or_default();
            let state = states.borrow_and_update().clone();
            if direct {
                self.arrived.get_or_insert_with(Instant::now);
            }
            self.traced.takes_up(&state);
            wake = self.advance(&state, direct);
        }
        self.spiffe.send_replace(Feed::Closing);
        self.plain.send_replace(Feed::Closing);
    }

    /// Publishes what is due on the way to `state`; `direct` when that has just come. Returns when to look again.
    fn advance(&mut self, state: &Availability, direct: bool) -> Option<Instant> {
        let target = match state {
            Availability::Pending => return None,
            Availability::Denied(_) => {
                self.deny();
                return None;
            }
            Availability::Ready(target) => target,
        };
        let hold = loop {
            let plan = self.rollout.plan(target, self.acks.acked(), self.started.elapsed());
            if let Some(number) = plan.overdue {
                self.give_up(number);
            }
            let released = self.keeps_back.is_some() && !plan.keeps_back;
            let again = || self.rollout.published().filter(|_| released).cloned();
            let Some(step) = plan.step.or_else(again) else { break plan.hold };
            if !self.publish(&step, plan.keeps_back, !direct) {
                return None;
            }
        };
        if self.expiry.take_if(|at| *at <= Instant::now()).is_some()
            && let Some(published) = self.rollout.published().cloned()
            && self.encode(&published)
        {
            self.send(Instant::now(), false);
        }
        self.wait(hold);
        let until = hold.map(|hold| (self.started + hold.until).max(Instant::now() + TICK));
        until.into_iter().chain(self.expiry).min()
    }

    /// Gives streams this state; on failure the last one stays in service. `held`: it could have been given before.
    fn publish(&mut self, step: &Arc<IdentitySnapshot>, keeps_back: bool, held: bool) -> bool {
        let change = match self.rollout.published() {
            Some(before) => Change::between(before, step),
            None => Change::default(),
        };
        self.traced.begins(change);
        if !self.encode(step) {
            return false;
        }
        // Without anybody who was there before, all have all of it already.
        let quiet = self.keeps_back.is_some() && !keeps_back && !self.is_anybody_former();
        let shrinks = Change { trust_shrinks: true, ..Change::default() };
        if change != shrinks && !(quiet && change == Change::default()) {
            self.number = self.acks.begin();
        }
        self.keeps_back = keeps_back.then(|| self.keeps_back.unwrap_or(self.number));
        self.send(self.arrived.unwrap_or_else(Instant::now), held);
        self.rollout.took(step, keeps_back, self.number, self.started.elapsed());
        self.after_denial &= keeps_back;
        true
    }

    /// Nothing is served any more.
    fn deny(&mut self) {
        self.traced.begins(Change::default());
        self.rollout.deny();
        let nothing = self.catalog.nothing();
        self.encoded = Some(Encoded { contents: None, spiffe: nothing.clone(), plain: nothing });
        (self.keeps_back, self.expiry, self.after_denial) = (None, None, true);
        self.send(self.arrived.unwrap_or_else(Instant::now), false);
        self.wait(None);
    }

    /// Whether some client may hold what it was given before a start or a denial.
    fn is_anybody_former(&self) -> bool {
        self.after_denial || self.acks.has_returned()
    }

    /// Serves what is published by other rules. A rollout goes on where it is.
    fn retune(&mut self, config: &secret::Config) {
        self.rollout.tune(config.timing());
        let named = self.catalog.clone().configured(config.clone());
        let before = std::mem::replace(&mut self.catalog, named);
        if let Some(published) = self.rollout.published().cloned() {
            if self.encode(&published) {
                self.send(Instant::now(), false);
            } else {
                self.catalog = before;
            }
        }
        // Each stream looks up whether its flavour is still the right one.
        self.spiffe.send_modify(|_| ());
        self.plain.send_modify(|_| ());
    }

    /// Takes up the newest tokens; certificates and contexts are not encoded again.
    fn renew_tokens(&mut self, snapshot: &Arc<JwtSnapshot>) {
        self.traced.begins_tokens(snapshot);
        self.tokens = self.catalog.tokens(snapshot, SystemTime::now(), Some(&self.tokens));
        self.send(Instant::now(), false);
    }

    /// Sends what is encoded. Before the source has said anything about certificates nothing is, but for files: a set
    /// without them would withdraw what clients hold from before our start.
    fn send(&mut self, since: Instant, held: bool) {
        let arrival = Arrival { since, held, step: 0, number: self.number, keeps_back: self.keeps_back };
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
            let mut same = false;
            feed.send_if_modified(|current| {
                let Feed::Live(known, before) = current else { return false };
                same = known.says_the_same_as(&view);
                if same {
                    // All have to know the number of the step, those to whom it says nothing too.
                    let told = before.number == arrival.number;
                    *before = Arrival { step: before.step, ..arrival };
                    return !told;
                }
                // Streams must hear of the step before they see it, whatever their flavour.
                let step = self.traced.announces(Some(&**known), &view);
                *current = Feed::Live(Arc::new(view), Arrival { step, ..arrival });
                true
            });
            news = news.or((!same).then_some(listed));
        }
        self.traced.ends(None);
        if let Some(listed) = news {
            self.metrics.published(listed);
        }
    }
}

#[cfg(test)]
mod tests;
