//! The configuration file, flags and environment, as one validated value.
