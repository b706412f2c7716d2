//! What the issuer did, for whoever wants to show it.

use std::{fmt, time::SystemTime};

use crate::identity::{SpiffeId, TrustDomain};

/// One thing that the issuer did. Serials are lower-case hex, as Envoy's `/certs` prints them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An identity got its first leaf.
    Issued {
        /// Whose.
        id: SpiffeId,
        /// The leaf's.
        serial: String,
        /// The leaf's last moment.
        not_after: SystemTime,
    },
    /// An identity got a new leaf with a new key.
    Rotated {
        /// Whose.
        id: SpiffeId,
        /// The leaf that was replaced.
        previous: String,
        /// The new leaf's.
        serial: String,
        /// The new leaf's last moment.
        not_after: SystemTime,
    },
    /// An identity lost its entitlement.
    Revoked {
        /// Whose.
        id: SpiffeId,
        /// The leaf that it had.
        serial: String,
    },
    /// A CA took one step of a roll-over.
    Ca {
        /// Whose CA.
        trust_domain: TrustDomain,
        /// Which step.
        step: CaStep,
        /// The root that was prepared, activated or retired.
        serial: String,
    },
    /// The JWT keys of a trust domain took one step of a roll-over.
    JwtKey {
        /// Whose keys.
        trust_domain: TrustDomain,
        /// Which step.
        step: CaStep,
        /// The `kid` of the key that was prepared, activated or retired.
        kid: String,
    },
    /// A trust domain's bundle is served from now on.
    Federated(TrustDomain),
    /// A trust domain's bundle is no longer served.
    Defederated(TrustDomain),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = |at: &SystemTime| humantime::format_rfc3339_seconds(*at);
        match self {
            Self::Issued { id, serial, not_after } => {
                write!(f, "issued       {id} serial {serial} until {}", until(not_after))
            }
            Self::Rotated { id, serial, not_after, .. } => {
                write!(f, "rotated      {id} serial {serial} until {}", until(not_after))
            }
            Self::Revoked { id, serial } => write!(f, "revoked      {id} serial {serial}"),
            Self::Ca { trust_domain, step, serial } => {
                write!(f, "{:<12} spiffe://{trust_domain} root {serial}", format!("ca {step}"))
            }
            Self::JwtKey { trust_domain, step, kid } => {
                write!(f, "{:<12} spiffe://{trust_domain} kid {kid}", format!("jwt {step}"))
            }
            Self::Federated(trust_domain) => write!(f, "federated    spiffe://{trust_domain}"),
            Self::Defederated(trust_domain) => write!(f, "defederated  spiffe://{trust_domain}"),
        }
    }
}

/// The three steps of a CA roll-over, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaStep {
    /// A new root joins the bundle; nothing is signed by it yet.
    Prepare,
    /// The new root signs every leaf.
    Activate,
    /// The old root leaves the bundle.
    Retire,
}

impl fmt::Display for CaStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        })
    }
}
