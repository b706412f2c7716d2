//! One Envoy process: started on a configuration, found by its ports, ended with its handle.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::{
    POLL,
    admin::{self, Admin, until},
    install::EnvoyBinary,
};
use crate::envoy::{self, Address, Bootstrap, Listener, Upstream};

/// A running Envoy. Killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    bootstrap: Bootstrap,
    admin: Admin,
    child: Mutex<Child>,
    log: PathBuf,
}

/// Why Envoy does not run, or not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is none.
    #[error("the bootstrap of envoy {node:?} is not valid")]
    Bootstrap {
        /// The node id.
        node: String,
        /// What is wrong with it.
        source: envoy::Error,
    },
    /// A file of the configuration cannot be written.
    #[error("could not write {path:?} for envoy: choose a directory that can be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The configuration has no such file.
    #[error("envoy {node:?} takes no {what} from a file: set {what}_from in its bootstrap")]
    Static {
        /// The node id.
        node: String,
        /// `listeners` or `upstreams`.
        what: &'static str,
    },
    /// The process cannot be made.
    #[error("could not run {path:?}")]
    Spawn {
        /// The binary.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("envoy {node:?} ended ({status}); the end of {log:?}:\n{tail}")]
    Ended {
        /// The node id.
        node: String,
        /// Exit code or signal.
        status: String,
        /// Where everything it said is.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// A wait ended; the end of the log may say why.
    #[error("envoy {node:?} is not as wanted ({wait}); the end of {log:?}:\n{tail}")]
    Wait {
        /// The node id.
        node: String,
        /// What was waited for and seen.
        wait: String,
        /// Where everything it said is.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
}

impl Envoy {
    /// How long an Envoy may take from its start to an admin interface that answers.
    const START: Duration = Duration::from_secs(30);

    /// Starts an Envoy and waits until its admin interface answers, which is before its secrets are there: then see
    /// [`wait_ready`](Self::wait_ready). Its files go to `dir` and are named after the node id, so Envoys in one
    /// directory need different ones: `ID.yaml`, `ID.log` and, if the bootstrap wants them, the files it names.
    ///
    /// Without an admin address the bootstrap gets one with a port of the kernel's choice. An upstream with TLS over
    /// an aggregated variant moves to a file by itself.
    ///
    /// # Errors
    /// When Envoy refuses the configuration or does not start; its last words are in the message.
    pub async fn start(binary: &EnvoyBinary, dir: &Path, mut bootstrap: Bootstrap) -> Result<Self, Error> {
        let node = bootstrap.node_id.clone();
        let file = |ending: &str| dir.join(format!("{node}.{ending}"));
        bootstrap.admin.get_or_insert(Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
        if bootstrap.sds.variant.is_aggregated() && bootstrap.upstreams.iter().any(|upstream| upstream.tls.is_some()) {
            bootstrap.upstreams_from.get_or_insert_with(|| file("clusters.yaml"));
        }
        let config = file("yaml");
        replace(&config, &valid(&bootstrap, bootstrap.to_yaml())?)?;
        if let Some(path) = &bootstrap.upstreams_from {
            replace(path, &valid(&bootstrap, bootstrap.upstream_file("0", &bootstrap.upstreams))?)?;
        }
        if let Some(path) = &bootstrap.listeners_from {
            replace(path, &valid(&bootstrap, bootstrap.listener_file("0", &bootstrap.listeners))?)?;
        }

        let (log, admin_file) = (file("log"), file("admin"));
        // A file of an earlier run would be taken for this one's.
        let _ = fs::remove_file(&admin_file);
        let output = File::create(&log).and_then(|out| Ok((out.try_clone()?, out)));
        let (stdout, stderr) = output.map_err(|source| Error::Write { path: log.clone(), source })?;
        let mut command = Command::new(binary.path());
        // Without hot restart there is no shared memory to collide over, hence no --base-id to choose.
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "info"]);
        // A removed listener closes its connections after the drain time; the default is ten minutes.
        command.args(["--drain-time-s", "1", "--drain-strategy", "immediate"]);
        command.arg("--admin-address-path").arg(&admin_file).arg("-c").arg(&config);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).kill_on_drop(true);
        // A Ctrl-C in the terminal is for us: Envoy ends when it is told to, after the load on it has ended.
        command.process_group(0);
        let child = command.spawn().map_err(|source| Error::Spawn { path: binary.path().to_owned(), source })?;

        let unset = Admin::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut envoy = Self { bootstrap, admin: unset, child: Mutex::new(child), log };
        envoy.admin = envoy.wait("the admin interface", Self::START, async |_| answering(&admin_file).await).await?;
        tracing::debug!(node, admin = %envoy.admin.address(), "started envoy");
        Ok(envoy)
    }

    /// The description it runs on.
    pub const fn bootstrap(&self) -> &Bootstrap {
        &self.bootstrap
    }

    /// Its admin interface.
    pub const fn admin(&self) -> Admin {
        self.admin
    }

    /// Everything it has said.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process; none after it ended.
    pub fn pid(&self) -> Option<u32> {
        self.lock().id()
    }

    /// Waits until `/ready` says so. An Envoy in which a secret is pending is not, until `initial_fetch_timeout`.
    ///
    /// # Errors
    /// When it is not within the bound, or ends.
    pub async fn wait_ready(&self, bound: Duration) -> Result<(), Error> {
        let probe = async |admin: Admin| match admin.is_ready().await {
            true => Ok(()),
            false => Err("not ready".to_owned()),
        };
        self.wait("/ready", bound, probe).await
    }

    /// Waits until a listener is there and says where. One that was added later is there once its secrets are; one of
    /// the start is there at once and opens with [`wait_ready`](Self::wait_ready).
    ///
    /// # Errors
    /// When it is not within the bound, or Envoy ends.
    pub async fn wait_listener(&self, name: &str, bound: Duration) -> Result<SocketAddr, Error> {
        let probe = async |admin: Admin| match admin.listeners().await {
            Ok(listeners) => listeners.get(name).copied().ok_or_else(|| format!("{:?}", listeners.keys())),
            Err(error) => Err(error.to_string()),
        };
        self.wait(&format!("listener {name:?}"), bound, probe).await
    }

    /// Waits until a listener is gone.
    ///
    /// # Errors
    /// When it is still there at the bound, or Envoy ends.
    pub async fn wait_no_listener(&self, name: &str, bound: Duration) -> Result<(), Error> {
        let probe = async |admin: Admin| match admin.listeners().await {
            Ok(listeners) if !listeners.contains_key(name) => Ok(()),
            Ok(listeners) => Err(format!("{:?}", listeners.keys())),
            Err(error) => Err(error.to_string()),
        };
        self.wait(&format!("no listener {name:?}"), bound, probe).await
    }

    /// Replaces all listeners, at once for Envoy. Needs [`Bootstrap::listeners_from`]. Returns before Envoy has seen it.
    ///
    /// # Errors
    /// When the listeners are not valid or the file cannot be written.
    pub fn replace_listeners(&self, version: &str, listeners: &[Listener]) -> Result<(), Error> {
        let path = self.bootstrap.listeners_from.as_deref();
        let path = path.ok_or_else(|| Error::Static { node: self.bootstrap.node_id.clone(), what: "listeners" })?;
        replace(path, &valid(&self.bootstrap, self.bootstrap.listener_file(version, listeners))?)
    }

    /// Replaces all upstreams. Needs [`Bootstrap::upstreams_from`]. Returns before Envoy has seen it.
    ///
    /// # Errors
    /// When the upstreams are not valid or the file cannot be written.
    pub fn replace_upstreams(&self, version: &str, upstreams: &[Upstream]) -> Result<(), Error> {
        let path = self.bootstrap.upstreams_from.as_deref();
        let path = path.ok_or_else(|| Error::Static { node: self.bootstrap.node_id.clone(), what: "upstreams" })?;
        replace(path, &valid(&self.bootstrap, self.bootstrap.upstream_file(version, upstreams))?)
    }

    /// Ends it: SIGTERM, and SIGKILL if it has not ended within five seconds.
    pub async fn stop(self) {
        if let Some(pid) = self.pid().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended between the two lines.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = async || self.ended().map(drop).ok_or_else(|| "running".to_owned());
        if until(Duration::from_secs(5), "its end", ended).await.is_err() {
            tracing::warn!(node = self.bootstrap.node_id, "killing envoy, which did not end in time");
            let _ = self.lock().start_kill();
            let _ = until(Duration::from_secs(5), "its end", ended).await;
        }
    }

    /// Asks until there is an answer, the bound has passed or the process has ended.
    async fn wait<T>(
        &self,
        what: &str,
        bound: Duration,
        probe: impl AsyncFn(Admin) -> Result<T, String>,
    ) -> Result<T, Error> {
        let gone = async {
            loop {
                if let Some(status) = self.ended() {
                    break status;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let (node, log) = (self.bootstrap.node_id.clone(), self.log.clone());
        tokio::select! {
            status = gone => Err(Error::Ended { node, status, tail: tail(&log), log }),
            answer = until(bound, what, async || probe(self.admin).await) => answer.map_err(|error: admin::Error| {
                Error::Wait { node, wait: error.to_string(), tail: tail(&log), log }
            }),
        }
    }

    /// How it ended, if it did.
    fn ended(&self) -> Option<String> {
        match self.lock().try_wait() {
            Ok(status) => status.map(|status| status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        // Nothing that holds the lock panics; if it did, the child would still be the child.
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The admin interface whose address Envoy wrote to this file, once it answers.
async fn answering(file: &Path) -> Result<Admin, String> {
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let address = text.trim().parse().map_err(|error| format!("{text:?}: {error}"))?;
    let admin = Admin::new(address);
    admin.server_info().await.map(|_| admin).map_err(|error| error.to_string())
}

fn valid(bootstrap: &Bootstrap, text: Result<String, envoy::Error>) -> Result<String, Error> {
    text.map_err(|source| Error::Bootstrap { node: bootstrap.node_id.clone(), source })
}

/// Writes a file so that whoever watches it sees it whole: beside it, then renamed over it.
fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// The last lines of a log, without the two hundred that list Envoy's extensions.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}
