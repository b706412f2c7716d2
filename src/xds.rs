//! What each client has been told: the xDS state machine, pure.
//!
//! Nothing here knows sockets, clocks or secrets. A stream is a [`StreamState`]; the loop that drives it calls, in
//! this order and again whenever something happened:
//!
//! 1. *inputs*: [`StreamState::on_request`] for every request that is ready. They say what
//!    was heard and never produce output themselves, so a burst of requests is answered once.
//! 2. *outputs*: [`StreamState::poll`] with the newest [`ResourceSet`], until it returns `None`. Each call yields at
//!    most one response, so a slow client is at most one resource behind and never owns a queue of old ones.
//!
//! One [`Subscription`] serves all four streaming variants. They differ only in how a request edits the interest
//! (replace, or add and remove), whether absence can be said (delta only) and in rendering.
//!
//! Rules and their sources: the xDS protocol (`docs/root/api-docs/xds_protocol.rst` in envoyproxy/envoy) and
//! `source/common/secret/sds_api.cc` for what Envoy really does with a Secret.

mod buffer;
mod foreign;
mod name;
mod node;
mod request;
mod resource;
mod response;
mod sieve;
mod stream;
mod subscription;

pub(crate) use buffer::filled;
pub use name::ResourceName;
pub use node::{AgentVersion, Details, EnvoyVersion, Node, UserAgent};
pub use request::{DeltaRequest, Rejection, Request, SotwRequest, Wire, WireDelta, WireSotw};
pub use resource::{Absence, Content, Lookup, Origin, Rank, Resource, ResourceSet, Version};
pub use response::{Frame, unary_frame};
pub use sieve::{Malformed, Sieve};
pub use stream::{Event, Outgoing, Refusal, Service, StreamState};
pub use subscription::{Answer, Changes, Heard, Limits, Standing, Status, Subscription, TooManyNames, Update, asked};

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// State of the world: every request carries the whole list of names.
    Sotw,
    /// Incremental: requests carry additions and removals.
    Delta,
}

impl Variant {
    /// The name used in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// The type URL of the one resource type that is served.
pub const SECRET_TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

#[cfg(test)]
mod properties;
