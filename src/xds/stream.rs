//! One stream: who speaks on it, what it asks for, and what comes next.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use super::{
    Changes, Frame, Heard, Limits, Node, Origin, Request, ResourceName, ResourceSet, SECRET_TYPE_URL, Subscription,
    TooManyNames, Update, Variant, Version, Wire, foreign::Foreign,
};

/// Which gRPC service a stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// `envoy.service.secret.v3.SecretDiscoveryService`: secrets only.
    Secrets,
    /// `envoy.service.discovery.v3.AggregatedDiscoveryService`: every request names its type.
    Aggregated,
}

impl Service {
    /// The name used in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "sds",
            Self::Aggregated => "ads",
        }
    }
}

/// Why a stream must end. Everything else is answered or ignored: one bad name never ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// More names than a stream may have.
    #[error(transparent)]
    TooManyNames(#[from] TooManyNames),
    /// The secret discovery service was asked for something else.
    #[error("the secret discovery service serves {SECRET_TYPE_URL} only, not {0}; ask for other types elsewhere")]
    WrongType(ResourceName),
    /// An aggregated request that does not say what it wants.
    #[error("requests on an aggregated stream must carry a type_url, such as {SECRET_TYPE_URL}")]
    NoType,
}

/// What a request meant to the stream.
#[derive(Debug)]
pub struct Event {
    /// The client's node, on the first message only.
    pub node: Option<Node>,
    /// What the secrets' subscription heard; `None` for another type.
    pub heard: Option<Heard>,
    /// The first request of a type that is not served.
    pub foreign: Option<ResourceName>,
}

/// A response, ready to be written, and what it says.
#[derive(Debug)]
pub struct Outgoing {
    /// The bytes.
    pub frame: Frame,
    /// What they say; `None` for the answer about a type that is not served.
    pub update: Option<Update>,
}

/// The protocol state of one stream.
#[derive(Debug)]
pub struct StreamState {
    variant: Variant,
    service: Service,
    limits: Limits,
    origin: Arc<Origin>,
    greeted: bool,
    secrets: Subscription,
    foreign: Option<Box<Foreign>>,
}

impl StreamState {
    /// A stream that nobody has spoken on yet.
    #[must_use]
    pub fn new(variant: Variant, service: Service, limits: Limits, wildcard: bool, origin: Arc<Origin>) -> Self {
        let heals = service == Service::Aggregated && variant == Variant::Sotw;
        let secrets = Subscription::new(variant, limits, wildcard, heals);
        Self { variant, service, limits, origin, greeted: false, secrets, foreign: None }
    }

    /// *Input.* Takes in one request at `at`, the age of the stream. Produces no output: see [`StreamState::poll`].
    ///
    /// # Errors
    /// A [`Refusal`] ends the stream.
    pub fn on_request<W: Wire>(&mut self, mut wire: W, at: Duration) -> Result<Event, Refusal> {
        // Only the first message is guaranteed to have a node, and any later one is the same: it is not even looked at.
        let node = wire.take_node().filter(|_| !self.greeted).map(Node::from);
        self.greeted = true;
        let type_url = wire.type_url().to_owned();
        match (type_url.as_str(), self.service) {
            (SECRET_TYPE_URL, _) | ("", Service::Secrets) => {}
            ("", Service::Aggregated) => return Err(Refusal::NoType),
            (_, Service::Secrets) => return Err(Refusal::WrongType(type_url.into())),
            (_, Service::Aggregated) => {
                let foreign = self.foreign.get_or_insert_default();
                let first = foreign.on_request(&type_url, wire.into_request(), self.limits)?;
                return Ok(Event { node, heard: None, foreign: first.then(|| type_url.into()) });
            }
        }
        let heard = match wire.into_request() {
            Request::Sotw(request) => self.secrets.on_sotw(request, at)?,
            Request::Delta(request) => self.secrets.on_delta(request, at)?,
        };
        Ok(Event { node, heard: Some(heard), foreign: None })
    }

    /// *Output.* The next response, given the newest set; `None` when there is nothing to say. What it returns counts
    /// as sent. The set may be anything newer than the last one: what lies between was never owed.
    pub fn poll(&mut self, now: &ResourceSet, at: Duration) -> Option<Outgoing> {
        if let Some(frame) = self.foreign.as_mut().and_then(|foreign| foreign.poll(self.variant, &self.origin)) {
            return Some(Outgoing { frame, update: None });
        }
        let update = self.secrets.reconcile(now, at)?;
        let frame = update.frame(self.variant, &self.origin);
        Some(Outgoing { frame, update: Some(update) })
    }

    /// The sets from now on belong to this step of a roll-out.
    pub fn looks_at(&mut self, step: u64) {
        self.secrets.looks_at(step);
    }

    /// Owes the client again what it holds of secrets: `name`, or everything. An operator's wish, so content that was
    /// rejected is sent again too.
    pub fn resend(&mut self, name: Option<&ResourceName>) {
        self.secrets.resend(name);
    }

    /// The subscription to secrets, to look at.
    #[must_use]
    pub fn secrets(&self) -> &Subscription {
        &self.secrets
    }

    /// What has changed of it since this was asked last.
    pub fn take_changes(&mut self) -> Changes {
        self.secrets.take_changes()
    }

    /// As of [`Subscription::take_refused`].
    pub fn take_refused(&mut self) -> Vec<ResourceName> {
        self.secrets.take_refused()
    }

    /// As of [`Subscription::take_overdue`].
    pub fn take_overdue(&mut self) -> (Vec<ResourceName>, bool) {
        self.secrets.take_overdue()
    }

    /// Bytes that the stream costs, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.secrets.weight() + self.foreign.as_ref().map_or(0, |foreign| foreign.weight())
    }

    /// The protocol spoken.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }
}

impl Outgoing {
    /// What is sent: the resource's name and version.
    #[must_use]
    pub fn resource(&self) -> Option<(&ResourceName, &Version)> {
        match self.update.as_ref()? {
            Update::Resource { resource, .. } => Some((resource.name(), resource.version())),
            Update::Removed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
