//! Signals the process whose number stands in a file.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::detached;

/// Whom to signal, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Holds the process number; read each time.
    pub pid_file: PathBuf,
    /// Which signal.
    pub signal: Signal,
    /// The name that the process must have (`/proc/PID/comm`, at most 15 bytes); any, if there is none.
    pub process: Option<String>,
}

/// Why nobody was signalled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The file cannot be read.
    #[error("cannot read the pid file {}; does the process write it, and may we read it?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// There is no process number in it.
    #[error("the pid file {} holds {content:?}, no process number; it must hold one number above 0", path.display())]
    NoNumber {
        /// The file.
        path: PathBuf,
        /// What it begins with.
        content: String,
    },
    /// It is our own number.
    #[error("the pid file {} names process {pid}, which is this one; name the file of the program to signal", path.display())]
    Ourselves {
        /// The file.
        path: PathBuf,
        /// The number.
        pid: i32,
    },
    /// No such process.
    #[error("the pid file {} names process {pid}, which does not exist; is the file left over from an earlier run?", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// The number.
        pid: i32,
    },
    /// Another program has the number now.
    #[error("the pid file {} names process {pid}, which is {found:?} and not {expected:?}; the file is left over from an earlier run", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The number.
        pid: i32,
        /// The name the process has.
        found: String,
        /// The name it must have.
        expected: String,
    },
    /// The operating system refuses.
    #[error("process {pid}, named by the pid file {}, cannot be signalled; it may belong to another user", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The number.
        pid: i32,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No thread to read the file on.
    #[error("cannot look at the pid file")]
    Thread(#[source] io::Error),
}

/// More than any process number has.
const LONGEST: u64 = 64;

/// Reads the file and signals the process.
pub(super) async fn send(config: &Config) -> Result<(), SignalError> {
    let config = config.clone();
    detached::run("signal", move || deliver(&config)).await.map_err(SignalError::Thread)?
}

fn deliver(config: &Config) -> Result<(), SignalError> {
    let path = &config.pid_file;
    let pid = pid(path)?;
    if let Some(expected) = &config.process {
        let found = match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => name.trim_end().to_owned(),
            Err(_) => return Err(SignalError::Stale { path: path.clone(), pid }),
        };
        if found != *expected {
            return Err(SignalError::Foreign { path: path.clone(), pid, found, expected: expected.clone() });
        }
    }
    match signal::kill(Pid::from_raw(pid), config.signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) => Err(SignalError::Stale { path: path.clone(), pid }),
        Err(errno) => Err(SignalError::Refused { path: path.clone(), pid, source: errno.into() }),
    }
}

/// The number in the file. Never 0 or less: those mean whole groups of processes.
fn pid(path: &Path) -> Result<i32, SignalError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut content))
        .map_err(|source| SignalError::Read { path: path.to_owned(), source })?;
    let content = String::from_utf8_lossy(&content);
    // Some programs write more lines, such as their data directory, below the number.
    let first = content.lines().next().unwrap_or_default().trim();
    match first.parse::<i32>() {
        Ok(pid) if pid > 0 && first.bytes().all(|byte| byte.is_ascii_digit()) => {
            if u32::try_from(pid) == Ok(std::process::id()) {
                return Err(SignalError::Ourselves { path: path.to_owned(), pid });
            }
            Ok(pid)
        }
        _ => Err(SignalError::NoNumber { path: path.to_owned(), content: first.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<i32, SignalError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        std::fs::write(&path, content).unwrap();
        pid(&path)
    }

    #[test]
    fn a_number_is_a_number() {
        assert_eq!(read("1").unwrap(), 1);
        assert_eq!(read(" 123456789 \n/var/lib/data\n").unwrap(), 123_456_789);
        for content in ["", "0", "-1", "-0", "+5", "1 2", "nginx", "99999999999", "0x10", "\u{661}"] {
            assert!(matches!(read(content), Err(SignalError::NoNumber { .. })), "{content:?}");
        }
        assert!(matches!(read(&std::process::id().to_string()), Err(SignalError::Ourselves { .. })));
        assert!(matches!(pid(Path::new("/nowhere/pid")), Err(SignalError::Read { .. })));
    }
}
