//! Two sealed files: the last good state, and the floor that older states are held against.
//!
//! Every state has a number greater than all before. The floor is the number of the newest one, written after it: a state
//! below the floor is an old copy that somebody put back.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    Config, Key,
    message::{self, Kind},
    seal::{Part, Seal},
};
use crate::{
    identity::{IdentitySnapshot, TrustDomain},
    source::decode::DecodeError,
};

/// More than any state has.
const LONGEST: u64 = 32 << 20;
/// A clock that was set back by less than this is no reason for a cold start.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Why there is no warm start, or nothing to keep for the next.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WarmError {
    /// No state was sealed yet, or it was withdrawn.
    #[error("nothing is sealed")]
    Nothing,
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Os {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("the key {} can be read by others (mode {mode:04o}); chmod 0600, and make a new key", path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key belongs to somebody else than us and root.
    #[error("the key {} belongs to user {owner}, who could exchange it; chown it", path.display())]
    KeyOwner {
        /// The key file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Not a key.
    #[error(
        "{} is no key; write 32 random bytes or 64 hexadecimal digits (openssl rand -hex 32)", .0.display()
    )]
    KeyForm(PathBuf),
    /// The cryptographic library refused.
    #[error("the state cannot be sealed")]
    Crypto,
    /// Not one of our files, or cut short.
    #[error("the file is not one of ours, or cut short; remove it")]
    NotOurs,
    /// Written by another version.
    #[error("the file has format {0}, which this version does not read; it will be replaced")]
    Version(u8),
    /// It does not open with our key.
    #[error("the file was changed, or sealed with another key")]
    Tampered,
    /// An old copy.
    #[error("the file is an old copy (state {found}, but {floor} was sealed since); somebody put it back")]
    RolledBack {
        /// The number of the state.
        found: u64,
        /// The smallest number that counts.
        floor: u64,
    },
    /// No floor to hold it against.
    #[error("there is nothing to tell whether it is an old copy; {} is missing or damaged", .0.display())]
    NoFloor(PathBuf),
    /// Sealed too long ago.
    #[error("it was sealed {} ago, which is more than warm_start.max_age", humantime::format_duration(*age))]
    TooOld {
        /// How long ago, in whole seconds.
        age: Duration,
    },
    /// Sealed in the future.
    #[error("it was sealed in the future; check the clock")]
    FromTheFuture,
    /// No SVID in it is valid any more.
    #[error("every SVID in it has expired")]
    Expired,
    /// It is of another trust domain than the configured one.
    #[error("it is of {found}, but source.workload_api.trust_domain is {own}; it will be replaced")]
    OtherTrustDomain {
        /// Whose it is.
        found: TrustDomain,
        /// Ours.
        own: TrustDomain,
    },
    /// Its content breaks a rule.
    #[error("its content cannot be used")]
    Content(#[from] DecodeError),
}

/// Seals states and opens them.
pub struct Vault {
    seal: Seal,
    path: PathBuf,
    floor: PathBuf,
    max_age: Duration,
    /// The number of the newest state.
    newest: u64,
}

impl Vault {
    /// Reads the key.
    ///
    /// # Errors
    /// There is none, or it is not safe to use.
    pub fn open(config: &Config) -> Result<Self, WarmError> {
        let key = read_key(&config.key)?;
        let (Key::File(path) | Key::Credential(path)) = &config.key;
        let seal = Seal::new(&key).ok_or_else(|| WarmError::KeyForm(path.clone()))?;
        let floor = beside(&config.path, ".floor");
        let mut vault = Self { seal, path: config.path.clone(), floor, max_age: config.max_age, newest: 0 };
        vault.newest = vault.read_floor().unwrap_or(0);
        Ok(vault)
    }

    /// The sealed state, and when it was sealed.
    ///
    /// # Errors
    /// Anything odd about it.
    pub fn load(&mut self, now: SystemTime) -> Result<(IdentitySnapshot, SystemTime), WarmError> {
        let file = match read(&self.path) {
            Err(WarmError::Os { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(WarmError::Nothing);
            }
            file => file?,
        };
        let plain = self.seal.open(Part::State, &file)?;
        let state = Sealed::parse(plain).ok_or(WarmError::NotOurs)?;
        let floor = self.read_floor().ok_or_else(|| WarmError::NoFloor(self.floor.clone()))?;
        self.newest = floor.max(state.number);
        if state.number < floor {
            return Err(WarmError::RolledBack { found: state.number, floor });
        }
        if state.at > now + CLOCK_TOLERANCE {
            return Err(WarmError::FromTheFuture);
        }
        let age = now.duration_since(state.at).unwrap_or_default();
        if age > self.max_age {
            return Err(WarmError::TooOld { age: Duration::from_secs(age.as_secs()) });
        }
        let at = state.at;
        let snapshot = message::decode(state.kind, state.message, state.trust_domain.as_ref(), now)?;
        if !snapshot.svids.is_empty() && snapshot.svids.iter().all(|svid| svid.validity.is_expired(now)) {
            return Err(WarmError::Expired);
        }
        Ok((snapshot, at))
    }

    /// Seals a state, in place of the one before.
    ///
    /// # Errors
    /// It cannot be written; the one before is still there, or the new one is whole.
    pub fn save(&mut self, snapshot: &IdentitySnapshot, now: SystemTime) -> Result<(), WarmError> {
        let Some((kind, message)) = message::encode(snapshot) else { return self.clear() };
        let number = self.newest + 1;
        let state = Sealed { number, at: now, kind, trust_domain: snapshot.trust_domain.clone(), message };
        write(&self.path, &self.seal.seal(Part::State, state.to_bytes())?)?;
        // After the state: between the two a state above the floor is fine, one below it would be a rollback.
        self.raise_floor(number)
    }

    /// Removes the state; a copy of it will not count.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(&mut self) -> Result<(), WarmError> {
        self.raise_floor(self.newest + 1)?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(os("remove", &self.path)(error)),
            _ => Ok(()),
        }
    }

    fn raise_floor(&mut self, number: u64) -> Result<(), WarmError> {
        self.newest = number;
        let plain = Zeroizing::new(number.to_be_bytes().to_vec());
        write(&self.floor, &self.seal.seal(Part::Floor, plain)?)
    }

    fn read_floor(&self) -> Option<u64> {
        let plain = self.seal.open(Part::Floor, &read(&self.floor).ok()?).ok()?;
        plain.as_slice().try_into().ok().map(u64::from_be_bytes)
    }
}

/// What the seal is around: number, seconds since 1970, kind, length of the trust domain, trust domain, message.
struct Sealed {
    number: u64,
    at: SystemTime,
    kind: Kind,
    trust_domain: Option<TrustDomain>,
    message: Zeroizing<Vec<u8>>,
}

impl Sealed {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let domain = self.trust_domain.as_ref().map(ToString::to_string).unwrap_or_default();
        let seconds = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 + 8 + 1 + 1 + domain.len() + self.message.len()));
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&seconds.to_be_bytes());
        bytes.push(self.kind as u8);
        // A trust domain has 255 bytes at most (SPIFFE ID, section 2.1).
        bytes.push(u8::try_from(domain.len()).unwrap_or_default());
        bytes.extend_from_slice(domain.as_bytes());
        bytes.extend_from_slice(&self.message);
        bytes
    }

    fn parse(plain: Zeroizing<Vec<u8>>) -> Option<Self> {
        let (number, rest) = plain.split_first_chunk()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (&[kind, length], rest) = rest.split_first_chunk()?;
        let (domain, message) = rest.split_at_checked(usize::from(length))?;
        let kind = [Kind::Svids, Kind::Bundles].into_iter().find(|known| *known as u8 == kind)?;
        let trust_domain = match domain {
            [] => None,
            domain => Some(TrustDomain::new(std::str::from_utf8(domain).ok()?).ok()?),
        };
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*seconds)))?;
        let message = Zeroizing::new(message.to_vec());
        Some(Self { number: u64::from_be_bytes(*number), at, kind, trust_domain, message })
    }
}

/// systemd guards credentials itself, and may grant access by an ACL that looks like a group's.
fn read_key(key: &Key) -> Result<Zeroizing<Vec<u8>>, WarmError> {
    let (Key::File(path) | Key::Credential(path)) = key;
    let file = File::open(path).map_err(os("read the key", path))?;
    let metadata = file.metadata().map_err(os("read the key", path))?;
    if let Key::File(_) = key {
        let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
        if mode & 0o077 != 0 {
            return Err(WarmError::KeyExposed { path: path.clone(), mode });
        }
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(WarmError::KeyOwner { path: path.clone(), owner });
        }
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(256).read_to_end(&mut bytes).map_err(os("read the key", path))?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Vec<u8>, WarmError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(os("read", path))?;
    file.take(LONGEST).read_to_end(&mut bytes).map_err(os("read", path))?;
    Ok(bytes)
}

/// Whole or not at all, also when the power fails.
fn write(path: &Path, bytes: &[u8]) -> Result<(), WarmError> {
    let staged = beside(path, ".new");
    let _ = fs::remove_file(&staged);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&staged);
    }
    written.map_err(os("write", path))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

fn os(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WarmError {
    let path = path.to_owned();
    move |source| WarmError::Os { action, path, source }
}
