//! What can go wrong in the development issuer.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use crate::identity::{SpiffeId, TrustDomain};

use super::CaStep;

/// Why the issuer did not start, or did not do what it was told to. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// `Config::listen` is empty.
    #[error("the development issuer has no endpoint: give it unix:///absolute/path or tcp://127.0.0.1:port")]
    NoEndpoint,
    /// The issuer gives private keys to whoever connects.
    #[error(
        "tcp://{0} is not a loopback address, and the development issuer gives keys to whoever connects: use 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// Something else is at the socket's path.
    #[error("{} exists and is not a socket: remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// A running process answers at the socket's path.
    #[error("a running process listens on {}: stop it or choose another path", .0.display())]
    InUse(PathBuf),
    /// The operating system refused the endpoint.
    #[error("cannot listen on {endpoint}: check that its directory exists and is writable")]
    Listen {
        /// As in the configuration.
        endpoint: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Certificates count whole seconds, so shorter lives would be a matter of luck.
    #[error("a ttl of {0:?} is too short: use 2 s or more")]
    Ttl(Duration),
    /// The interval would rotate without end.
    #[error("cannot rotate every {0:?}: use 10 ms or more")]
    Interval(Duration),
    /// The CA of one trust domain does not vouch for another.
    #[error("{id} is not a member of {trust_domain}: use an identity of this trust domain")]
    ForeignId {
        /// The identity asked for.
        id: SpiffeId,
        /// The issuer's own.
        trust_domain: TrustDomain,
    },
    /// X.509-SVID, section 5.2: the ID of a leaf has a path.
    #[error("{0} is a trust domain, not a workload: give it a path")]
    NoPath(SpiffeId),
    /// Nothing was issued to this identity.
    #[error("{0} has no SVID: issue it first")]
    UnknownId(SpiffeId),
    /// Workload API, section 5.2: hints are unique within a message.
    #[error("the hint {hint:?} belongs to {id}: use another one")]
    DuplicateHint {
        /// The hint asked for.
        hint: String,
        /// Who has it.
        id: SpiffeId,
    },
    /// No CA of this trust domain is here.
    #[error("there is no CA of the trust domain {0} here: federate it first")]
    UnknownTrustDomain(TrustDomain),
    /// The own trust domain is not a federated one.
    #[error("{0} is the issuer's own trust domain: federate another one")]
    OwnTrustDomain(TrustDomain),
    /// CA steps come in the order prepare, activate, retire.
    #[error("the CA of {trust_domain} cannot do the step {step}: {reason}")]
    OutOfOrder {
        /// Whose CA.
        trust_domain: TrustDomain,
        /// The step asked for.
        step: CaStep,
        /// What to do first.
        reason: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot sign a certificate for {subject}")]
    Sign {
        /// Its SPIFFE ID.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// What reflection should tell does not fit together.
    #[error("the protocol descriptions are broken; this is a bug of the build, please report it")]
    Descriptors(#[source] tonic_reflection::server::Error),
    /// The operating system gave no random numbers.
    #[error("no random numbers for a serial number")]
    Random,
}
