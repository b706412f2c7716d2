//! The development issuer: an in-memory CA that serves the *real* SPIFFE Workload API. **Never for production.**
//!
//! It is what `spiffe-sds dev` runs, and the one fake of the tests. It attests nobody: whoever can connect to its
//! socket gets every private key, every key lives in this process's memory, and a restart forgets them all.
//!
//! ```text
//!   setters (issue, rotate, prepare_ca, fail_with, ...)      state (pure)        watch          serve (IO)
//!   schedule (leaf and CA rotation by the clock)   ------->  CAs, leaves  -----> newest ----->  FetchX509SVID
//!                                                                                               FetchX509Bundles
//!                                                                                               FetchJWTSVID, ...
//! ```

pub mod ca;
pub mod envoy;
mod error;
mod event;
mod issuer;
mod jwt;
mod message;
mod schedule;
mod serve;
mod shared;
mod state;

pub use ca::{Issued, Template};
pub use error::DevError;
pub use event::{CaStep, Event};
pub use issuer::DevIssuer;
pub use jwt::{JwtConfig, JwtFault};
pub use message::RawMessage;
pub use serve::Traffic;

use std::time::Duration;

use crate::{
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};

/// What a development issuer issues, to begin with, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The issuer's own trust domain; every identity is a member of it.
    pub trust_domain: TrustDomain,
    /// In the order of the messages: the first one is the default identity. May be empty.
    pub identities: Vec<Identity>,
    /// Further trust domains, each with its own CA, whose bundles every caller gets.
    pub federated: Vec<TrustDomain>,
    /// How long a leaf lives; 2 s or more. Certificates count whole seconds, so a leaf may live up to one longer.
    pub ttl: Duration,
    /// When leaves are replaced without being asked to.
    pub rotation: Rotation,
    /// One whole roll-over of the own CA (prepare, activate, retire) takes this long, and the next one follows.
    /// `None` leaves the CA alone.
    pub ca_rotate_every: Option<Duration>,
    /// The same of the own JWT keys. Tokens of a retired key are refused, so they should live a third of this at most.
    pub jwt_rotate_every: Option<Duration>,
    /// Whether leaves are signed by an intermediate, so that chains have two certificates.
    pub intermediate: bool,
    /// Whether `FetchX509Bundles` too is denied while there is no identity.
    pub bundles_need_identity: bool,
    /// How JWT-SVIDs are issued.
    pub jwt: JwtConfig,
    /// Where to listen, one or more: Unix sockets (the directory must exist) and loopback TCP (port 0 picks one).
    pub listen: Vec<Endpoint>,
    /// The file mode of the Unix sockets: who may connect, and so gets every private key.
    pub socket_mode: u32,
}

/// One identity to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A member of the issuer's trust domain, with a path.
    pub id: SpiffeId,
    /// Tells this identity from the others of the message; unique among them.
    pub hint: Option<String>,
}

/// When leaves are replaced without being asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// At half of the TTL, as SPIRE does.
    #[default]
    HalfLife,
    /// At a fixed interval; longer than the TTL lets leaves expire.
    Every(Duration),
    /// Only when told to.
    Never,
}

impl Config {
    /// No identities, one hour of TTL, listening on `listen`, where only the own user may connect.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, listen: Endpoint) -> Self {
        Self {
            trust_domain,
            identities: Vec::new(),
            federated: Vec::new(),
            ttl: Duration::from_secs(3600),
            rotation: Rotation::default(),
            ca_rotate_every: None,
            jwt_rotate_every: None,
            intermediate: false,
            bundles_need_identity: false,
            jwt: JwtConfig::default(),
            listen: vec![listen],
            socket_mode: 0o600,
        }
    }

    /// The same with one more identity at the end.
    #[must_use]
    pub fn identity(mut self, id: SpiffeId, hint: Option<&str>) -> Self {
        self.identities.push(Identity { id, hint: hint.map(str::to_owned) });
        self
    }
}
