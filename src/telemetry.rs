//! What the outside can see of a running server.

pub mod journal;
pub mod logs;
pub mod metrics;
pub mod traces;
