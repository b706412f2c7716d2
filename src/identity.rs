//! What we hold: SVIDs, trust bundles and the snapshots that carry them.
//!
//! Everything here is plain data; the only moving parts are [`IdentityStore`], which hands the newest
//! snapshot of a [`Workload`] to whoever watches it, and [`FileStore`], which also knows who asks for which file. Names follow the SPIFFE standards.

mod asked;
mod bundle;
mod file;
mod jwt;
mod refusal;
mod snapshot;
mod store;
mod svid;
mod withdrawn;
mod workload;

pub use asked::{Asker, FileLease, FileStore, LINGER, Questions, Wanted};
pub use bundle::TrustBundle;
pub use file::{FilePolicy, FileRequest, FileSecret, FileSnapshot, SystemRoots};
pub use jwt::{JwtBundle, JwtRequest, JwtSnapshot, JwtState, JwtSubject, JwtSvid, Token};
pub use refusal::{Refusal, RefusedItem};
pub use snapshot::IdentitySnapshot;
pub use spiffe::{SpiffeId, TrustDomain};
pub use store::{Availability, IdentityStore};
pub use svid::{
    Certificate, CertificateChain, CertificateFacts, Hint, KeyKind, PrivateKey, Svid, Validity, crl_next_update,
};
pub use withdrawn::Withdrawn;
pub use workload::Workload;
