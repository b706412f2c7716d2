//! Sockets that outlive the process.
//!
//! Two ways lead here, and both mean that a client which connects while nobody serves waits instead of being refused:
//!
//! - **Socket activation**: a `.socket` unit opened the socket and hands it to every start of the service
//!   (`LISTEN_FDS`, `sd_listen_fds(3)`).
//! - **The file descriptor store**: a socket that we opened ourselves is given to the manager (`FDSTORE=1`,
//!   `sd_pid_notify_with_fds(3)`), which hands it to the next start in the same way.
//!
//! A socket file whose socket somebody else holds on to is not removed at the end.

mod name;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::MetadataExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use sd_notify::NotifyState;

use name::Stored;

/// More than any service has; a greater number is a broken environment.
const MOST: usize = 256;

/// What was handed over and not yet taken, and the way to hand over to the next start. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Handed {
    sockets: Arc<Mutex<Vec<One>>>,
    /// Whether there is a store that takes sockets.
    store: bool,
}

#[derive(Debug)]
struct One {
    name: String,
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Which file a socket has: device and inode.
pub type FileId = (u64, u64);

/// A Unix socket that somebody opened before.
#[derive(Debug)]
pub struct HandedUnix {
    /// Listens already.
    pub listener: UnixListener,
    /// Where clients find it.
    pub path: PathBuf,
    /// The file there.
    pub file: FileId,
    /// Whether we opened it ourselves, in an earlier life.
    pub ours: bool,
}

impl Handed {
    /// Takes over what the manager hands to this process, as `environment` says (`LISTEN_PID`, `LISTEN_FDS`,
    /// `LISTEN_FDNAMES`, `FDSTORE`). Only the first call gets anything.
    ///
    /// Sockets are kept in the store when `store` says so; by default when the manager says that it has one, which
    /// systemd does since version 254.
    #[must_use]
    pub fn receive(environment: &BTreeMap<String, String>, store: Option<bool>) -> Self {
        let variable = |name: &str| environment.get(name).map(String::as_str).unwrap_or_default();
        let offered = variable("FDSTORE").parse::<u32>().is_ok_and(|room| room > 0);
        let store = store.unwrap_or(offered) && environment.contains_key("NOTIFY_SOCKET");
        let ours = variable("LISTEN_PID").parse() == Ok(std::process::id());
        let count = variable("LISTEN_FDS").parse().unwrap_or(0);
        if !ours || count == 0 || count > MOST {
            if count > 0 {
                tracing::debug!(count, "sockets were handed to another process, or too many");
            }
            return Self { sockets: Arc::default(), store };
        }
        let mut fds = ListenFd::from_env();
        let names: Vec<_> = variable("LISTEN_FDNAMES").split(':').collect();
        let sockets = (0..fds.len()).filter_map(|at| {
            let name = names.get(at).copied().unwrap_or_default().to_owned();
            match listener(&mut fds, at) {
                Ok(listener) => Some(One { name, listener }),
                Err(error) => {
                    tracing::warn!(name, %error, "what systemd handed over is not a listening socket, ignored");
                    None
                }
            }
        });
        Self { sockets: Arc::new(Mutex::new(sockets.collect())), store }
    }

    /// The Unix socket that listens at `path`: the one that is bound there, or else is called by that path
    /// (`FileDescriptorName=`). `None` when nothing fits, or its file is gone.
    #[must_use]
    pub fn take_unix(&self, path: &Path) -> Option<HandedUnix> {
        let found = self.take(|one| match &one.listener {
            Listener::Unix(listener) => is_at(listener, &one.name, path),
            Listener::Tcp(_) => false,
        })?;
        let Listener::Unix(listener) = found.listener else { return None };
        let stored = Stored::parse(&found.name);
        let ours = stored.is_some();
        // A socket of a unit may be elsewhere, and only be called by our path.
        let place = if ours { None } else { bound_path(&listener) };
        let path = place.unwrap_or_else(|| path.to_owned());
        match file_id(&path) {
            Some(file) if stored.is_none_or(|stored| stored.file == file) => {
                Some(HandedUnix { listener, path, file, ours })
            }
            _ => {
                tracing::warn!(path = %path.display(), "a socket that was handed over has lost its file, opening another");
                self.forget(&found.name);
                None
            }
        }
    }

    /// The TCP socket that listens at `address`.
    #[must_use]
    pub fn take_tcp(&self, address: SocketAddr) -> Option<TcpListener> {
        let found = self.take(|one| match &one.listener {
            Listener::Tcp(listener) => listener.local_addr().is_ok_and(|found| found == address),
            Listener::Unix(_) => false,
        })?;
        match found.listener {
            Listener::Tcp(listener) => Some(listener),
            Listener::Unix(_) => None,
        }
    }

    /// Gives a Unix socket that we opened to the store; whether the store has it. It says nothing back: that there is
    /// room is taken on trust.
    #[must_use]
    pub fn keep_unix(&self, path: &Path, file: FileId, listener: impl AsFd) -> bool {
        let name = Stored { file, path: path.to_owned() }.to_string();
        self.keep(&name, listener.as_fd())
    }

    /// Gives a TCP socket that we opened to the store.
    pub fn keep_tcp(&self, listener: impl AsFd) {
        let _ = self.keep(name::TCP, listener.as_fd());
    }

    /// Takes a Unix socket out of the store again.
    pub fn forget_unix(&self, path: &Path, file: FileId) {
        self.forget(&Stored { file, path: path.to_owned() }.to_string());
    }

    /// Closes what nothing has taken, and says so: a listener that was configured once, or a unit that does not fit the
    /// configuration.
    pub fn close_rest(&self) {
        for One { name, listener } in self.lock().drain(..) {
            let stored = Stored::parse(&name);
            if let Some(stored) = stored.filter(|stored| file_id(&stored.path) == Some(stored.file)) {
                tracing::info!(path = %stored.path.display(), "a listener of the last run is no longer configured, closed");
                let _ = fs::remove_file(&stored.path);
                self.forget(&name);
            } else if name == name::TCP {
                // A name for all of them, so it cannot be forgotten alone. The next stop of the service does it.
                tracing::info!(?listener, "a listener of the last run is no longer configured, closed");
            } else {
                tracing::warn!(name, ?listener, "a socket that was handed over fits no listener, closed");
            }
        }
    }

    fn take(&self, fits: impl Fn(&One) -> bool) -> Option<One> {
        let mut sockets = self.lock();
        let at = sockets.iter().position(fits)?;
        Some(sockets.remove(at))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<One>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> bool {
        if !self.store || name.len() > name::LONGEST {
            return false;
        }
        match sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[fd]) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, name, "a socket cannot be handed to systemd, a restart will refuse clients for a moment");
                false
            }
        }
    }

    fn forget(&self, name: &str) {
        if self.store {
            // One socket too many in the store costs nothing.
            let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
    }
}

/// The file at `path` now.
#[must_use]
pub fn file_id(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn listener(fds: &mut ListenFd, at: usize) -> io::Result<Listener> {
    let listener = match fds.take_unix_listener(at) {
        Ok(Some(unix)) => Listener::Unix(unix),
        Ok(None) => return Err(io::ErrorKind::NotFound.into()),
        Err(_) => Listener::Tcp(fds.take_tcp_listener(at)?.ok_or(io::ErrorKind::NotFound)?),
    };
    let listens = match &listener {
        Listener::Unix(unix) => getsockopt(unix, AcceptConn)?,
        Listener::Tcp(tcp) => getsockopt(tcp, AcceptConn)?,
    };
    if !listens {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    match &listener {
        Listener::Unix(unix) => unix.set_nonblocking(true)?,
        Listener::Tcp(tcp) => tcp.set_nonblocking(true)?,
    }
    Ok(listener)
}

/// Sockets of our own are bound under another name and moved into place, so their store name says where they are.
fn is_at(listener: &UnixListener, name: &str, path: &Path) -> bool {
    if let Some(stored) = Stored::parse(name) {
        return same(&stored.path, path);
    }
    bound_path(listener).is_some_and(|bound| same(&bound, path)) || Path::new(name) == path
}

fn bound_path(listener: &UnixListener) -> Option<PathBuf> {
    listener.local_addr().ok()?.as_pathname().map(Path::to_owned)
}

/// Whether two paths name one file, though they may lead there by different directories (`/var/run` and `/run`).
fn same(one: &Path, other: &Path) -> bool {
    let resolved =
        |path: &Path| -> Option<PathBuf> { Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?)) };
    one == other || resolved(one).is_some_and(|one| Some(one) == resolved(other))
}
