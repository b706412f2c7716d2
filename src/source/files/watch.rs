//! Whether something happened to files, or to a directory or link on the way to them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::FilesError;

/// A change is over when nothing has happened for this long.
const QUIET: Duration = Duration::from_millis(50);
/// A change that never ends is looked at after this long.
const LONGEST_CHANGE: Duration = Duration::from_secs(1);

/// How often directories may change under the set-up before that is left to the next event.
const ATTEMPTS: usize = 10;

/// Follows files until it is dropped. Directories that go and come back are other directories to the kernel, so after
/// each change a new one has to be made, before the files are read.
#[derive(Debug)]
pub(in crate::source) struct Watch {
    changed: Arc<Notify>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// From here on no change is missed.
    ///
    /// # Errors
    /// The kernel has no room for another one.
    pub(in crate::source) fn new(files: &[PathBuf]) -> Result<Self, FilesError> {
        Self::within(files, |_| true)
    }

    /// The same, but of the places that links lead to only those that are `permitted`.
    ///
    /// # Errors
    /// The same.
    pub(in crate::source) fn within(files: &[PathBuf], permitted: impl Fn(&Path) -> bool) -> Result<Self, FilesError> {
        let mut places = Places::of(files, &permitted);
        for _ in 0..ATTEMPTS {
            let watch = Self::armed(files, &places)?;
            // What was made or replaced while the watches were set up would be watched by none of them.
            let now = Places::of(files, &permitted);
            if now == places {
                return Ok(watch);
            }
            places = now;
        }
        Self::armed(files, &places)
    }

    fn armed(files: &[PathBuf], places: &Places) -> Result<Self, FilesError> {
        let changed = Arc::new(Notify::new());
        let failed = |path: &Path, source| FilesError::Watch { path: path.to_owned(), source };
        let mut watcher = notify::recommended_watcher({
            let (changed, files, directories) = (changed.clone(), files.to_vec(), places.directories.clone());
            move |event: notify::Result<Event>| {
                if event.is_ok_and(|event| !concerns(&event, &files, &directories)) {
                    return;
                }
                changed.notify_one();
            }
        })
        .map_err(|source| failed(Path::new("files"), source))?;
        for path in &places.watched {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                // Gone since we looked; that shows when we look again.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed(path, error)),
                Ok(()) => {}
            }
        }
        Ok(Self { changed, _watcher: watcher })
    }

    /// Ends when something has changed, and is quiet again. Whoever stops waiting is told the next time.
    pub(in crate::source) async fn changed(&self) {
        self.changed.notified().await;
        let mut untold = Untold(Some(&self.changed));
        let end = Instant::now() + LONGEST_CHANGE;
        while Instant::now() < end && timeout(QUIET, self.changed.notified()).await.is_ok() {}
        untold.0 = None;
    }
}

/// A change that was seen and not told yet; dropped with the waiting, it is seen again.
struct Untold<'a>(Option<&'a Notify>);

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(changed) = self.0 {
            changed.notify_one();
        }
    }
}

/// Where changes of files show.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    /// Directories in which every change counts: those of the files, and those that links lead to.
    directories: BTreeSet<PathBuf>,
    /// The former and the directories above them, as far as they exist. A directory comes before those in it, so that none is
    /// replaced unseen.
    watched: BTreeSet<PathBuf>,
}

impl Places {
    fn of(files: &[PathBuf], permitted: &impl Fn(&Path) -> bool) -> Self {
        let mut directories = BTreeSet::new();
        let mut watched = BTreeSet::new();
        for file in files {
            let Some(directory) = file.parent() else { continue };
            directories.insert(directory.to_owned());
            // A directory that is replaced shows in the one above it; one that is missing, in the nearest there is.
            watched.extend(directory.parent().and_then(nearest));
            watched.extend(nearest(directory));
            for link in directory.ancestors().filter(|path| path.is_symlink()) {
                watched.extend(link.parent().map(Path::to_owned));
            }
            let real = file.canonicalize().ok().filter(|real| permitted(real));
            if let Some(real) = real.and_then(|real| real.parent().map(Path::to_owned)) {
                watched.insert(real.clone());
                directories.insert(real);
            }
        }
        Self { directories, watched }
    }
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn nearest(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// Whether an event may mean other content. That somebody reads, we ourselves for instance, does not.
fn concerns(event: &Event, files: &[PathBuf], directories: &BTreeSet<PathBuf>) -> bool {
    let reads =
        |kind| matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(AccessMode::Write)));
    if reads(event.kind) {
        return false;
    }
    let beside = |path: &PathBuf| path.parent().is_some_and(|parent| directories.contains(parent));
    let on_the_way = |path: &PathBuf| files.iter().any(|file| file.starts_with(path));
    event.need_rescan() || event.paths.iter().any(|path| beside(path) || on_the_way(path))
}
