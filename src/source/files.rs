//! Certificates, keys and trust bundles in files, for workloads without a Workload API.
//!
//! Whatever writes them (cert-manager's csi-driver-spiffe, spiffe-helper, a Kubernetes secret) replaces them while we
//! read. The directories are watched, nothing polls; files that do not fit together are a generation half-written, and
//! the next change is waited for. What is read is judged by the rules of [`decode`](super::decode), as if a Workload
//! API had said it.

mod blocks;
pub(super) mod bundle;
mod load;
pub(super) mod open;
pub(super) mod pem;
mod session;
pub(super) mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, ready},
    stream::{self, BoxStream},
};

pub use blocks::Fault;

use super::{
    JwtSource, Source, SourceError,
    decode::{
        Limits, Precedence, SvidError,
        jwt::{JwtBundles, JwtKeys},
    },
};
use crate::identity::{IdentitySnapshot, JwtRequest, JwtSvid, Refusal, TrustDomain, Workload};

/// Which files hold what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The identities; the first one is the default. Without any, the source knows only whom to trust.
    pub svids: Vec<SvidFiles>,
    /// A file of authorities for each of these trust domains: PEM, or a SPIFFE trust bundle (JSON).
    pub bundles: BTreeMap<TrustDomain, PathBuf>,
}

/// The files of one X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidFiles {
    /// Where they are.
    pub paths: Paths,
    /// The operator's label; empty for none.
    pub hint: String,
}

/// Where the files of one X.509-SVID are. A bundle of its own trust domain that is not here is in [`Config::bundles`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paths {
    /// A directory in one of the known [layouts](LAYOUTS).
    Directory {
        /// The directory.
        directory: PathBuf,
        /// In place of the layout's own bundle.
        bundle: Option<PathBuf>,
    },
    /// Each file by itself.
    Each {
        /// PEM chain; the leaf is found whatever the order.
        certificate: PathBuf,
        /// PEM key: PKCS#8, SEC 1 or PKCS#1, not encrypted. May be the same file.
        key: PathBuf,
        /// PEM authorities of its own trust domain.
        bundle: Option<PathBuf>,
    },
}

/// Names of the chain, key and bundle in the directories that others write: cert-manager's csi-driver-spiffe (and every
/// Kubernetes TLS secret), spiffe-helper.
pub const LAYOUTS: [[&str; 3]; 2] = [["tls.crt", "tls.key", "ca.crt"], ["svid.pem", "svid_key.pem", "svid_bundle.pem"]];

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// Not there, not readable.
    #[error("cannot read {}; is its volume mounted, and may this process read it?", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Changes of the directory cannot be followed.
    #[error("cannot watch {} for changes; check its permissions, and fs.inotify.max_user_instances", path.display())]
    Watch {
        /// Which directory.
        path: PathBuf,
        /// The operating system's reason.
        source: notify::Error,
    },
    /// No known layout.
    #[error(
        "{} holds neither tls.crt with tls.key nor svid.pem with svid_key.pem; name the files with `certificate` and `key`",
        directory.display()
    )]
    Layout {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory, a pipe, a device.
    #[error("{} is no file; is it the right path?", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// A client has asked for it, and it is not where clients may ask.
    #[error(
        "{} is a link to a place that `secrets.files.allow` does not name; put the file where the link is, or allow that \
         place too",
        path.display()
    )]
    Outside {
        /// Which path, as it was asked for.
        path: PathBuf,
    },
    /// No place is known where this system has its authorities.
    #[error(
        "this system has no trusted authorities where they are looked for; install ca-certificates, or set `secrets.files.system_roots` to a file"
    )]
    NoSystemRoots,
    /// PEM that holds something else than a certificate.
    #[error("certificate {index} of {} is not valid; write the file anew", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Position in the file, from 0.
        index: usize,
    },
    /// A certificate that cannot be used, or not with this key.
    #[error("the certificate in {} cannot be used with the key in {}", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The rule that it breaks.
        source: SvidError,
    },
    /// Larger than anything that belongs here.
    #[error("{} has more than {limit} bytes; is it the right file?", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// What is allowed.
        limit: u64,
    },
    /// Not PEM.
    #[error("block {index} of {} is not valid PEM; write the file anew", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Position in the file, from 0.
        index: usize,
        /// What is wrong with it.
        source: Fault,
    },
    /// Nothing of what was looked for.
    #[error("{} holds no {expected}; is it the right file?", path.display())]
    Nothing {
        /// Which file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// More than one private key.
    #[error("{} holds several private keys; leave only the one of the certificate", path.display())]
    SeveralKeys {
        /// Which file.
        path: PathBuf,
    },
    /// A key that wants a passphrase.
    #[error("the private key in {} is encrypted; store it without a passphrase, readable by this process only", path.display())]
    EncryptedKey {
        /// Which file.
        path: PathBuf,
    },
    /// Not a key of a kind that TLS stacks use.
    #[error("the private key in {} cannot be used; use ECDSA P-256, P-384, P-521, RSA or Ed25519", path.display())]
    UnusableKey {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate does not say whose it is.
    #[error("the certificate in {} is no X.509-SVID: it has {uris} URI names where exactly one is allowed", path.display())]
    NoIdentity {
        /// Which file.
        path: PathBuf,
        /// URI names in the leaf.
        uris: usize,
    },
    /// Nobody to vouch for an identity.
    #[error(
        "no file holds the trust bundle of {trust_domain}; set `bundle` beside the certificate, or add it to `bundles`"
    )]
    NoBundle {
        /// Whose bundle.
        trust_domain: String,
    },
    /// Not JSON, or not the JSON of a SPIFFE trust bundle.
    #[error("{} is no SPIFFE trust bundle", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Somebody wants a token.
    #[error("files hold no JWT-SVIDs; let a Workload API be in service, or take `jwt.svids` out of the configuration")]
    NoTokens,
    /// A SPIFFE trust bundle whose X.509 keys hold no certificate.
    #[error("key {index} of {} holds no base64 certificate in `x5c`, and no other key does; write the bundle anew", path.display())]
    JsonKey {
        /// Which file.
        path: PathBuf,
        /// Position in the bundle, from 0.
        index: usize,
    },
}

impl FilesError {
    /// Whether the files are there and it is what they hold that is bad.
    #[must_use]
    pub fn is_content(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Watch { .. } | Self::Layout { .. } | Self::NoTokens)
    }
}

/// A [`Source`] that reads files. They are this process's own, so it knows [`Workload::Own`] only.
#[derive(Clone, Debug)]
pub struct Files {
    config: Arc<Config>,
    limits: Limits,
    memory: Arc<Mutex<Memory>>,
}

/// What was said already.
#[derive(Debug, Default)]
struct Memory {
    /// The failure that the last session ended with; `None` after a success.
    failure: Option<String>,
    /// Keys that others may read.
    exposed: BTreeSet<PathBuf>,
    /// What was left out of what was last said.
    refusals: Vec<Refusal>,
    /// Whose the certificates were, when they could be read.
    named: BTreeMap<PathBuf, String>,
    known: Precedence,
}

impl Files {
    /// A source with default limits. Nothing is opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config: Arc::new(config), limits: Limits::default(), memory: Arc::default() }
    }

    /// With other limits on what the files may hold.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Source for Files {
    fn watch(&self, workload: &Workload) -> BoxStream<'static, Result<IdentitySnapshot, SourceError>> {
        match workload {
            Workload::Own => session::open(self.clone()).boxed(),
        }
    }

    fn name(&self) -> Arc<str> {
        let first = self.config.svids.first().map(|svid| svid.paths.first());
        let first = first.or_else(|| self.config.bundles.values().next().map(PathBuf::as_path));
        format!("file://{}", first.unwrap_or(Path::new("")).display()).into()
    }
}

/// They have no tokens, and no keys that verify any.
impl JwtSource for Files {
    fn fetch(&self, _: &Workload, _: &JwtRequest, _: &JwtBundles) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        ready(Err(FilesError::NoTokens.into())).boxed()
    }

    fn watch_keys(&self, _: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        stream::iter([Ok(JwtKeys::default())]).chain(stream::pending()).boxed()
    }
}

impl Paths {
    fn first(&self) -> &Path {
        match self {
            Self::Directory { directory, .. } => directory,
            Self::Each { certificate, .. } => certificate,
        }
    }
}

impl Config {
    /// Every file that may be read, also those of layouts that are not there.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.bundles.values().cloned().collect();
        for svid in &self.svids {
            match &svid.paths {
                Paths::Directory { directory, bundle } => {
                    files.extend(LAYOUTS.iter().flatten().map(|name| directory.join(name)));
                    files.extend(bundle.clone());
                }
                Paths::Each { certificate, key, bundle } => {
                    files.extend([certificate.clone(), key.clone()]);
                    files.extend(bundle.clone());
                }
            }
        }
        files
    }
}
