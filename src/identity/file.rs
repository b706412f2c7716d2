//! Secrets in files that clients ask for by path: which may be asked for, and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Certificate, CertificateChain, PrivateKey, Validity};

/// What a client wants read. Paths are absolute and normalised; `secret` is what checks that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileRequest {
    /// The authorities that this machine trusts.
    SystemRoots,
    /// The authorities in this file.
    Roots(PathBuf),
    /// The chain in one file and its key in another.
    Certificate {
        /// PEM chain.
        certificate: PathBuf,
        /// PEM key.
        key: PathBuf,
    },
}

/// What was in the files.
#[derive(Clone, Debug)]
pub enum FileSecret {
    /// Authorities, in the order of the file; at least one.
    Roots(Vec<Certificate>),
    /// A certificate and the key that belongs to it.
    Certificate {
        /// As the file has it, leaf first.
        chain: CertificateChain,
        /// The leaf's.
        key: PrivateKey,
        /// The leaf's.
        validity: Validity,
    },
}

/// Everything known about files that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSnapshot {
    /// What can be served.
    pub secrets: BTreeMap<FileRequest, Arc<FileSecret>>,
    /// What was looked at at least once, well or not.
    pub tried: BTreeSet<FileRequest>,
}

/// What clients may ask for. The default is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePolicy {
    /// Files, and directories that stand for everything beneath them.
    pub allow: Vec<PathBuf>,
    /// Where the authorities are that this machine trusts; `None` keeps them back.
    pub system_roots: Option<SystemRoots>,
    /// How many different requests are followed at once, those of all clients together.
    pub max: usize,
}

/// Where the authorities are that this machine trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemRoots {
    /// Where this system has them.
    Probed,
    /// In this PEM file.
    File(PathBuf),
}

impl FileRequest {
    /// The files that it is about.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::SystemRoots => Vec::new(),
            Self::Roots(path) => vec![path],
            Self::Certificate { certificate, key } => vec![certificate, key],
        }
    }
}

/// Its name, in Istio's spelling.
impl fmt::Display for FileRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SystemRoots => f.write_str("file-root:system"),
            Self::Roots(path) => write!(f, "file-root:{}", path.display()),
            Self::Certificate { certificate, key } => {
                write!(f, "file-cert:{}~{}", certificate.display(), key.display())
            }
        }
    }
}

/// Compares the public part only: a key belongs to exactly one leaf, so equal chains mean equal keys.
impl PartialEq for FileSecret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Roots(one), Self::Roots(two)) => one == two,
            (Self::Certificate { chain: one, .. }, Self::Certificate { chain: two, .. }) => one == two,
            _ => false,
        }
    }
}

impl Eq for FileSecret {}

impl FileSecret {
    /// When it may be used; authorities tell nothing of it.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        match self {
            Self::Roots(_) => None,
            Self::Certificate { validity, .. } => Some(*validity),
        }
    }
}

impl Default for FilePolicy {
    fn default() -> Self {
        Self { allow: Vec::new(), system_roots: None, max: 64 }
    }
}

impl FilePolicy {
    /// Whether anything may be asked for at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.system_roots.is_some() || !self.allow.is_empty()
    }

    /// Whether `request` may be asked for, as far as its paths tell. Where links lead shows when it is read.
    #[must_use]
    pub fn permits(&self, request: &FileRequest) -> bool {
        match request {
            FileRequest::SystemRoots => self.system_roots.is_some(),
            _ => request.paths().iter().all(|path| self.allow.iter().any(|allowed| path.starts_with(allowed))),
        }
    }
}
