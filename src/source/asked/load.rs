//! From the files of one request to what is in them.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    identity::{Certificate, FilePolicy, FileRequest, FileSecret, PrivateKey, SystemRoots},
    source::{
        decode::{Limits, pair},
        files::{
            FilesError,
            open::{read, read_permitted},
            pem,
            watch::Watch,
        },
    },
};

/// One look at everything that is followed.
#[derive(Debug)]
pub(super) struct Look {
    /// What tells of changes, from before the look on.
    pub(super) watch: Result<Watch, FilesError>,
    /// What was seen.
    pub(super) loaded: Vec<(FileRequest, Result<Loaded, FilesError>)>,
}

/// What files hold, and what of it is left out.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) secret: FileSecret,
    pub(super) bad: Vec<FilesError>,
}

impl From<FileSecret> for Loaded {
    fn from(secret: FileSecret) -> Self {
        Self { secret, bad: Vec::new() }
    }
}

/// Where this system's authorities are.
enum System {
    File(PathBuf),
    Directories(Vec<PathBuf>),
}

impl Look {
    /// Blocks for as long as the file system does.
    pub(super) fn at(requests: Vec<FileRequest>, policy: &FilePolicy, limits: &Limits, now: SystemTime) -> Self {
        let system = requests.contains(&FileRequest::SystemRoots).then(|| System::of(policy));
        let mut files: Vec<PathBuf> = requests.iter().flat_map(FileRequest::paths).map(Path::to_owned).collect();
        let own = system.as_ref().map(System::watched).unwrap_or_default();
        files.extend(own.iter().cloned());
        let own: Vec<_> = own.iter().filter_map(|path| path.canonicalize().ok()).collect();
        // No watch where a link of somebody else's leads.
        let watch = Watch::within(&files, |real| own.iter().any(|own| own == real) || is_permitted(real, policy));
        let load = |request| match (&request, &system) {
            (FileRequest::SystemRoots, Some(system)) => {
                let roots = system.roots();
                (request, roots.map(Loaded::from))
            }
            _ => {
                let loaded = load(&request, policy, limits, now);
                (request, loaded)
            }
        };
        Self { watch, loaded: requests.into_iter().map(load).collect() }
    }
}

/// Whether the place where something really is, is allowed. What is allowed may itself be behind links, which belong to
/// the operator.
fn is_permitted(real: &Path, policy: &FilePolicy) -> bool {
    policy.allow.iter().any(|allowed| allowed.canonicalize().is_ok_and(|allowed| real.starts_with(allowed)))
}

fn load(request: &FileRequest, policy: &FilePolicy, limits: &Limits, now: SystemTime) -> Result<Loaded, FilesError> {
    let text = |path: &Path| read_permitted(path, |real| is_permitted(real, policy));
    match request {
        FileRequest::SystemRoots => Err(FilesError::NoSystemRoots),
        FileRequest::Roots(path) => {
            let (mut roots, mut bad) = (Vec::new(), Vec::new());
            for (index, block) in pem::each(path, &text(path)?)?.into_iter().enumerate() {
                match block {
                    Ok(der) if pair::parse(&der).is_some() => roots.push(Certificate::from_der(&der)),
                    Ok(_) => bad.push(FilesError::Certificate { path: path.clone(), index }),
                    Err((index, fault)) => bad.push(pem::broken(path, index, fault)),
                }
            }
            match bad.pop() {
                Some(error) if roots.is_empty() => Err(error),
                last => {
                    bad.extend(last);
                    Ok(Loaded { secret: FileSecret::Roots(roots), bad })
                }
            }
        }
        FileRequest::Certificate { certificate, key } => {
            let chain = pem::chain(certificate, &text(certificate)?)?;
            let pkcs8 = pem::private_key(key, &text(key)?)?;
            let pair = |source| FilesError::Pair { certificate: certificate.clone(), key: key.clone(), source };
            let (chain, validity) = pair::check(&chain, &pkcs8, limits, now).map_err(pair)?;
            Ok(FileSecret::Certificate { chain, key: PrivateKey::from_pkcs8_der(pkcs8), validity }.into())
        }
    }
}

impl System {
    fn of(policy: &FilePolicy) -> Self {
        if let Some(SystemRoots::File(path)) = &policy.system_roots {
            return Self::File(path.clone());
        }
        let probed = openssl_probe::probe();
        probed.cert_file.map_or(Self::Directories(probed.cert_dir), Self::File)
    }

    /// A file in each directory that counts.
    fn watched(&self) -> Vec<PathBuf> {
        match self {
            Self::File(path) => vec![path.clone()],
            Self::Directories(directories) => directories.iter().map(|directory| directory.join("any.pem")).collect(),
        }
    }

    /// One authority that no TLS stack can read does not cost all the others, which the operator did not choose.
    fn roots(&self) -> Result<FileSecret, FilesError> {
        let all: Vec<Vec<u8>> = match self {
            Self::File(path) => pem::certificates(path, &read(path)?)?,
            Self::Directories(_) => {
                rustls_native_certs::load_native_certs().certs.iter().map(|certificate| certificate.to_vec()).collect()
            }
        };
        let readable = all.iter().filter(|der| pair::parse(der).is_some());
        let roots: Vec<_> = readable.map(|der| Certificate::from_der(der)).collect();
        if roots.is_empty() { Err(FilesError::NoSystemRoots) } else { Ok(FileSecret::Roots(roots)) }
    }
}
