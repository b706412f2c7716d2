//! Certificates of no SPIFFE identity.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use pem_rfc7468::LineEnding;
use rcgen::{CertificateParams, KeyPair};

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
