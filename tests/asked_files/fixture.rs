//! Certificates of no SPIFFE identity, and the log.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use pem_rfc7468::LineEnding;
use rcgen::{CertificateParams, KeyPair};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::secrets::Content;

/// A self-signed certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn new(name: &str) -> Self {
        Self::living(name, Duration::from_secs(3600))
    }

    /// One whose life ends then.
    pub(crate) fn living(name: &str, left: Duration) -> Self {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + left).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: pem("CERTIFICATE", certificate.der()), key: pem("PRIVATE KEY", &key.serialize_der()) }
    }

    /// `<name>.crt` and `<name>.key`, written in place.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.crt")), &self.chain).unwrap();
        fs::write(directory.join(format!("{name}.key")), &self.key).unwrap();
    }

    pub(crate) fn content(&self) -> Content {
        Content::Certificate(self.chain.clone(), self.key.clone())
    }
}

/// Replaces a file at one moment.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

pub(crate) fn mkfifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
}

fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
}

/// The log of this test's thread from here on.
pub(crate) fn lines() -> Log {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    Log { lines, _guard: tracing::subscriber::set_default(subscriber) }
}

/// What was logged.
pub(crate) struct Log {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }

    /// The warnings that hold this.
    pub(crate) fn about(&self, words: &str) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| line.contains("WARN") && line.contains(words)).map(str::to_owned).collect()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
