//! A service manager for tests: one notify socket, and the real program started with sockets handed over.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use spiffe_sds::{
    dev::{self, DevIssuer, Rotation},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::UnixDatagram,
    process::{Child, Command},
};

use super::support::world::bounded;

/// The manager, and an issuer for what it manages.
pub(super) struct Manager {
    pub(super) issuer: DevIssuer,
    notices: UnixDatagram,
    directory: TempDir,
}

/// What the program has told.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) fds: Vec<OwnedFd>,
}

/// How the program is started.
#[derive(Default)]
pub(super) struct Start<'a> {
    /// A socket to hand over, and its name.
    pub(super) hand: Option<(&'a UnixListener, String)>,
    /// Say that the socket is for somebody else.
    pub(super) other_pid: bool,
    /// Offer a store.
    pub(super) store: bool,
    pub(super) watchdog: Option<Duration>,
    /// Keys of the configuration.
    pub(super) set: Vec<&'a str>,
    /// More arguments.
    pub(super) args: Vec<String>,
}

/// The running program.
pub(super) struct Program(Child);

impl Manager {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = Endpoint::Unix(directory.path().join("agent.sock"));
        let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), agent);
        config.rotation = Rotation::Never;
        config = config.identity(SpiffeId::new("spiffe://example.org/web").unwrap(), None);
        let issuer = DevIssuer::start(config).await.unwrap();
        let notices = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { issuer, notices, directory }
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the program is configured to listen.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory().join("sds.sock")
    }

    /// As systemd does: `LISTEN_PID` is known only once the process is there.
    pub(super) fn start(&self, start: Start<'_>) -> Program {
        let pid = if start.other_pid { "1" } else { "$$" };
        let (handed, redirect) = match &start.hand {
            Some((listener, _)) => (Stdio::from(OwnedFd::from(listener.try_clone().unwrap())), "3<&0 </dev/null"),
            None => (Stdio::null(), ""),
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("export LISTEN_PID={pid}; exec \"$@\" {redirect}")).arg("sh");
        command.arg(env!("CARGO_BIN_EXE_spiffe-sds")).arg("serve").args(&start.args);
        command.arg("--endpoint").arg(self.issuer.endpoint().to_string());
        command.arg("--set").arg(format!("listeners=[{{unix: {{path: {}}}}}]", self.socket().display()));
        for assignment in &start.set {
            command.arg("--set").arg(assignment);
        }
        command.env_clear().env("NOTIFY_SOCKET", self.directory().join("notify"));
        if let Some((_, name)) = &start.hand {
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
        }
        if start.store {
            command.env("FDSTORE", "16");
        }
        if let Some(patience) = start.watchdog {
            command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        }
        command.stdin(handed).stderr(Stdio::piped()).kill_on_drop(true);
        Program(command.spawn().unwrap())
    }

    /// The next notice with this line, or one that begins so.
    pub(super) async fn hear(&self, line: &str) -> Notice {
        let heard = async {
            loop {
                let notice = self.notice().await;
                if notice.text.lines().any(|said| said.starts_with(line)) {
                    return notice;
                }
            }
        };
        bounded(heard).await
    }

    /// Until nothing was said for this long.
    pub(super) async fn silence(&self, lasting: Duration) {
        bounded(async { while tokio::time::timeout(lasting, self.notice()).await.is_ok() {} }).await;
    }

    async fn notice(&self) -> Notice {
        self.notices.async_io(Interest::READABLE, || Ok(receive(&self.notices)?)).await.unwrap()
    }
}

fn receive(notices: &UnixDatagram) -> rustix::io::Result<Notice> {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(notices, &mut [IoSliceMut::new(&mut text)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let fds = rights.flatten().collect();
    Ok(Notice { text: String::from_utf8(text[..got.bytes].to_vec()).unwrap(), fds })
}

impl Program {
    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    pub(super) async fn end(mut self) -> ExitStatus {
        // Nobody reads the log: its writer must not wait.
        drop(self.0.stderr.take());
        bounded(self.0.wait()).await.unwrap()
    }

    /// Everything it has logged, once it is gone.
    pub(super) async fn log(mut self) -> String {
        let mut log = String::new();
        bounded(self.0.stderr.take().unwrap().read_to_string(&mut log)).await.unwrap();
        bounded(self.0.wait()).await.unwrap();
        log
    }
}
