//! The service manager: sockets that it holds for us across restarts, and what it wants to hear from us.
//!
//! All of it is optional. Without systemd (or another manager that speaks its protocols) nothing is handed over, nothing
//! is kept, and nobody listens.

pub mod handed;
pub mod notify;

pub use handed::Handed;
pub use notify::{Config, Notifier};
