//! Reading a configuration file that may be anything: a pipe that nobody writes to, a device without an end, a file that
//! somebody is in the middle of writing.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, SystemTime},
};

use nix::fcntl::OFlag;

use super::Error;

/// Kubernetes allows 1 MiB in a ConfigMap.
const LONGEST: u64 = 4 << 20;
/// A file that was written longer ago than this is complete.
const SETTLED: Duration = Duration::from_secs(1);
/// How long one that was not must stay the same, and how often that is tried.
const PAUSE: Duration = Duration::from_millis(150);
const TRIES: usize = 40;

/// A configuration file that was read.
#[derive(Clone, Debug)]
pub struct File {
    /// As the user named it; error messages do too.
    pub path: PathBuf,
    /// YAML.
    pub text: String,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl File {
    /// Reads the file at `path`. Takes a moment if it was just written, because it may be incomplete.
    ///
    /// # Errors
    /// It is not there, no regular file, too large, empty, or not left alone for long enough.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::read_with(path, || sleep(PAUSE))
    }

    fn read_with(path: &Path, mut pause: impl FnMut()) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        for _ in 0..TRIES {
            let (text, metadata) = whole(path)?;
            let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_none_or(|age| age < SETTLED) {
                pause();
            }
            let now = fs::metadata(path).map_err(failed)?;
            if Stamp::of(&now) != Stamp::of(&metadata) || now.len() != text.len() as u64 {
                continue;
            }
            if text.trim_ascii().is_empty() {
                return Err(Error::Empty { path: path.to_owned() });
            }
            let text = String::from_utf8(text)
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error.utf8_error())))?;
            return Ok(Self { path: path.to_owned(), text });
        }
        Err(Error::Unsettled { path: path.to_owned() })
    }
}

fn whole(path: &Path) -> Result<(Vec<u8>, Metadata), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    // A pipe opens at once this way, and is then found to be none of ours.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::TooLarge { path: path.to_owned(), limit: LONGEST });
    }
    Ok((text, metadata))
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn directory() -> PathBuf {
        let name = format!("spiffe-sds-config-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_is_no_complete_file_is_refused_at_once() {
        let directory = directory();
        let at = |name: &str| directory.join(name);
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        fs::write(at("empty"), " \n\t\n").unwrap();
        fs::write(at("large"), vec![b'#'; LONGEST as usize + 1]).unwrap();
        fs::write(at("binary"), [b'a', 0xff]).unwrap();
        let read = |path: &Path| File::read_with(path, || ());
        assert!(matches!(read(&at("fifo")), Err(Error::NotAFile { .. })));
        assert!(matches!(read(Path::new("/dev/zero")), Err(Error::NotAFile { .. })));
        assert!(matches!(read(&directory), Err(Error::NotAFile { .. } | Error::Read { .. })));
        assert!(matches!(read(&at("empty")), Err(Error::Empty { .. })));
        assert!(matches!(read(&at("large")), Err(Error::TooLarge { .. })));
        assert!(matches!(read(&at("binary")), Err(Error::Read { .. })));
        assert!(matches!(read(&at("none")), Err(Error::Read { .. })));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_complete() {
        let directory = directory();
        let path = directory.join("growing");
        fs::write(&path, "a: 1\n").unwrap();
        let mut steps = 0;
        let file = File::read_with(&path, || {
            steps += 1;
            if steps < 3 {
                fs::write(&path, "a: 1\n".repeat(steps + 1)).unwrap();
            }
        });
        assert_eq!((file.unwrap().text, steps), ("a: 1\n".repeat(3), 3));
        let mut longer = 3;
        let never = File::read_with(&path, || {
            longer += 1;
            fs::write(&path, "a: 1\n".repeat(longer)).unwrap();
        });
        assert!(matches!(never, Err(Error::Unsettled { .. })));
        fs::remove_dir_all(directory).unwrap();
    }
}
