//! Puts files in place, all of a generation at once, the way Kubernetes updates its volumes:
//!
//! ```text
//!   svid.pem      -> ..data/svid.pem
//!   svid_key.pem  -> ..data/svid_key.pem
//!   ..data        -> ..2026-11-23T22:40:11.204Z        replaced by rename(2), which is atomic
//!   ..2026-11-23T22:40:11.204Z/{svid.pem,svid_key.pem}  never changed once `..data` leads there
//! ```
//!
//! Everything is written, given away and synced before the switch; until then nobody but us may read any of it. After
//! the switch the generation before is removed. Whatever fails leaves the generation in place as it is.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown, symlink,
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use zeroize::Zeroizing;

use super::{Config, render::File};

/// Why files were not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refuses.
    #[error("cannot {action} {}{}", path.display(), fix(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No thread to write on.
    #[error("cannot write in the background")]
    Thread(#[source] io::Error),
}

fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; the output directory must exist",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => "; make room there",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a directory that can be written to",
        io::ErrorKind::PermissionDenied => "; the user we run as needs the permission",
        io::ErrorKind::IsADirectory => "; a directory stands where a file shall be, remove it",
        _ => "",
    }
}

/// What became of the files.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// A new generation is in place.
    Replaced(String),
    /// The one in place holds exactly this.
    Unchanged,
}

const CURRENT: &str = "..data";
const CURRENT_NEW: &str = "..data_new";
/// What a visible name is called until it replaces the one before.
const LINK_NEW: &str = "..link_new";

/// Puts `files` in place in `config.directory`, unless they are there already.
pub(super) fn write(config: &Config, files: &[File], now: SystemTime) -> Result<Written, WriteError> {
    let directory = &config.directory;
    let current = fs::read_link(directory.join(CURRENT)).ok();
    if let Some(current) = &current
        && is_current(config, &directory.join(current), files)
    {
        tidy(directory, files, current)?;
        return Ok(Written::Unchanged);
    }
    let generation = create(directory, now)?;
    let name = format!("..{generation}");
    let switched = fill(config, &directory.join(&name), files).and_then(|()| switch(directory, &name));
    if let Err(error) = switched {
        // Half a generation is of no use to anybody, and a full disk needs the room.
        let _ = fs::remove_dir_all(directory.join(&name));
        return Err(error);
    }
    tidy(directory, files, Path::new(&name))?;
    Ok(Written::Replaced(generation))
}

fn wrong<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError::Io { action, path: path.to_owned(), source }
}

/// Whether the generation at `path` has these files and no others, with these permissions.
fn is_current(config: &Config, path: &Path, files: &[File]) -> bool {
    let same = |file: &File| -> io::Result<bool> {
        let path = path.join(&file.name);
        let about = fs::symlink_metadata(&path)?;
        let owned = config.owner.is_none_or(|owner| about.uid() == owner)
            && config.group.is_none_or(|group| about.gid() == group);
        if !about.is_file() || about.mode() & 0o7777 != file.mode || !owned || about.len() != file.content.len() as u64
        {
            return Ok(false);
        }
        let mut content = Zeroizing::new(Vec::with_capacity(file.content.len() + 1));
        fs::File::open(&path)?.take(file.content.len() as u64).read_to_end(&mut content)?;
        Ok(*content == *file.content)
    };
    let Ok(entries) = fs::read_dir(path) else { return false };
    entries.count() == files.len() && files.iter().all(|file| same(file).unwrap_or(false))
}

/// An empty directory that only we may enter. Says its generation.
fn create(directory: &Path, now: SystemTime) -> Result<String, WriteError> {
    let stamp = humantime::format_rfc3339_millis(now.max(SystemTime::UNIX_EPOCH)).to_string();
    // Two in one millisecond, or a clock that was set back.
    for attempt in 0_u32.. {
        let generation = if attempt == 0 { stamp.clone() } else { format!("{stamp}-{attempt}") };
        let path = directory.join(format!("..{generation}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(generation),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            Err(error) => return Err(wrong("create", &path)(error)),
        }
    }
    Ok(stamp)
}

/// Writes the files, and only then lets others in.
fn fill(config: &Config, generation: &Path, files: &[File]) -> Result<(), WriteError> {
    for File { name, mode, content } in files {
        let path = generation.join(name);
        // 0600 whatever the umask; who else may read it is said when it is complete and belongs to its owner.
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(wrong("create", &path))?;
        file.write_all(content).map_err(wrong("write", &path))?;
        if config.owner.is_some() || config.group.is_some() {
            fchown(&file, config.owner, config.group).map_err(wrong("change the owner of", &path))?;
        }
        file.set_permissions(Permissions::from_mode(*mode)).map_err(wrong("change the mode of", &path))?;
        file.sync_all().map_err(wrong("sync", &path))?;
    }
    if config.owner.is_some() || config.group.is_some() {
        chown(generation, config.owner, config.group).map_err(wrong("change the owner of", generation))?;
    }
    // Whoever may read one of the files may enter, and nobody else.
    let readers = files.iter().fold(0, |readers, file| readers | (file.mode & 0o044));
    let mode = 0o700 | readers | (readers >> 2);
    fs::set_permissions(generation, Permissions::from_mode(mode)).map_err(wrong("change the mode of", generation))?;
    sync(generation)
}

/// From this moment on the new generation is what everybody sees.
fn switch(directory: &Path, name: &str) -> Result<(), WriteError> {
    replace_link(directory, Path::new(name), CURRENT_NEW, CURRENT)?;
    sync(directory)
}

/// Makes `name` a link to `target`, atomically.
fn replace_link(directory: &Path, target: &Path, temporary: &str, name: &str) -> Result<(), WriteError> {
    let (temporary, path) = (directory.join(temporary), directory.join(name));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong("remove", &temporary)(error)),
        _ => {}
    }
    symlink(target, &temporary).map_err(wrong("create", &temporary))?;
    fs::rename(&temporary, &path).map_err(wrong("replace", &path))
}

/// Visible names for all files, none for others that we once wrote, and no other generation.
fn tidy(directory: &Path, files: &[File], current: &Path) -> Result<(), WriteError> {
    for File { name, .. } in files {
        let target = Path::new(CURRENT).join(name);
        if fs::read_link(directory.join(name)).ok().as_ref() != Some(&target) {
            replace_link(directory, &target, LINK_NEW, name)?;
        }
    }
    for entry in fs::read_dir(directory).map_err(wrong("read", directory))? {
        let entry = entry.map_err(wrong("read", directory))?;
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        let is_file = files.iter().any(|file| file.name == name);
        let is_ours = fs::read_link(&path).is_ok_and(|target| target == Path::new(CURRENT).join(name));
        if is_ours && !is_file {
            fs::remove_file(&path).map_err(wrong("remove", &path))?;
        } else if is_generation(name) && Path::new(name) != current && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            fs::remove_dir_all(&path).map_err(wrong("remove", &path))?;
        }
    }
    Ok(())
}

/// `..2026-11-23T...`: the shape of [`create`]'s names.
fn is_generation(name: &str) -> bool {
    name.strip_prefix("..").is_some_and(|stamp| {
        stamp.len() >= 24
            && stamp.as_bytes().get(10) == Some(&b'T')
            && stamp.starts_with(|first: char| first.is_ascii_digit())
    })
}

fn sync(directory: &Path) -> Result<(), WriteError> {
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(wrong("sync", directory))
}

#[cfg(test)]
mod tests;
