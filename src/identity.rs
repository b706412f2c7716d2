//! What we hold: SVIDs, trust bundles and the snapshots that carry them.
//!
//! Everything here is plain data; the only moving part is [`IdentityStore`], which hands the newest
//! snapshot of a [`Workload`] to whoever watches it. Names follow the SPIFFE standards.

mod bundle;
mod jwt;
mod snapshot;
mod store;
mod svid;
mod workload;

pub use bundle::TrustBundle;
pub use jwt::{JwtBundle, JwtRequest, JwtSnapshot, JwtState, JwtSubject, JwtSvid, Token};
pub use snapshot::IdentitySnapshot;
pub use spiffe::{SpiffeId, TrustDomain};
pub use store::{Availability, IdentityStore};
pub use svid::{Certificate, CertificateChain, Hint, PrivateKey, Svid, Validity};
pub use workload::Workload;
