//! Envoy's side of the wire, as text: the bootstrap that points an Envoy here.
//!
//! Pure: a typed description in, YAML out, no IO. `spiffe-sds bootstrap`, the demo, `examples/envoy/` and the
//! end-to-end tests all print from here, so that what we document is what we run. A configuration is
//!
//! ```
//! use spiffe_sds::envoy::{Action, Address, Bootstrap, Listener, Sds, Tls, Variant};
//!
//! let sds = Sds::new(Variant::Delta, Address::Unix("/run/spiffe-sds/sds.sock".into()));
//! let bootstrap = Bootstrap::new("server", "example", sds)
//!     .listener(Listener::new("mtls", ([127, 0, 0, 1], 8443).into(), Action::respond("hello"))
//!         .tls(Tls::new("default", "ALL").peer("spiffe://example.org/client")));
//! assert!(bootstrap.to_yaml()?.contains("tls_certificate_sds_secret_configs"));
//! # Ok::<(), spiffe_sds::envoy::Error>(())
//! ```
//!
//! Every reference to a secret carries the *same* `sds_config`, byte for byte: Envoy keys its subscriptions by (name,
//! configuration), so a second spelling costs a second stream, and on ADS a secret that never arrives (envoy#47309).

mod bootstrap;
mod inject;
mod jwt;
mod sds;
mod traffic;
mod yaml;

pub use bootstrap::{Bootstrap, Error};
pub use inject::Inject;
pub use jwt::JwtVerifier;
pub use sds::{Address, Sds, Variant};
pub use traffic::{Action, Connections, Listener, Tls, Upstream};
