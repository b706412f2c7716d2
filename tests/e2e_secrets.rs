//! What names, rejections, listeners and trust domains come to on real Envoys.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

#[path = "e2e_secrets/federation.rs"]
mod federation;
#[path = "e2e_secrets/listeners.rs"]
mod listeners;
#[path = "e2e_secrets/names.rs"]
mod names;
#[path = "e2e_secrets/rejection.rs"]
mod rejection;
