//! What the outside can see of a running server.

pub mod logs;
pub mod metrics;
