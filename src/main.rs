//! Exit codes, allocator, runtime; nothing else.
fn main() {}
