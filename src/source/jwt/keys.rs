//! The keys that verify tokens: an endless series of sessions, and what each of their messages means.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant as StdInstant, SystemTime},
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep};

use super::JwtSource;
use crate::{
    identity::{JwtBundle, TrustDomain, Workload},
    source::{
        ErrorKind, RenewalEvent, SourceError, backoff::Backoff, decode::jwt::JwtBundles, renewal::Moment,
        supervisor::MISCONFIGURED_RETRY,
    },
};

type News = Result<JwtBundles, SourceError>;

/// What is known, and for how long yet if the source denies it.
#[derive(Debug)]
pub(super) struct Keys {
    denied_grace: Duration,
    bundles: JwtBundles,
    failures: u32,
    withdrawn_at: Option<StdInstant>,
}

impl Keys {
    pub(super) fn new(denied_grace: Duration) -> Self {
        Self { denied_grace, bundles: JwtBundles::new(), failures: 0, withdrawn_at: None }
    }

    pub(super) fn bundles(&self) -> &JwtBundles {
        &self.bundles
    }

    pub(super) fn on_news(&mut self, news: News, now: Moment) -> Vec<RenewalEvent> {
        let error = match news {
            Ok(bundles) => {
                self.failures = 0;
                self.withdrawn_at = None;
                return self.replace(bundles);
            }
            Err(error) => error,
        };
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind();
        if kind == ErrorKind::NotEntitled && !self.bundles.is_empty() && self.withdrawn_at.is_none() {
            self.withdrawn_at = now.steady.checked_add(self.denied_grace);
        }
        vec![RenewalEvent::JwtKeysFailed { kind, error: error.chain().into(), failures: self.failures }]
    }

    pub(super) fn on_alarm(&mut self, now: Moment) -> Vec<RenewalEvent> {
        if self.withdrawn_at.is_none_or(|at| now.steady < at) {
            return Vec::new();
        }
        self.withdrawn_at = None;
        self.replace(JwtBundles::new())
    }

    pub(super) fn next_alarm(&self) -> (Option<SystemTime>, Option<StdInstant>) {
        (None, self.withdrawn_at)
    }

    fn replace(&mut self, bundles: JwtBundles) -> Vec<RenewalEvent> {
        let before = std::mem::replace(&mut self.bundles, bundles);
        let domains: BTreeSet<&TrustDomain> = before.keys().chain(self.bundles.keys()).collect();
        let changed = domains.into_iter().filter(|domain| before.get(*domain) != self.bundles.get(*domain));
        let names = |bundle: Option<&Arc<JwtBundle>>| -> BTreeSet<String> {
            bundle.map(|bundle| bundle.keys().iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        changed
            .map(|domain| {
                let (old, new) = (names(before.get(domain)), names(self.bundles.get(domain)));
                RenewalEvent::JwtKeysChanged {
                    trust_domain: domain.clone(),
                    added: new.difference(&old).count(),
                    removed: old.difference(&new).count(),
                }
            })
            .collect()
    }
}

/// Where the series stands.
enum Step {
    Open,
    Session { messages: BoxStream<'static, News>, opened: Instant, delivered: bool },
    Wait(Duration),
}

/// Session after session, with the waits of the supervisor between them. Never ends.
pub(super) fn follow(source: Arc<dyn JwtSource>, workload: Workload, backoff: Backoff) -> BoxStream<'static, News> {
    let longest = backoff.config().max;
    let start = (source, workload, backoff, Step::Open);
    let series = stream::unfold(start, move |(source, workload, mut backoff, mut step)| async move {
        loop {
            step = match step {
                Step::Open => {
                    let messages = source.watch_keys(&workload);
                    Step::Session { messages, opened: Instant::now(), delivered: false }
                }
                Step::Wait(delay) => {
                    sleep(delay).await;
                    Step::Open
                }
                Step::Session { mut messages, opened, delivered } => {
                    match messages.next().await.unwrap_or(Err(SourceError::Closed)) {
                        Ok(bundles) => {
                            let step = Step::Session { messages, opened, delivered: true };
                            return Some((Ok(bundles), (source, workload, backoff, step)));
                        }
                        Err(error) => {
                            let lasted = opened.elapsed();
                            if delivered && lasted >= longest {
                                backoff.reset();
                            }
                            let delay = match error.kind() {
                                ErrorKind::Misconfigured => MISCONFIGURED_RETRY,
                                // The delay counts from the start of the session: one that lasted is followed at once.
                                _ => backoff.next_delay().saturating_sub(lasted),
                            };
                            return Some((Err(error), (source, workload, backoff, Step::Wait(delay))));
                        }
                    }
                }
            };
        }
    });
    series.boxed()
}
