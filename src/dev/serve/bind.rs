//! Binds the endpoints: Unix sockets, which only their owner can open unless told otherwise, and loopback TCP.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::Io;
use crate::{dev::DevError, listen::unix::listening, source::Endpoint};

/// A bound endpoint.
#[derive(Debug)]
pub(in crate::dev) enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A socket file that is removed on drop, unless another one has taken its place.
#[derive(Debug)]
pub(in crate::dev) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Binds `endpoint` and tells where: the port of a TCP endpoint may have been 0. A Unix socket gets `mode`.
pub(in crate::dev) async fn bind(
    endpoint: &Endpoint,
    mode: u32,
) -> Result<(Bound, Endpoint, Option<SocketFile>), DevError> {
    match endpoint {
        Endpoint::Unix(path) => {
            let failed = |source| DevError::Listen { endpoint: format!("unix://{}", path.display()), source };
            remove_stale(path)?;
            let admit = || fs::set_permissions(path, fs::Permissions::from_mode(mode));
            let listener = listening(path, admit, |_, source| source).map_err(failed)?;
            let file = SocketFile::new(path).map_err(failed)?;
            Ok((Bound::Unix(listener), endpoint.clone(), Some(file)))
        }
        Endpoint::Tcp(address) if !address.ip().is_loopback() => Err(DevError::NotLoopback(*address)),
        Endpoint::Tcp(address) => {
            let failed = |source| DevError::Listen { endpoint: format!("tcp://{address}"), source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Ok((Bound::Tcp(listener), Endpoint::Tcp(address), None))
        }
    }
}

impl Bound {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Io>> {
        match self {
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|it| (it.dev(), it.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "development issuer cannot remove its socket");
        }
    }
}

/// Removes a socket that nobody listens on; anything else at `path` is left alone and reported.
fn remove_stale(path: &Path) -> Result<(), DevError> {
    let failed = |source| DevError::Listen { endpoint: format!("unix://{}", path.display()), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(DevError::NotASocket(path.to_owned())),
        Ok(_) => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
            Ok(_) => Err(DevError::InUse(path.to_owned())),
            Err(error) => Err(failed(error)),
        },
    }
}
