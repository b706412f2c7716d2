//! What is wrong with a configuration: everything at once, each with its place and its fix.

use std::{fmt, io, path::PathBuf, sync::Arc};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was asked for cannot be read.
    #[error("cannot read the configuration file {}; name an existing one with --config or SPIFFE_SDS_CONFIG", path.display())]
    Read {
        /// As it was asked for.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is a pipe, a device, a socket or a directory.
    #[error("the configuration {} is not a regular file; write it to one", path.display())]
    NotAFile {
        /// As it was asked for.
        path: PathBuf,
    },
    /// It is not what it should be.
    #[error("the configuration file {} is larger than {limit} bytes; is it the right one?", path.display())]
    TooLarge {
        /// As it was asked for.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// There is nothing in it: it is about to be written, or the disk was full.
    #[error("the configuration file {} is empty; write at least a comment to mean the defaults", path.display())]
    Empty {
        /// As it was asked for.
        path: PathBuf,
    },
    /// Somebody is writing it.
    #[error("the configuration file {} changes all the time; write it once, best beside it and then rename it", path.display())]
    Unsettled {
        /// As it was asked for.
        path: PathBuf,
    },
    /// It was read and is wrong.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// A file, an environment variable or a flag, as the user knows it.
    pub(super) source: Arc<str>,
    /// Line and column, both from 1; only files have them.
    pub(super) at: Option<(u64, u64)>,
}

impl Origin {
    pub(super) fn of(source: &str) -> Self {
        Self { source: Arc::from(source), at: None }
    }

    /// The file, environment variable or flag, as the user knows it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it is a place in the configuration file.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        self.at.is_some()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.at {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong, where it was written, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `None` when the trouble is that nothing was written.
    pub(super) origin: Option<Origin>,
    /// The dotted key; empty when the whole file is meant.
    pub(super) key: String,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(origin: impl Into<Option<Origin>>, key: &str, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), key: key.to_owned(), message: message.into() }
    }

    /// The dotted key that is wrong, such as `listeners[0].unix.mode`; empty when a whole file is.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether this is about `section` or something inside it.
    pub(super) fn is_within(&self, section: &str) -> bool {
        self.key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `None` if there are none.
    pub(super) fn new(mut problems: Vec<Problem>) -> Option<Self> {
        // Files first, line by line; then variables and flags, and last what was never written.
        problems.sort_by_key(|problem| match &problem.origin {
            Some(origin) => (origin.at.is_none(), origin.at),
            None => (true, Some((u64::MAX, u64::MAX))),
        });
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "problem" } else { "problems" };
        write!(f, "the configuration has {} {plural}:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}
