//! What happens on streams, as log lines and as events that a library user can follow.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Shared, peer::Peer};
use crate::xds::{Answer, Event, Outgoing, ResourceName, Service, StreamState, Update, Variant, Version};

/// Names in one line of the log.
const NAMES_SHOWN: usize = 8;

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

/// Watches one stream; says that it is gone when dropped.
pub(super) struct StreamObserver {
    shared: Arc<Shared>,
    client: Arc<Client>,
    opened: bool,
    ended: Option<Code>,
}

impl StreamObserver {
    pub(super) fn new(shared: Arc<Shared>, variant: Variant, service: Service, peer: Peer) -> Self {
        let client = Client { peer, node: String::new(), cluster: String::new(), variant, service };
        Self { shared, client: Arc::new(client), opened: false, ended: None }
    }

    /// A request came in.
    pub(super) fn heard(&mut self, event: &Event, state: &StreamState) {
        if let Some(node) = &event.node {
            let client = Client { node: shown(&node.id), cluster: shown(&node.cluster), ..(*self.client).clone() };
            self.client = Arc::new(client);
        }
        if let Some(type_url) = &event.foreign {
            tracing::warn!(client = %self.client, %type_url, "client asks for a type that is not served, answered with nothing");
        }
        let Some(heard) = &event.heard else { return };
        if !self.opened {
            self.opened = true;
            tracing::debug!(client = %self.client, names = state.secrets().names(), wildcard = heard.wildcard, "stream opened");
            self.emit(|client| StreamEvent::Opened { client });
        }
        if heard.resent {
            tracing::info!(client = %self.client, "client asks for the same again, resending");
        }
        match &heard.answer {
            Answer::Acked { resource: Some((name, version)), latency } => {
                tracing::debug!(client = %self.client, %name, %version, latency_us = latency.as_micros() as u64, "resource acknowledged");
                self.emit(|client| StreamEvent::Acked {
                    client,
                    name: name.clone(),
                    version: version.clone(),
                    latency: *latency,
                });
            }
            Answer::Nacked { resource: Some((name, version)), rejection } => {
                let detail = rejection.message.as_str();
                if let Some(unsaid) = self.shared.floods.rejected.take(Instant::now()) {
                    tracing::warn!(client = %self.client, %name, %version, detail, unsaid, "resource rejected by the client, it keeps what it had");
                }
                self.emit(|client| StreamEvent::Nacked {
                    client,
                    name: name.clone(),
                    version: version.clone(),
                    detail: detail.to_owned(),
                });
            }
            Answer::Nacked { resource: None, rejection } => {
                tracing::warn!(client = %self.client, detail = rejection.message, "absence rejected by the client");
            }
            Answer::Stale => tracing::debug!(client = %self.client, "stale nonce, names still count"),
            Answer::Acked { resource: None, .. } | Answer::Repeated | Answer::None => {}
        }
    }

    /// A response goes out.
    pub(super) fn sent(&self, outgoing: &Outgoing) {
        match &outgoing.update {
            Some(Update::Resource { resource, .. }) => {
                let (name, version, bytes) = (resource.name(), resource.version(), outgoing.frame.size());
                tracing::debug!(client = %self.client, %name, %version, bytes, "resource sent");
                self.emit(|client| StreamEvent::Sent { client, name: name.clone(), version: version.clone(), bytes });
            }
            Some(Update::Removed { names, .. }) => {
                // An aggregated stream may be told of thousands at once.
                let shown = names.get(..NAMES_SHOWN).unwrap_or(names);
                if let Some(unsaid) = self.shared.floods.refused.take(Instant::now()) {
                    tracing::info!(client = %self.client, count = names.len(), names = ?shown, unsaid, "names not available to this client");
                }
            }
            None => {}
        }
    }

    /// The server ends the stream.
    pub(super) fn ended(&mut self, status: &Status) {
        self.ended = Some(status.code());
        if status.code() != Code::Ok {
            tracing::warn!(client = %self.client, code = ?status.code(), reason = status.message(), "stream ended");
        }
    }

    fn emit(&self, event: impl FnOnce(Arc<Client>) -> StreamEvent) {
        let events = &self.shared.events;
        if events.receiver_count() > 0 {
            // Nobody listening any more is not an error.
            let _ = events.send(event(self.client.clone()));
        }
    }
}

impl Drop for StreamObserver {
    fn drop(&mut self) {
        tracing::debug!(client = %self.client, code = ?self.ended, "stream closed");
        self.emit(|client| StreamEvent::Closed { client, code: self.ended });
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = if self.node.is_empty() { "-" } else { &self.node };
        write!(f, "{node} {} {} {}", self.peer, self.service.as_str(), self.variant.as_str())
    }
}

/// Text of a client's as it may stand in a log line.
fn shown(text: &str) -> String {
    ResourceName::new(text).to_string()
}
