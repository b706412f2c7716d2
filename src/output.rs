//! Files for programs that do not speak SDS: certificate, key, bundle and tokens in a directory.
//!
//! Each output is a task of its own that follows the store. What the files hold is decided by `render`, which is pure;
//! `generation` puts them in place, all at once or not at all. docs/hooks.md describes it for users.

mod event;
mod generation;
mod render;

pub use event::{OutputEvent, Standing};
pub use generation::WriteError;
pub use render::RenderError;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    detached,
    identity::{Availability, Hint, JwtRequest, JwtSnapshot, SpiffeId},
    source::backoff::{self, Backoff},
    telemetry::{logs, metrics::Outcomes},
};
use event::Outlet;
use generation::Written;
use render::Described;

/// One directory of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// An absolute path; the directory must exist.
    pub directory: PathBuf,
    /// Which of several identities.
    pub identity: Selection,
    /// The certificates, leaf first; `None` for no such file, as with all the others.
    pub svid_file: Option<String>,
    /// The private key, PKCS#8.
    pub key_file: Option<String>,
    /// The authorities of the identity's trust domain.
    pub bundle_file: Option<String>,
    /// Private key and certificates in one file.
    pub combined_file: Option<String>,
    /// The JWT keys of all known trust domains.
    pub jwt_bundle_file: Option<String>,
    /// Tokens, each in a file of its own.
    pub jwt_svids: Vec<JwtFile>,
    /// Intermediate certificates go to the bundle instead of the certificate's file.
    pub add_intermediates_to_bundle: bool,
    /// The authorities of all known trust domains go to the bundle.
    pub include_federated_domains: bool,
    /// Permission bits of files without secrets.
    pub cert_mode: u32,
    /// Permission bits of files with a key or a token.
    pub key_mode: u32,
    /// Who owns the files; by default the user we run as.
    pub owner: Option<u32>,
    /// Whose group the files have; by default the group we run as.
    pub group: Option<u32>,
}

/// Which of several identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The source's default.
    #[default]
    Default,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The first one with this hint.
    Hint(Hint),
}

/// A token's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtFile {
    /// Which token.
    pub request: JwtRequest,
    /// Its file.
    pub file: String,
}

impl Config {
    /// The default identity in `directory`, under the usual names.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            identity: Selection::Default,
            svid_file: Some("svid.pem".to_owned()),
            key_file: Some("svid_key.pem".to_owned()),
            bundle_file: Some("svid_bundle.pem".to_owned()),
            combined_file: None,
            jwt_bundle_file: None,
            jwt_svids: Vec::new(),
            add_intermediates_to_bundle: false,
            include_federated_domains: false,
            cert_mode: 0o644,
            key_mode: 0o600,
            owner: None,
            group: None,
        }
    }
}

/// Every output of the program.
#[derive(Debug)]
pub struct Outputs {
    configs: Vec<Config>,
    outlet: Outlet,
}

/// A subscriber that lags by more events than this misses the oldest.
const EVENTS_KEPT: usize = 256;
/// Delays after a write that failed. There is no last attempt: a full disk is emptied some day.
const BACKOFF: backoff::Config = backoff::Config { initial: Duration::from_millis(500), max: Duration::from_secs(60) };

impl Outputs {
    /// Outputs that do nothing until they [run](Self::run).
    #[must_use]
    pub fn new(configs: Vec<Config>) -> Self {
        let waiting = configs.iter().map(|config| (config.directory.as_path().into(), Standing::Waiting));
        let outlet = Outlet {
            events: broadcast::Sender::new(EVENTS_KEPT),
            metrics: Outcomes::by("directory"),
            standing: watch::Sender::new(waiting.collect()),
        };
        for config in &configs {
            outlet.metrics.begin(&config.directory.to_string_lossy(), &OutputEvent::RESULTS);
        }
        Self { configs, outlet }
    }

    /// What becomes of files from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<OutputEvent> {
        self.outlet.events.subscribe()
    }

    /// How the files of each directory stand, now and as it changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<BTreeMap<Arc<std::path::Path>, Standing>> {
        self.outlet.standing.subscribe()
    }

    /// What is counted about files.
    #[must_use]
    pub fn metrics(&self) -> &Outcomes {
        &self.outlet.metrics
    }

    /// Keeps every directory like the store, until `stop`.
    pub async fn run(
        self,
        states: watch::Receiver<Availability>,
        tokens: watch::Receiver<Arc<JwtSnapshot>>,
        stop: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        for config in self.configs {
            let output = Output { config: Arc::new(config), outlet: self.outlet.clone(), failed: None, failures: 0 };
            tasks.spawn(output.run(states.clone(), tokens.clone(), stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

struct Output {
    config: Arc<Config>,
    outlet: Outlet,
    /// The kind of what went wrong last, to be told once.
    failed: Option<String>,
    failures: u32,
}

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Failure {
    /// The same for failures of one cause: a disk that is full refuses another file, of another generation, each time.
    fn kind(&self) -> String {
        match self {
            Self::Write(WriteError::Io { source, .. }) => source.kind().to_string(),
            other => logs::chain(other),
        }
    }
}

impl Output {
    async fn run(
        mut self,
        mut states: watch::Receiver<Availability>,
        mut tokens: watch::Receiver<Arc<JwtSnapshot>>,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(BACKOFF, fastrand::Rng::new());
        loop {
            let (state, jwt) = (states.borrow_and_update().clone(), tokens.borrow_and_update().clone());
            let written = tokio::select! {
                // Whoever hangs in a file system is left alone there.
                () = stop.cancelled() => return,
                written = self.write(&state, &jwt) => written,
            };
            let retry = match written {
                Ok(described) => {
                    backoff.reset();
                    self.succeeded(described);
                    None
                }
                Err(failure) => {
                    self.failure(&failure);
                    Some(Instant::now() + backoff.next_delay())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
                changed = tokens.changed() => if changed.is_err() { return },
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            }
        }
    }

    /// Brings the directory up to date. `None` if it was, or if there is nothing to write yet.
    async fn write(&self, state: &Availability, jwt: &JwtSnapshot) -> Result<Option<(Described, String)>, Failure> {
        let Some((files, described)) = render::render(&self.config, state, jwt)? else { return Ok(None) };
        let config = self.config.clone();
        let written = detached::run("output", move || generation::write(&config, &files, SystemTime::now()))
            .await
            .map_err(WriteError::Thread)??;
        self.outlet.current(&self.config.directory);
        Ok(match written {
            Written::Replaced(generation) => Some((described, generation)),
            Written::Unchanged => None,
        })
    }

    fn succeeded(&mut self, written: Option<(Described, String)>) {
        self.failed = None;
        self.failures = 0;
        let Some((Described { spiffe_id, serial, not_after }, generation)) = written else { return };
        let directory: Arc<std::path::Path> = self.config.directory.as_path().into();
        let event = OutputEvent::Written { directory, generation: generation.into(), spiffe_id, serial, not_after };
        self.outlet.report(event, true);
    }

    fn failure(&mut self, failure: &Failure) {
        self.failures = self.failures.saturating_add(1);
        let error: Arc<str> = logs::chain(failure).into();
        let kind = failure.kind();
        let news = self.failed.as_ref() != Some(&kind);
        self.failed = Some(kind);
        let directory = self.config.directory.as_path().into();
        self.outlet.report(OutputEvent::Failed { directory, error, failures: self.failures }, news);
    }
}
