//! Files that clients ask for by path: Istio's `file-cert:`, `file-root:` and the authorities of this machine.
//!
//! They have nothing to do with SPIFFE, and no policy of their own: what is allowed is allowed to every client. What is
//! asked for is read, watched and read again on each change; nothing else is. What is good replaces what was good before,
//! and nothing else does: a file that vanishes or goes bad takes nothing from anybody.

mod load;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    decode::{Limits, serial},
    files::{FilesError, watch::Watch},
    supervisor::LONGEST_NAP,
};
use crate::{
    detached,
    identity::{FilePolicy, FileRequest, FileSecret, FileSnapshot, FileStore, Wanted},
    telemetry::logs,
};
use load::{Loaded, Look};

/// How long files may not be usable before that is said. Writers of two files take less.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a failure that was said waits for a change. Not for ever: clocks move too, and some file systems tell of
/// nothing.
const LONGEST_FAILURE: Duration = Duration::from_secs(60);

/// Keeps what clients ask for in a [`FileStore`] fresh.
pub struct AskedFiles {
    policy: FilePolicy,
    limits: Limits,
    store: Arc<FileStore>,
    wanted: Wanted,
    followed: BTreeMap<FileRequest, Followed>,
    watch: Option<Watch>,
    /// What is wrong with watching, if anything is.
    unwatched: Option<String>,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// One request.
#[derive(Debug, Default)]
struct Followed {
    /// What of the file is left out.
    bad: Vec<String>,
    good: Option<Arc<FileSecret>>,
    failure: Option<Failure>,
}

/// Since when it cannot be used, and why.
#[derive(Debug)]
struct Failure {
    text: String,
    since: Instant,
    said: bool,
}

impl AskedFiles {
    /// Files of this policy for those who ask at `store`. Nothing is opened before anybody asks.
    #[must_use]
    pub fn new(policy: FilePolicy, store: Arc<FileStore>) -> Self {
        Self {
            policy,
            limits: Limits::default(),
            store,
            wanted: Wanted::default(),
            followed: BTreeMap::new(),
            watch: None,
            unwatched: None,
            clock: Box::new(SystemTime::now),
        }
    }

    /// With other limits on what the files may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Judges the life of certificates by another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        if !self.policy.is_open() {
            return stop.cancelled().await;
        }
        let mut asked = self.store.asked();
        loop {
            let look = tokio::select! {
                () = stop.cancelled() => return,
                more = asked.changed() => if more { false } else { return stop.cancelled().await },
                () = changed(self.watch.as_ref()) => true,
                () = sleep(self.nap()) => self.is_due(),
            };
            tokio::select! {
                // Whoever hangs in a file system is left alone there.
                () = stop.cancelled() => return,
                () = self.follow(look) => {}
            }
        }
    }

    /// Takes up what is wanted and looks at all of it if some is new, or if it is to `look`.
    async fn follow(&mut self, mut look: bool) {
        loop {
            let new = self.take_up();
            if look || new {
                self.look().await;
            }
            // What turns out to be empty leaves its place to what waits.
            if !self.publish() || self.wanted.waiting == 0 {
                return;
            }
            look = false;
        }
    }

    /// Follows what is wanted now; says whether some of it is new.
    fn take_up(&mut self) -> bool {
        let before = std::mem::replace(&mut self.wanted, self.store.wanted(self.policy.max, Instant::now()));
        if self.wanted.waiting > 0 && before.waiting == 0 {
            let (max, waiting) = (self.policy.max, self.wanted.waiting);
            tracing::warn!(
                max,
                waiting,
                "clients ask for more files than are followed at once, those of whoever asks for most wait"
            );
        }
        self.followed.retain(|request, _| self.wanted.requests.contains(request));
        let known = self.followed.len();
        for request in &self.wanted.requests {
            self.followed.entry(request.clone()).or_default();
        }
        self.followed.len() > known
    }

    async fn look(&mut self) {
        let (requests, policy, limits) = (self.followed.keys().cloned().collect(), self.policy.clone(), self.limits);
        let now = (self.clock)();
        let look = detached::run("files", move || Look::at(requests, &policy, &limits, now)).await;
        let look = match look {
            Ok(look) => look,
            Err(error) => return tracing::error!(%error, "files that clients ask for cannot be read now"),
        };
        self.watched(look.watch);
        for (request, loaded) in look.loaded {
            let Some(followed) = self.followed.get_mut(&request) else { continue };
            match loaded {
                Ok(Loaded { secret, bad }) => {
                    followed.leave_out(&request, &bad);
                    followed.succeed(&request, secret);
                }
                Err(error) => followed.fail(&request, &error),
            }
        }
    }

    fn watched(&mut self, watch: Result<Watch, FilesError>) {
        match watch {
            Ok(watch) => (self.watch, self.unwatched) = (Some(watch), None),
            Err(error) => {
                let text = logs::chain(&error);
                if self.unwatched.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "files that clients ask for cannot be watched, they are read once a minute");
                }
                (self.watch, self.unwatched) = (None, Some(text));
            }
        }
    }

    /// A certificate whose life is over is kept by who has it, and given to nobody anew. Says whether places are free.
    fn publish(&self) -> bool {
        let now = (self.clock)();
        let lives = |secret: &Arc<FileSecret>| secret.validity().is_none_or(|validity| !validity.is_expired(now));
        let good = self.followed.iter().filter_map(|(request, followed)| Some((request, followed.good.as_ref()?)));
        let secrets = good.filter(|(_, secret)| lives(secret));
        self.store.publish(FileSnapshot {
            secrets: secrets.map(|(request, secret)| (request.clone(), secret.clone())).collect(),
            tried: self.followed.keys().cloned().collect(),
        })
    }

    /// Whether something has to be looked at because time has passed.
    fn is_due(&self) -> bool {
        let now = (self.clock)();
        let ended = |followed: &Followed| {
            let validity = followed.good.as_ref().and_then(|good| good.validity());
            validity.is_some_and(|validity| validity.is_expired(now))
        };
        self.unwatched.is_some() || self.followed.values().any(|followed| followed.failure.is_some() || ended(followed))
    }

    fn nap(&self) -> Duration {
        let (now, steady) = ((self.clock)(), Instant::now());
        let mut nap = LONGEST_NAP;
        if let Some(lapses) = self.wanted.lapses {
            nap = nap.min(lapses.saturating_duration_since(steady));
        }
        if self.unwatched.is_some() {
            nap = nap.min(LONGEST_FAILURE);
        }
        for followed in self.followed.values() {
            match &followed.failure {
                Some(failure) if failure.said => nap = nap.min(LONGEST_FAILURE),
                Some(failure) => nap = nap.min((failure.since + SETTLE).saturating_duration_since(steady)),
                None => {
                    let ends = followed.good.as_ref().and_then(|good| good.validity());
                    // One tick later, because the last moment still counts as valid.
                    nap = ends.map_or(nap, |validity| nap.min(validity.remaining(now) + Duration::from_millis(1)));
                }
            }
        }
        nap
    }
}

impl Followed {
    fn succeed(&mut self, request: &FileRequest, secret: FileSecret) {
        self.failure = None;
        if self.good.as_deref() == Some(&secret) {
            return;
        }
        match &secret {
            FileSecret::Certificate { chain, .. } => {
                tracing::info!(name = %request, serial = serial(chain.leaf()), "certificate read from files");
            }
            FileSecret::Roots(roots) => {
                tracing::info!(name = %request, count = roots.len(), "authorities read from a file")
            }
        }
        self.good = Some(Arc::new(secret));
    }

    /// Says what is left out of what is served, once.
    fn leave_out(&mut self, request: &FileRequest, bad: &[FilesError]) {
        let bad: Vec<_> = bad.iter().map(|error| logs::chain(error)).collect();
        if let Some(first) = bad.first()
            && bad != self.bad
        {
            tracing::warn!(name = %request, count = bad.len(), %first, "some of a file that a client asks for is left out");
        }
        self.bad = bad;
    }

    fn fail(&mut self, request: &FileRequest, error: &FilesError) {
        let (text, now) = (logs::chain(error), Instant::now());
        let failure = self.failure.get_or_insert_with(|| Failure { text: text.clone(), since: now, said: false });
        if failure.text != text {
            failure.said = false;
            failure.text = text;
        }
        if failure.said || now < failure.since + SETTLE {
            tracing::debug!(name = %request, error = failure.text, "files cannot be used yet");
            return;
        }
        failure.said = true;
        let serving = self.good.is_some();
        tracing::warn!(name = %request, error = failure.text, serving, "files that a client asks for cannot be used, what was good before stays");
    }
}

async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
