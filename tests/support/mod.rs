//! What several test files share.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test file is its own crate and uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows it in test functions, not in theirs"
)]

pub mod envoy;
pub mod secrets;
pub mod world;
pub mod xds;
