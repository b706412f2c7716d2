//! The xDS protocol.
