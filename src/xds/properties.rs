//! property tests
