//! What several test files share.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file is its own crate and uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

pub mod app;
pub mod chromium;
pub mod crowd;
pub mod envoy;
pub mod log;
pub mod mesh;
pub mod secrets;
#[cfg(feature = "dev-issuer")]
pub mod serving;
pub mod tls;
pub mod traces;
pub mod world;
pub mod xds;
