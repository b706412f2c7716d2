//! Warm start: the last good state, sealed on disk, served after a start until the source answers.
//!
//! Off by default: it puts private keys on disk (sealed, see `docs/warm-start.md` for what that is worth). Whatever is odd
//! about what lies there means a cold start and a warning, never an error: the source is the truth, this is a head start.

mod message;
mod seal;
mod vault;

use std::{
    future::pending,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use vault::{Vault, WarmError};

use super::{ErrorKind, RenewalEvent, SourceStatus, Supervisor, event::Reporter};
use crate::{
    detached,
    identity::{Availability, IdentitySnapshot, IdentityStore, TrustDomain, Workload},
    telemetry::logs::chain,
};

/// Where the last good state is kept, and for how long it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The sealed file. Beside it lies another with `.floor` appended, which old copies of the first are held against.
    pub path: PathBuf,
    /// The key.
    pub key: Key,
    /// A state that was saved longer ago is not used, valid or not: trust may have changed meanwhile.
    pub max_age: Duration,
}

/// Where the key is: 32 bytes, or 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A file that nobody else may read.
    File(PathBuf),
    /// A systemd credential, which systemd itself guards.
    Credential(PathBuf),
}

/// How long a start waits for the sealed state, and an end for the last one to be sealed. A file system that does not
/// answer holds up neither.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves the sealed state until the source answers, and seals what the source says.
pub struct WarmStart {
    config: Config,
    /// `None` while `job` has it, and for ever without a key.
    vault: Option<Vault>,
    /// What is done in the file system now, on a thread of its own.
    job: Option<Job>,
    /// Why the newest state is not sealed, once that was said.
    unsealed: Option<String>,
    reporter: Reporter,
    /// The trust domain that is configured to be ours.
    trust_domain: Option<TrustDomain>,
    /// What is in service though the source has not confirmed it.
    unconfirmed: Option<Arc<IdentitySnapshot>>,
    expired: bool,
}

type Job = BoxFuture<'static, io::Result<Done>>;

/// What was sealed, and when.
type Sealed = Result<(IdentitySnapshot, SystemTime), WarmError>;

/// What came of a job.
enum Done {
    /// The key, and what is sealed.
    Opened(Result<(Vault, Sealed), WarmError>),
    Sealed(Vault, Result<(), WarmError>),
}

impl WarmStart {
    /// Nothing is read before [`WarmStart::begin`].
    #[must_use]
    pub fn new(config: Config, supervisor: &Supervisor) -> Self {
        let (reporter, trust_domain) = (supervisor.reporter().beside(), supervisor.trust_domain().cloned());
        Self {
            config,
            vault: None,
            job: None,
            unsealed: None,
            reporter,
            trust_domain,
            unconfirmed: None,
            expired: false,
        }
    }

    /// What is in service though the source has not confirmed it, for [`Supervisor::begin_with`].
    #[must_use]
    pub fn unconfirmed(&self) -> Option<Arc<IdentitySnapshot>> {
        self.unconfirmed.clone()
    }

    /// Opens the vault and puts the sealed state into service, unless the source has said something already. Without its key
    /// there is a warning, and no warm start. Call it before the supervisor runs.
    pub async fn begin(&mut self, store: &IdentityStore) {
        let config = self.config.clone();
        let open = move || {
            let mut vault = Vault::open(&config)?;
            let sealed = vault.load(SystemTime::now());
            Ok((vault, sealed))
        };
        self.job = Some(detached::run("warm start", move || Done::Opened(open())).boxed());
        match timeout(PATIENCE, finished(&mut self.job)).await {
            Ok(done) => self.done(done, store),
            Err(_) => {
                tracing::warn!(path = %self.config.path.display(), "the sealed identity cannot be read in time, going on without it");
            }
        }
    }

    fn done(&mut self, done: io::Result<Done>, store: &IdentityStore) {
        match done {
            Ok(Done::Opened(Ok((vault, sealed)))) => {
                self.vault = Some(vault);
                let sealed = sealed.and_then(|sealed| self.is_ours(sealed));
                self.opened(sealed, store);
            }
            Ok(Done::Opened(Err(error))) => self.off(&error),
            Ok(Done::Sealed(vault, outcome)) => {
                self.vault = Some(vault);
                self.sealed(outcome);
            }
            Err(error) => self.off(&error),
        }
    }

    fn off(&self, error: &dyn std::error::Error) {
        let error = chain(error);
        tracing::warn!(path = %self.config.path.display(), %error, "warm start is off, nothing is sealed or served from disk");
    }

    fn opened(&mut self, sealed: Result<(IdentitySnapshot, SystemTime), WarmError>, store: &IdentityStore) {
        match sealed {
            Ok((snapshot, sealed_at)) => {
                let snapshot = Arc::new(snapshot);
                if !store.publish_first(&Workload::Own, Availability::Ready(snapshot.clone())) {
                    return;
                }
                let svids = snapshot.svids.len();
                self.reporter.report(RenewalEvent::WarmStarted { sealed_at, svids });
                self.unconfirmed = Some(snapshot);
            }
            Err(WarmError::Nothing) => {
                tracing::info!(path = %self.config.path.display(), "nothing is sealed yet, a cold start");
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(path = %self.config.path.display(), %error, "the sealed identity is not used, a cold start");
            }
        }
    }

    /// What was sealed under another configuration may be of another trust domain.
    fn is_ours<T>(&self, (snapshot, at): (IdentitySnapshot, T)) -> Result<(IdentitySnapshot, T), WarmError> {
        match (&self.trust_domain, &snapshot.trust_domain) {
            (Some(own), Some(found)) if own != found => {
                Err(WarmError::OtherTrustDomain { found: found.clone(), own: own.clone() })
            }
            _ => Ok((snapshot, at)),
        }
    }

    /// A disk that stays full is said once.
    fn sealed(&mut self, outcome: Result<(), WarmError>) {
        let failure = outcome.err().map(|error| chain(&error));
        match &failure {
            Some(error) if self.unsealed != failure => {
                tracing::warn!(path = %self.config.path.display(), %error, "the identity cannot be sealed, the next start may be a cold one");
            }
            Some(error) => tracing::debug!(%error, "the identity still cannot be sealed"),
            None => {}
        }
        self.unsealed = failure;
    }

    /// Follows the source until `stop`: its first answer ends the warm start, and from then on every new state is sealed.
    /// A denial counts as an answer once it has lasted for `grace`, as it does for an identity that the source gave.
    pub async fn run(
        mut self,
        store: Arc<IdentityStore>,
        mut source: watch::Receiver<SourceStatus>,
        grace: Duration,
        stop: CancellationToken,
    ) {
        let mut states = store.watch(&Workload::Own);
        let mut denied: Option<Instant> = None;
        let mut sealed = None;
        let refresh = self.config.max_age / 4;
        loop {
            let status = source.borrow_and_update().clone();
            if status.last_update.is_some() {
                self.end(true);
            } else if self.unconfirmed.is_some() && status.last_error_kind == Some(ErrorKind::NotEntitled) {
                denied.get_or_insert_with(|| Instant::now() + grace);
            }
            if self.unconfirmed.is_some() && denied.is_some_and(|end| end <= Instant::now()) {
                store.publish(&Workload::Own, Availability::Denied(status.last_error.unwrap_or_default()));
                self.end(false);
            }
            let state = states.borrow_and_update().clone();
            let known =
                sealed.as_ref().is_some_and(|(known, at): &(_, Instant)| *known == state && at.elapsed() < refresh);
            if self.unconfirmed.is_none() && !known && self.seal(&state) {
                sealed = Some((state, Instant::now()));
            }
            // A state that stays the same is still confirmed, and must not grow too old.
            let again = sealed.as_ref().map(|(_, at)| *at + refresh).filter(|_| status.connected);
            let wait = denied.filter(|_| self.unconfirmed.is_some());
            let expiry = self.until_expiry();
            tokio::select! {
                () = stop.cancelled() => break,
                done = finished(&mut self.job) => self.done(done, &store),
                changed = states.changed() => if changed.is_err() { return stop.cancelled().await },
                changed = source.changed() => if changed.is_err() { return stop.cancelled().await },
                () = sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                () = sleep(expiry.unwrap_or_default()), if expiry.is_some() => {
                    self.expired = true;
                    tracing::error!("the sealed identity expired before the source answered");
                }
            }
        }
        // What came last is worth a moment.
        if self.job.is_some()
            && let Ok(done) = timeout(PATIENCE, finished(&mut self.job)).await
        {
            self.done(done, &store);
        }
    }

    /// What is in service is the source's own word now.
    fn end(&mut self, confirmed: bool) {
        if self.unconfirmed.take().is_some() {
            self.reporter.report(RenewalEvent::WarmEnded { confirmed });
        }
    }

    /// How long the sealed identity lasts, until that was said.
    fn until_expiry(&self) -> Option<Duration> {
        let end = self.unconfirmed.as_ref()?.first_expiry().filter(|_| !self.expired)?;
        Some(end.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Begins to seal this state, unless the vault is busy or not there. Says whether it did.
    fn seal(&mut self, state: &Availability) -> bool {
        let Some(mut vault) = self.vault.take() else { return false };
        let state = state.clone();
        let seal = move || {
            let outcome = match &state {
                Availability::Ready(snapshot) => vault.save(snapshot, SystemTime::now()),
                // What was taken from us must not come back with the next start.
                Availability::Denied(_) => vault.clear(),
                Availability::Pending => Ok(()),
            };
            Done::Sealed(vault, outcome)
        };
        self.job = Some(detached::run("warm start", seal).boxed());
        true
    }
}

/// The end of the job; never without one. Can be dropped at any time.
async fn finished(job: &mut Option<Job>) -> io::Result<Done> {
    let Some(running) = job else { return pending().await };
    let done = running.await;
    *job = None;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::supervisor;

    /// One that has a key, and is in the middle of something that never ends.
    fn stuck() -> (WarmStart, Arc<IdentityStore>) {
        let store = Arc::new(IdentityStore::new());
        let config = supervisor::Config::default();
        let supervisor = Supervisor::of_several(Vec::new(), Default::default(), Workload::Own, store.clone(), config);
        let config =
            Config { path: "/nowhere".into(), key: Key::File("/nowhere".into()), max_age: Duration::from_secs(60) };
        let mut warm = WarmStart::new(config, &supervisor);
        warm.job = Some(pending().boxed());
        (warm, store)
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_does_not_answer_holds_nothing_up() {
        let (mut warm, store) = stuck();
        // A denial is still one, though the vault is busy.
        let snapshot = Arc::new(IdentitySnapshot::default());
        store.publish(&Workload::Own, Availability::Ready(snapshot.clone()));
        warm.unconfirmed = Some(snapshot);
        let status = SourceStatus { last_error_kind: Some(ErrorKind::NotEntitled), ..SourceStatus::default() };
        let (_source, source) = watch::channel(status);
        let (stop, mut states) = (CancellationToken::new(), store.watch(&Workload::Own));
        let running = tokio::spawn(warm.run(store.clone(), source, Duration::from_secs(1), stop.clone()));
        states.wait_for(|state| matches!(state, Availability::Denied(_))).await.unwrap();
        stop.cancel();
        timeout(Duration::from_secs(60), running).await.expect("it did not end").unwrap();
    }

    #[test]
    fn what_the_source_has_said_is_not_replaced_by_what_was_sealed() {
        let (mut warm, store) = stuck();
        let denied = Availability::Denied("no".into());
        store.publish(&Workload::Own, denied.clone());
        warm.opened(Ok((IdentitySnapshot::default(), SystemTime::now())), &store);
        assert_eq!(*store.watch(&Workload::Own).borrow(), denied);
        assert!(warm.unconfirmed.is_none());
    }
}
