//! Connections to receivers: TCP or a Unix socket, with TLS or without.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, ClientConfig, RootCertStore, crypto::aws_lc_rs},
};

use super::{Config, is_tls};
use crate::detached;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// TCP, or the Unix socket.
    #[error("nobody accepts connections there")]
    Dial(#[source] io::Error),
    /// The TLS handshake.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The host cannot be in a certificate.
    #[error("its host is neither a DNS name nor an IP address")]
    Host(#[from] InvalidDnsNameError),
    /// The certificates to trust.
    #[error("no certificate can be read from {}; it must hold PEM certificates", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong; `None` if it holds none.
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// The operating system has none.
    #[error("this system has no trusted certificates; install them (ca-certificates), or set `ca_file`")]
    NoRoots,
    /// The TLS library.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
    /// No thread to read certificates on.
    #[error("certificates cannot be read")]
    Thread(#[source] io::Error),
}

/// What HTTP is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A new connection. They are not kept: events are rare, and a receiver that moved must be found again.
pub(super) async fn connect(config: &Config) -> Result<Box<dyn Stream>, ConnectError> {
    let host = config.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream: Box<dyn Stream> = match &config.socket {
        Some(path) => Box::new(UnixStream::connect(path).await.map_err(ConnectError::Dial)?),
        None => {
            let port = config.url.port_u16().unwrap_or(if is_tls(&config.url) { 443 } else { 80 });
            Box::new(TcpStream::connect((host, port)).await.map_err(ConnectError::Dial)?)
        }
    };
    if !is_tls(&config.url) {
        return Ok(stream);
    }
    let name = ServerName::try_from(host.to_owned())?;
    let ca_file = config.ca_file.clone();
    let roots = detached::run("roots", move || roots(ca_file.as_deref())).await.map_err(ConnectError::Thread)??;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(ConnectError::Handshake)?;
    Ok(Box::new(stream))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        // Single bad ones are no reason not to use the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(ConnectError::NoRoots) } else { Ok(roots) };
    };
    let bad = |source| ConnectError::Roots { path: path.to_owned(), source };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(Some(error)))? {
        roots.add(certificate.map_err(|error| bad(Some(error)))?)?;
    }
    if roots.is_empty() { Err(bad(None)) } else { Ok(roots) }
}
