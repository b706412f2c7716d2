//! `spiffe-sds`: identities from any SPIFFE source, streamed to Envoy and every other xDS client.
//!
//! Two pure cores that do not know each other, [`identity`] (what we hold) and [`xds`] (what each client has been
//! told), joined by [`secret`] (how one becomes the other), wrapped by thin IO on both sides:
//!
//! ```text
//!   source (IO)        identity (pure + watch)     secret (pure)          xds (pure)            server (IO)
//!   Workload API --> Supervisor --> IdentityStore --> SecretCatalog --> ResourceSet --> Subscription --> drive --> Envoy
//! ```
//!
//! Layers import only downward, and `tests/architecture.rs` holds them to it:
//! `main > cli > app > admin > {server, source, dev} > listen > {secret, telemetry} > {identity, xds} > lifecycle`.

pub mod admin;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
mod detached;
#[cfg(feature = "dev-issuer")]
pub mod dev;
pub mod envoy;
pub mod hooks;
pub mod identity;
pub mod lifecycle;
pub mod listen;
pub mod output;
pub mod printable;
pub mod secret;
pub mod server;
pub mod source;
pub mod systemd;
pub mod telemetry;
#[doc(hidden)]
pub mod workload_api_proto;
pub mod xds;
