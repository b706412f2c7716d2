//! Warm start: the last good state, sealed on disk, served after a start until the source answers.
//!
//! Off by default: it puts private keys on disk (sealed, see `docs/warm-start.md` for what that is worth). Whatever is odd
//! about what lies there means a cold start and a warning, never an error: the source is the truth, this is a head start.

mod message;
mod seal;
mod vault;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use vault::{Vault, WarmError};

use super::{ErrorKind, RenewalEvent, SourceStatus, Supervisor, event::Reporter};
use crate::{
    identity::{Availability, IdentitySnapshot, IdentityStore, Workload},
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

/// Serves the sealed state until the source answers, and seals what the source says.
pub struct WarmStart {
    config: Config,
    vault: Option<Vault>,
    reporter: Reporter,
    /// What is in service though the source has not confirmed it.
    unconfirmed: Option<Arc<IdentitySnapshot>>,
    expired: bool,
}

impl WarmStart {
    /// Opens the vault. Without its key there is a warning, and no warm start.
    #[must_use]
    pub fn new(config: Config, supervisor: &Supervisor) -> Self {
        let vault = match Vault::open(&config) {
            Ok(vault) => Some(vault),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(path = %config.path.display(), %error, "warm start is off, nothing is sealed or served from disk");
                None
            }
        };
        Self { config, vault, reporter: supervisor.reporter().beside(), unconfirmed: None, expired: false }
    }

    /// Puts the sealed state into service. Call it before the supervisor runs.
    pub fn begin(&mut self, store: &IdentityStore, now: SystemTime) {
        let Some(vault) = &mut self.vault else { return };
        match vault.load(now) {
            Ok((snapshot, sealed_at)) => {
                let snapshot = Arc::new(snapshot);
                store.publish(&Workload::Own, Availability::Ready(snapshot.clone()));
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
            if self.unconfirmed.is_none() && !known {
                self.seal(&state).await;
                sealed = Some((state, Instant::now()));
            }
            // A state that stays the same is still confirmed, and must not grow too old.
            let again = sealed.as_ref().map(|(_, at)| *at + refresh).filter(|_| status.connected);
            let wait = denied.filter(|_| self.unconfirmed.is_some());
            let expiry = self.until_expiry();
            tokio::select! {
                () = stop.cancelled() => return,
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

    /// Writing may block, and a disk that is full must not keep anybody waiting.
    async fn seal(&mut self, state: &Availability) {
        let Some(mut vault) = self.vault.take() else { return };
        let state = state.clone();
        let done = tokio::task::spawn_blocking(move || {
            let outcome = match &state {
                Availability::Ready(snapshot) => vault.save(snapshot, SystemTime::now()),
                // What was taken from us must not come back with the next start.
                Availability::Denied(_) => vault.clear(),
                Availability::Pending => Ok(()),
            };
            (vault, outcome)
        });
        // A panic inside leaves us without a vault, and everything else untouched.
        let Ok((vault, outcome)) = done.await else { return };
        self.vault = Some(vault);
        if let Err(error) = outcome {
            let error = chain(&error);
            tracing::warn!(path = %self.config.path.display(), %error, "the identity cannot be sealed, the next start may be a cold one");
        }
    }
}
