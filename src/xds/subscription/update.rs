//! What a subscription hears and says.

use std::{sync::Arc, time::Duration};

use super::Status;
use crate::xds::{Frame, Origin, Rejection, Resource, ResourceName, Variant, Version, response};

/// What a request turned out to mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// It was the first of its stream (and type).
    pub opened: bool,
    /// What it says about an earlier response.
    pub answer: Answer,
    /// Names that it added.
    pub added: usize,
    /// Names that it dropped.
    pub dropped: usize,
    /// Names that are too long to be any.
    pub overlong: usize,
    /// Everything held will be sent again, because the client asked the same thing twice.
    pub resent: bool,
    /// The subscription now includes everything that is listed.
    pub wildcard: bool,
    /// It was the first, and its client says that it holds something from an earlier stream.
    pub returns: bool,
}

/// What a request says about an earlier response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answers nothing.
    None,
    /// The client took it; `resource` is what it carried, unless it only named absences.
    Acked {
        /// Name and version.
        resource: Option<(ResourceName, Version)>,
        /// From sending to this answer.
        latency: Duration,
    },
    /// The client refused it and keeps what it had.
    Nacked {
        /// Name and version of what was refused; `None` for a list of absences.
        resource: Option<(ResourceName, Version)>,
        /// The client's words.
        rejection: Rejection,
    },
    /// The response was already answered: on an aggregated stream, a call for help.
    Repeated,
    /// No such response is waiting for an answer.
    Stale,
}

/// How a name stands with a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// As asked.
    pub name: &'a ResourceName,
    /// What was sent last, or what the client said that it has.
    pub sent: Option<&'a Version>,
    /// What the client took last, or said that it has: what it uses.
    pub held: Option<&'a Version>,
    /// How the last sending went.
    pub status: Status,
}

/// Something to tell the client.
#[derive(Debug)]
pub enum Update {
    /// A resource, new or changed. One a response, so that an answer is about exactly one name, one bad resource
    /// never takes a good one with it, and the frame is the same for every client.
    Resource {
        /// What is sent.
        resource: Arc<Resource>,
        /// SotW: the state that the client holds after it; within a burst, the state of a client that holds it alone.
        /// Delta: the resource's version.
        version_info: Version,
        /// What the client answers with.
        nonce: Box<str>,
    },
    /// Delta: names that are not to be had.
    Removed {
        /// The names.
        names: Vec<ResourceName>,
        /// What the client answers with.
        nonce: Box<str>,
    },
}

impl Update {
    /// Renders the update for the wire.
    #[must_use]
    pub fn frame(&self, variant: Variant, origin: &Origin) -> Frame {
        match self {
            Self::Resource { resource, version_info, nonce } => {
                resource.frames(variant).frame(variant, resource.origin(), version_info, nonce)
            }
            Self::Removed { names, nonce } => {
                response::without_resources(variant, origin, origin.type_url, "", nonce, names)
            }
        }
    }
}
