//! The socket file of a Workload API that comes back: noticed where it lies, not by asking again and again.

use std::{
    fs,
    future::pending,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::source::files::watch::Watch;

/// Which file lies at a path. The time tells files apart that got the same number one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketFile {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl SocketFile {
    /// The one at `path`; `None` if there is none.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let file = fs::symlink_metadata(path).and_then(|_| fs::metadata(path)).ok()?;
        Some(Self { device: file.dev(), inode: file.ino(), changed: (file.ctime(), file.ctime_nsec()) })
    }
}

/// Ends when another file lies at `path` than `before`. Directories may come and go meanwhile.
pub(super) async fn replaced(path: PathBuf, before: Option<SocketFile>) {
    loop {
        let file = path.clone();
        let watch = tokio::task::spawn_blocking(move || {
            // First the watch, so that what happens while we look is seen.
            let watch = Watch::new(std::slice::from_ref(&file)).ok()?;
            Some((watch, SocketFile::at(&file)))
        });
        // Without a watch there is still the time to try again.
        let Ok(Some((watch, now))) = watch.await else { return pending().await };
        if now.is_some() && now != before {
            return;
        }
        watch.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_socket_in_directories_that_are_not_there_yet_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/spire/agent.sock");
        let waiting = tokio::spawn(replaced(path.clone(), SocketFile::at(&path)));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        timeout(BOUND, waiting).await.expect("noticed").unwrap();
    }

    #[tokio::test]
    async fn another_socket_in_its_place_is_noticed_even_if_it_came_before_we_looked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let before = SocketFile::at(&path);
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        timeout(BOUND, replaced(path, before)).await.expect("noticed");
    }

    #[tokio::test]
    async fn the_same_socket_is_no_news_whatever_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Box::pin(replaced(path.clone(), SocketFile::at(&path)));
        fs::write(dir.path().join("other"), "").unwrap();
        assert!(timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    }
}
