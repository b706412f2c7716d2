//! What several test files share.
#![allow(dead_code, unreachable_pub, reason = "each test file is its own crate and uses a part")]

pub mod envoy;
