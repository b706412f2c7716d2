//! The development issuer.
