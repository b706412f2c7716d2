//! Real Envoys for tests: installed into the target directory by the first test that wants one. Without an Envoy a test
//! fails; it is never skipped.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use spiffe_sds::dev::envoy::{
    EnvoyBinary,
    install::{ENVOY_LATEST, ENVOY_OLDEST, ENVOY_VARIABLE},
    provision,
};

/// For waits that end well: generous, because the machine may be busy.
pub const BOUND: Duration = Duration::from_secs(60);

/// The Envoy that everything runs on, or the one that `SPIFFE_SDS_ENVOY` names.
pub fn latest() -> EnvoyBinary {
    match std::env::var_os(ENVOY_VARIABLE) {
        Some(path) => EnvoyBinary::existing(PathBuf::from(path)).unwrap_or_else(|error| panic!("{error}")),
        None => version(ENVOY_LATEST),
    }
}

/// The oldest Envoy supported.
pub fn oldest() -> EnvoyBinary {
    version(ENVOY_OLDEST)
}

/// Both.
pub fn all() -> [EnvoyBinary; 2] {
    [latest(), oldest()]
}

fn version(version: &str) -> EnvoyBinary {
    // `target/tmp` is what cargo gives to tests; `target/` itself is cached by CI.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    provision(version, &target.join("envoy")).unwrap_or_else(|error| panic!("{error}"))
}
