//! A Unix domain socket that stays where it was put.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use notify::{RecursiveMode, Watcher as _};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};

use super::{ListenError, UnixConfig};
use crate::systemd::{
    Handed,
    handed::{FileId, file_id},
};

/// A bound socket whose file is watched: Istio's agent, and cleaners of temporary directories, unlink it under us.
pub(crate) struct UnixSocket {
    config: UnixConfig,
    listener: UnixListener,
    /// Which file is ours.
    identity: FileId,
    /// Whether somebody else holds the socket too, so that clients may go on connecting when we are gone.
    shared: bool,
    handed: Handed,
    /// The file that took its place.
    lost_to: Option<FileId>,
    changes: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl UnixSocket {
    /// Takes over the socket that waits for us, or else binds one. That gets its mode and owner before anybody can connect:
    /// it is bound under another name and moved into place.
    pub(super) fn open(config: &UnixConfig, handed: &Handed) -> Result<Self, ListenError> {
        // The file could be moved to a longer name than clients can connect to.
        SocketAddr::from_pathname(&config.path).map_err(|source| os("listen on", &config.path, source))?;
        let mut config = config.clone();
        let (listener, identity, shared) = match handed.take_unix(&config.path) {
            Some(waiting) => {
                config.path = waiting.path;
                // The unit says who may connect to a socket that it opened.
                if waiting.ours {
                    admit(&config, &config.path)?;
                }
                let listener = UnixListener::from_std(waiting.listener);
                let listener = listener.map_err(|source| os("listen on", &config.path, source))?;
                (listener, waiting.file, true)
            }
            None => {
                clear_stale(&config.path)?;
                let (listener, identity) = bind(&config)?;
                let shared = handed.keep_unix(&config.path, identity, &listener);
                (listener, identity, shared)
            }
        };
        let (notices, changes) = mpsc::channel(1);
        let watcher = watch_directory(&config.path, notices);
        if watcher.is_none() {
            tracing::warn!(path = %config.path.display(), "the socket's directory cannot be watched, an unlinked socket will not be bound again");
        }
        let handed = handed.clone();
        Ok(Self { config, listener, identity, shared, handed, lost_to: None, changes, _watcher: watcher })
    }

    /// The socket file.
    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    /// The next connection. Binds again when the file is gone.
    pub(super) async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                Some(()) = self.changes.recv() => self.rebind_if_gone(),
            }
        }
    }

    fn rebind_if_gone(&mut self) {
        match file_id(&self.config.path) {
            Some(found) if found == self.identity => {}
            // Somebody else's now. Taking it back would be a fight; connections that we have go on. Said once for each
            // thief: every other change in the directory comes by here too.
            Some(found) if self.lost_to == Some(found) => {}
            Some(found) => {
                self.lost_to = Some(found);
                tracing::error!(path = %self.config.path.display(), "the socket was replaced by another process");
            }
            None => match bind(&self.config) {
                Ok((listener, identity)) => {
                    tracing::warn!(path = %self.config.path.display(), "the socket was unlinked, bound again");
                    self.handed.forget_unix(&self.config.path, self.identity);
                    self.shared = self.handed.keep_unix(&self.config.path, identity, &listener);
                    (self.listener, self.identity) = (listener, identity);
                }
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::error!(path = %self.config.path.display(), %error, source, "the socket was unlinked and cannot be bound again");
                }
            },
        }
    }
}

/// Removes the socket file, unless it is no longer ours, or clients may wait there for the next start.
impl Drop for UnixSocket {
    fn drop(&mut self) {
        if !self.shared && file_id(&self.config.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.config.path);
        }
    }
}

/// Makes way for our socket: only a socket that nobody serves is removed.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if directory.is_some_and(|directory| !directory.is_dir()) {
        return Err(ListenError::NoDirectory(path.to_owned()));
    }
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing a stale socket that nobody serves");
            fs::remove_file(path).map_err(|source| os("remove the stale socket", path, source))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(os("probe the existing socket", path, source)),
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

fn bind(config: &UnixConfig) -> Result<(UnixListener, FileId), ListenError> {
    let path = &config.path;
    let staged = staged_path(path);
    let _ = fs::remove_file(&staged);
    let result = stage(config, &staged).and_then(|listener| {
        let identity = file_id(&staged).ok_or_else(|| os("find", &staged, io::ErrorKind::NotFound.into()))?;
        fs::rename(&staged, path).map_err(|source| os("move the socket to", path, source))?;
        Ok((listener, identity))
    });
    if result.is_err() {
        let _ = fs::remove_file(&staged);
    }
    result
}

fn stage(config: &UnixConfig, staged: &Path) -> Result<UnixListener, ListenError> {
    let listener = StdListener::bind(staged).map_err(|source| os("bind", &config.path, source))?;
    admit(config, staged)?;
    listener.set_nonblocking(true).map_err(|source| os("configure", &config.path, source))?;
    UnixListener::from_std(listener).map_err(|source| os("listen on", &config.path, source))
}

/// Sets who may connect to the socket whose file is now at `file`.
fn admit(config: &UnixConfig, file: &Path) -> Result<(), ListenError> {
    let mode = fs::Permissions::from_mode(config.mode);
    fs::set_permissions(file, mode).map_err(|source| os("set the mode of", &config.path, source))?;
    if config.owner.is_some() || config.group.is_some() {
        std::os::unix::fs::chown(file, config.owner, config.group)
            .map_err(|source| os("set the owner of", &config.path, source))?;
    }
    Ok(())
}

/// A short name beside the socket: the whole path of a socket must fit into 107 bytes.
fn staged_path(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:08x}", fastrand::u32(..)))
}

fn watch_directory(path: &Path, notices: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |_| {
        // A full channel already holds a notice.
        let _ = notices.try_send(());
    })
    .ok()?;
    watcher.watch(directory, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

fn os(action: &'static str, path: &Path, source: io::Error) -> ListenError {
    ListenError::Os { action, what: path.display().to_string(), source }
}
