//! Reading a file that may be anything: bounded, in memory that is wiped, and never waiting for somebody to write.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::FilesError;

/// Larger than a bundle of the largest size that is accepted, in base64.
const FILE_BYTES: u64 = 8 << 20;

/// The whole file, in memory that is wiped: it may hold a key.
///
/// # Errors
/// Not there, not readable, no file, or too large.
pub(in crate::source) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    // A pipe opens at once this way, and is then found to be none of ours.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(failed)?;
    whole(file, path)
}

/// The same for a path that a client has chosen. Nothing but a file is opened, and that only if the place where it
/// really is, behind all links, is `permitted`. What was judged is what is read: nobody can swap it in between.
///
/// # Errors
/// The same, and [`FilesError::Outside`].
pub(in crate::source) fn read_permitted(
    path: &Path,
    permitted: impl Fn(&Path) -> bool,
) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    // Only a reference to it: neither a pipe nor a device notices.
    let found = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path).map_err(failed)?;
    let reference = format!("/proc/self/fd/{}", found.as_raw_fd());
    if !permitted(&fs::read_link(&reference).map_err(failed)?) {
        return Err(FilesError::Outside { path: path.to_owned() });
    }
    if !found.metadata().map_err(failed)?.is_file() {
        return Err(FilesError::NotAFile { path: path.to_owned() });
    }
    whole(File::open(&reference).map_err(failed)?, path)
}

fn whole(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let failed = |source| FilesError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FilesError::NotAFile { path: path.to_owned() });
    }
    let too_large = || FilesError::TooLarge { path: path.to_owned(), limit: FILE_BYTES };
    if metadata.len() > FILE_BYTES {
        return Err(too_large());
    }
    // Room for the whole and for one more read: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 64));
    file.take(FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES { Err(too_large()) } else { Ok(text) }
}
