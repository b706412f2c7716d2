//! Runs a program: an argument list and no shell, a minimal environment, a process group that ends with its time.

mod tail;

use std::{
    io,
    process::{ExitStatus, Stdio},
    sync::Mutex,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::detached;
use tail::Tail;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// An absolute path.
    pub program: String,
    /// Handed over as they are.
    pub arguments: Vec<String>,
}

/// Why a program did not do what it shall.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// It cannot be started.
    #[error("cannot start {program}; does it exist, and may we run it?")]
    Start {
        /// The program.
        program: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It ended with something else than 0.
    #[error("{program} failed with {status}; it said: {output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit code, or the signal that ended it.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// It did not end, and was ended with everything it had started.
    #[error(
        "{program} ran for longer than {after:?} and was killed; make it faster, or raise `timeout`; it said: {output}"
    )]
    TimedOut {
        /// The program.
        program: String,
        /// How long it was let run.
        after: Duration,
        /// The end of what it wrote.
        output: String,
    },
    /// This process ends, and so it was ended.
    #[error("{0} was ended because this process ends")]
    Stopped(String),
    /// The operating system lost it.
    #[error("cannot wait for {program}")]
    Wait {
        /// The program.
        program: String,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// All that a program inherits. What else it needs it is given by its arguments: `/usr/bin/env NAME=VALUE program`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long is read after the program has ended: somebody in the background may hold its output open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs the program to its end, or until `limit`, or until `stop`.
pub(super) async fn run(
    config: &Config,
    environment: Vec<(String, String)>,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), ExecError> {
    let program = || config.program.clone();
    let mut running =
        start(config, environment).await.map_err(|source| ExecError::Start { program: program(), source })?;
    let output = Mutex::new(Tail::default());
    let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
    let mut reading = std::pin::pin!(async { tokio::join!(tail::read(stdout, &output), tail::read(stderr, &output)) });
    let mut all_read = false;
    let mut deadline = std::pin::pin!(sleep(limit));
    let status = loop {
        tokio::select! {
            biased;
            status = running.wait() => break status,
            _ = &mut reading, if !all_read => all_read = true,
            () = stop.cancelled() => {
                running.end().await;
                return Err(ExecError::Stopped(program()));
            }
            () = &mut deadline => {
                running.end().await;
                let _ = timeout(LAST_WORDS, reading).await;
                return Err(ExecError::TimedOut { program: program(), after: limit, output: tail::shown(&output) });
            }
        }
    };
    if !all_read {
        let _ = timeout(LAST_WORDS, reading).await;
    }
    match status {
        Ok(status) if status.success() => {
            tracing::debug!(program = config.program, output = tail::shown(&output), "program ended");
            Ok(())
        }
        Ok(status) => Err(ExecError::Failed { program: program(), status, output: tail::shown(&output) }),
        Err(source) => Err(ExecError::Wait { program: program(), source }),
    }
}

async fn start(config: &Config, environment: Vec<(String, String)>) -> io::Result<Running> {
    let mut command = Command::new(&config.program);
    command
        .args(&config.arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let runtime = Handle::current();
    // Starting waits until the program's file was read, which may be on a file system that hangs.
    let child = detached::run("exec", move || {
        let _runtime = runtime.enter();
        command.spawn()
    })
    .await??;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    Ok(Running { group, child })
}

/// A program and everything it has started that did not leave its process group.
struct Running {
    /// `None` once the program was waited for: from then on the number may be somebody else's.
    group: Option<Pid>,
    child: Child,
}

impl Running {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.group = None;
        status
    }

    /// Ends the whole group: politely, then not.
    async fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        let gone = async {
            while self.is_running() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = timeout(TERM_GRACE, gone).await;
        // Its children may be more stubborn. While it is not waited for, its number stays its own.
        self.signal(Signal::SIGKILL);
        let _ = self.wait().await;
    }

    fn is_running(&self) -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.group
            .is_some_and(|pid| matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An empty group is fine.
            let _ = killpg(group, signal);
        }
    }
}

/// When nobody waits any more nothing stays behind.
impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
