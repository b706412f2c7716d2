//! A Unix domain socket that stays where it was put.

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixListener as StdListener},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_to, connect, listen, socket},
};
use notify::{RecursiveMode, Watcher as _};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{ListenError, Troubles, UnixConfig};
use crate::systemd::{
    Handed,
    handed::{FileId, file_id},
};

/// When it is tried again to have the path back, while we do not have it: after this, and then after twice as long each time.
/// Nobody tells when another process ends, or when a directory that was removed is there again.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A bound socket whose file is watched: Istio's agent, and cleaners of temporary directories, unlink it under us.
pub(crate) struct UnixSocket {
    config: UnixConfig,
    listener: UnixListener,
    /// Which file is ours.
    identity: FileId,
    /// Whether somebody else holds the socket too, so that clients may go on connecting when we are gone.
    shared: bool,
    handed: Handed,
    /// Why clients cannot reach us by the path; `None` if they can.
    trouble: Option<Trouble>,
    /// When it is looked again while there is trouble, and how long it is until then.
    retry: (Instant, Duration),
    troubles: Troubles,
    changes: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

/// Why clients cannot reach a socket by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// This file is in its place.
    Replaced(FileId),
    /// It is gone, and cannot be bound again.
    Gone,
}

impl UnixSocket {
    /// Takes over the socket that waits for us, or else binds one. That gets its mode and owner before anybody can connect:
    /// it is bound under another name and moved into place.
    pub(super) fn open(config: &UnixConfig, handed: &Handed, troubles: Troubles) -> Result<Self, ListenError> {
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
        let (changes, watcher) = watched(&config.path);
        let handed = handed.clone();
        Ok(Self {
            config,
            listener,
            identity,
            shared,
            handed,
            trouble: None,
            retry: (Instant::now(), RETRY),
            troubles,
            changes,
            _watcher: watcher,
        })
    }

    /// The socket file.
    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    /// The next connection. Binds again when the file is gone, or what took its place is served by nobody any more.
    pub(super) async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return accepted.map(|(stream, _)| stream),
                Some(()) = self.changes.recv() => self.look(),
                () = sleep_until(self.retry.0), if self.trouble.is_some() => {
                    let pause = (self.retry.1 * 2).min(LONGEST_RETRY);
                    self.retry = (Instant::now() + pause, pause);
                    self.look();
                }
            }
        }
    }

    /// Sees whether the path is still ours, and takes it back if nobody has it.
    fn look(&mut self) {
        match file_id(&self.config.path) {
            Some(found) if found == self.identity => self.is(None),
            // Somebody else's now. Taking it back would be a fight; connections that we have go on.
            // One that was there before and has nobody behind it now is in nobody's way.
            Some(found) if self.trouble != Some(Trouble::Replaced(found)) || !is_abandoned(&self.config.path) => {
                self.is(Some(Trouble::Replaced(found)));
            }
            _ => self.bind_again(),
        }
    }

    fn bind_again(&mut self) {
        let bound = clear_stale(&self.config.path).and_then(|()| bind(&self.config));
        match bound {
            Ok((listener, identity)) => {
                tracing::warn!(path = %self.config.path.display(), "the socket was unlinked, bound again");
                self.handed.forget_unix(&self.config.path, self.identity);
                self.shared = self.handed.keep_unix(&self.config.path, identity, &listener);
                (self.listener, self.identity) = (listener, identity);
                // The directory may be another one by now.
                (self.changes, self._watcher) = watched(&self.config.path);
                self.is(None);
            }
            Err(error) if self.trouble != Some(Trouble::Gone) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(path = %self.config.path.display(), %error, source, "the socket was unlinked and cannot be bound again");
                self.is(Some(Trouble::Gone));
            }
            Err(_) => {}
        }
    }

    /// Notes how it stands. Said once for each change: every other one in the directory comes by here too.
    fn is(&mut self, trouble: Option<Trouble>) {
        if std::mem::replace(&mut self.trouble, trouble) == trouble {
            return;
        }
        self.retry = (Instant::now() + RETRY, RETRY);
        let path = &self.config.path;
        match trouble {
            Some(Trouble::Replaced(_)) => {
                tracing::error!(path = %path.display(), "the socket was replaced by another process");
                self.troubles.set(
                    path,
                    Some(
                        "was replaced by another process; see which one binds it, and give one of the two another path",
                    ),
                );
            }
            Some(Trouble::Gone) => {
                self.troubles.set(path, Some("is gone and cannot be bound again; the log has the reason"));
            }
            None => {
                tracing::info!(path = %path.display(), "clients reach the socket again");
                self.troubles.set(path, None);
            }
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
    match dial(path) {
        Err(Errno::ECONNREFUSED) => {
            tracing::info!(path = %path.display(), "removing a stale socket that nobody serves");
            fs::remove_file(path).map_err(|source| os("remove the stale socket", path, source))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(os("probe the existing socket", path, error.into())),
        Ok(()) => Err(ListenError::InUse(path.to_owned())),
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
    listening(staged, || admit(config, staged), |action, source| os(action, &config.path, source))
}

/// A socket at `path` that nobody can connect to before `admit` has said who may: until it listens, everybody is refused.
pub(crate) fn listening<E>(
    path: &Path,
    admit: impl FnOnce() -> Result<(), E>,
    failed: impl Fn(&'static str, io::Error) -> E,
) -> Result<UnixListener, E> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let made = made.map_err(|error| failed("make a socket for", error.into()))?;
    let address = UnixAddr::new(path).map_err(|error| failed("bind", error.into()))?;
    bind_to(made.as_raw_fd(), &address).map_err(|error| failed("bind", error.into()))?;
    admit()?;
    listen(&made, Backlog::MAXALLOWABLE).map_err(|error| failed("listen on", error.into()))?;
    UnixListener::from_std(StdListener::from(made)).map_err(|source| failed("listen on", source))
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

/// Whether a socket is there that nobody serves.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    is_socket && dial(path) == Err(Errno::ECONNREFUSED)
}

/// Connects for a moment, and waits for nobody.
fn dial(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        // Somebody serves it, and does not get to it.
        Err(Errno::EAGAIN) => Ok(()),
        connected => connected,
    }
}

/// Notices of changes around `path`.
fn watched(path: &Path) -> (mpsc::Receiver<()>, Option<notify::RecommendedWatcher>) {
    let (notices, changes) = mpsc::channel(1);
    let watcher = watch_directory(path, notices);
    if watcher.is_none() {
        tracing::warn!(path = %path.display(), "the socket's directory cannot be watched, an unlinked socket will not be bound again");
    }
    (changes, watcher)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    #[tokio::test]
    async fn nobody_connects_before_it_is_said_who_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sds.sock");
        let admit = || {
            let early = StdStream::connect(&path).unwrap_err();
            assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        };
        let _listener = listening(&path, admit, |_, source| source).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        StdStream::connect(&path).unwrap();
    }
}
