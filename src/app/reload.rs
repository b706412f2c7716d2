//! The configuration in motion: read again on SIGHUP and when the file changes, applied as a whole or not at all.

use std::{io, path::PathBuf, time::Duration};

use notify::{RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::standing::Standing;
use crate::{
    config::{self, Change, Config, File, Problems, Sources},
    detached,
    server::Steering,
    systemd::Notifier,
    telemetry::logs,
};

/// An editor, or a mounted ConfigMap, makes several changes of one.
const SETTLE: Duration = Duration::from_millis(200);

/// Why nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] config::Error),
    /// It is wrong; all problems at once.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Applies new configurations to a running program.
pub struct Reload {
    /// What the program started with: what only a restart changes is compared with this.
    started: Sources,
    /// What was applied last.
    current: Sources,
    /// What was read last: a text, good or bad, or why there was none.
    seen: Option<Result<String, String>>,
    steering: Steering,
    logs: Option<logs::Control>,
    notifier: Notifier,
    standing: Standing,
}

impl Reload {
    pub(super) fn new(
        sources: Sources,
        steering: Steering,
        logs: Option<logs::Control>,
        notifier: Notifier,
        standing: Standing,
    ) -> Self {
        let seen = sources.file.as_ref().map(|file| Ok(file.text.clone()));
        Self { started: sources.clone(), current: sources, seen, steering, logs, notifier, standing }
    }

    /// Puts `next` into force, as far as that goes without a restart, and says what differs: from what was in force where
    /// it is live, and from the start where it is not.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing has changed.
    pub fn apply(&mut self, next: Sources) -> Result<Vec<Change>, ReloadError> {
        let applied = self.put(next);
        match &applied {
            Ok(changes) => self.standing.applied(&self.started, &self.current, changes),
            Err(error) => self.standing.refused(error),
        }
        applied
    }

    fn put(&mut self, next: Sources) -> Result<Vec<Change>, ReloadError> {
        let config = Config::new(&next)?;
        let mut changes = config::diff(&self.current, &next)?;
        changes.retain(|change| change.live);
        changes.extend(config::diff(&self.started, &next)?.into_iter().filter(|change| !change.live));
        if let Some(logs) = &self.logs {
            logs.configure(&config.logs().filter);
        }
        self.steering.apply(config.server().clone(), config.secrets().clone());
        self.current = next;
        Ok(changes)
    }

    /// Reads the file again, and applies it.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong; then nothing has changed.
    pub fn again(&mut self) -> Result<Vec<Change>, ReloadError> {
        let file = self.read();
        self.take(file)
    }

    fn read(&self) -> Result<Option<File>, config::Error> {
        self.current.file.as_ref().map(|file| File::read(&file.path)).transpose()
    }

    fn take(&mut self, file: Result<Option<File>, config::Error>) -> Result<Vec<Change>, ReloadError> {
        let file = file.map_err(ReloadError::from).inspect_err(|error| self.standing.refused(error))?;
        self.apply(Sources { file, ..self.current.clone() })
    }

    /// Reloads on SIGHUP and on changes of the file until `stop`.
    ///
    /// # Errors
    /// When the operating system does not let signals be watched, or has no thread for a reload.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let mut hangups = signal(SignalKind::hangup())?;
        let (notices, mut changes) = mpsc::channel(1);
        let path = self.current.file.as_ref().map(|file| file.path.clone());
        let _watcher = path.and_then(|path| watch(path, notices));
        if self.current.file.is_some() {
            // It may have changed since it was read for the start.
            self = self.reload_aside(false).await?;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = hangups.recv() => self = self.reload_aside(true).await?,
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    // Whatever came meanwhile is read with it.
                    let _ = changes.try_recv();
                    self = self.reload_aside(false).await?;
                }
            }
        }
    }

    /// Reading a file may take for ever, and understanding it takes a while: neither on a thread that serves proxies.
    async fn reload_aside(mut self, asked: bool) -> io::Result<Self> {
        detached::run("reload", move || {
            self.reload(asked);
            self
        })
        .await
        .inspect_err(|error| tracing::error!(%error, "configurations are not read any more, restart after a change"))
    }

    /// One reload, told to systemd and the log. A change in the directory that left the file as it was, or as bad as it
    /// was, is none.
    fn reload(&mut self, asked: bool) {
        let file = self.read();
        let seen = match &file {
            Ok(file) => file.as_ref().map(|file| Ok(file.text.clone())),
            Err(error) => Some(Err(logs::chain(error))),
        };
        if !asked && seen == self.seen {
            return;
        }
        self.seen = seen;
        self.notifier.reloading();
        match self.take(file) {
            Ok(changes) => {
                let (live, waiting): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.live);
                tracing::info!(changes = shown(&live), "configuration reloaded");
                if !waiting.is_empty() {
                    tracing::warn!(changes = shown(&waiting), "some changes of the configuration wait for a restart");
                }
            }
            Err(error) => {
                let error = logs::chain(&error);
                tracing::error!(%error, "the new configuration is wrong, the old one stays in force");
            }
        }
        self.notifier.reloaded();
    }
}

fn shown(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The directory is watched, because editors and ConfigMaps replace the file.
fn watch(path: PathBuf, notices: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let opened = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = notices.try_send(());
        }
    });
    let watched =
        opened.and_then(|mut watcher| watcher.watch(directory, RecursiveMode::NonRecursive).map(|()| watcher));
    match watched {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the configuration file cannot be watched, send SIGHUP after a change");
            None
        }
    }
}
