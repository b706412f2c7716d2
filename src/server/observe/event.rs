//! Who is on a stream, and what happens there.

use std::{fmt, sync::Arc, time::Duration};

use tonic::Code;

use crate::{
    listen::Peer,
    xds::{ResourceName, Service, Variant, Version},
};

/// Who is on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The process or address.
    pub peer: Peer,
    /// What its first message calls itself: `node.id`. Empty before that, and for clients that tell nothing.
    pub node: String,
    /// `node.cluster`.
    pub cluster: String,
    /// SotW or delta.
    pub variant: Variant,
    /// Secrets alone or aggregated.
    pub service: Service,
}

/// Something that happened on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// A client sent its first request.
    Opened {
        /// Who.
        client: Arc<Client>,
    },
    /// A resource was handed to the connection.
    Sent {
        /// To whom.
        client: Arc<Client>,
        /// Its name.
        name: ResourceName,
        /// Its version.
        version: Version,
        /// Bytes on the wire.
        bytes: usize,
    },
    /// The client took it.
    Acked {
        /// Who.
        client: Arc<Client>,
        /// Its name.
        name: ResourceName,
        /// Its version.
        version: Version,
        /// From handing it to the connection to the answer.
        latency: Duration,
    },
    /// The client refused it.
    Nacked {
        /// Who.
        client: Arc<Client>,
        /// Its name.
        name: ResourceName,
        /// Its version.
        version: Version,
        /// The client's words.
        detail: String,
    },
    /// The stream ended.
    Closed {
        /// Whose.
        client: Arc<Client>,
        /// The gRPC status; `None` when the client went away.
        code: Option<Code>,
    },
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = if self.node.is_empty() { "-" } else { &self.node };
        write!(f, "{node} {} {} {}", self.peer, self.service.as_str(), self.variant.as_str())
    }
}
