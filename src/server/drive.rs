//! The only protocol loop: a response body that is polled into answering.
//!
//! A generated streaming handler costs a task, a channel and two buffers a stream, and leaves copies of the private
//! key in each of them. This body costs the state itself, hands out frames that all streams share, and is polled only
//! when the client can take more: a client that never reads holds one resource set and not a queue.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream as _;
use http_body::Frame;
use tokio::time::Instant;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, body::Body};

use super::{
    Shared,
    budget::Charge,
    inbound::Inbound,
    observe::StreamObserver,
    publish::{Arrival, Feed},
    shared::Admission,
};
use crate::{
    identity::FileLease,
    listen::{Peer, peer::StreamPermit},
    secret::{Flavour, NodeNames, View},
    xds::{Limits, Refusal, ResourceName, ResourceSet, Service, StreamState, Wire},
};

/// Requests taken in before other streams of the connection get their turn.
const BURST: usize = 64;

/// One stream, as the body of its response.
pub(super) struct Drive<W> {
    shared: Arc<Shared>,
    inbound: Inbound<W>,
    state: StreamState,
    /// For what `state` holds, and what is remembered of the node.
    charge: Charge,
    /// Bytes that are remembered of the node.
    details: usize,
    feed: WatchStream<Feed>,
    /// Names that only this client has.
    names: Arc<NodeNames>,
    /// What it wants read from files.
    files: FileLease,
    now: Option<Arc<ResourceSet>>,
    flavour: Flavour,
    /// The client's flavours: by default, and with the SPIFFE validator disabled.
    flavours: (Flavour, Flavour),
    /// The client holds something from before this stream, or others do.
    returns: bool,
    /// The step of the roll-out that the newest resources belong to.
    number: u64,
    /// The one that it was first given something of.
    first_sent: Option<u64>,
    /// The second half of a frame whose first half is on its way.
    tail: Option<Bytes>,
    /// The client has said all that it wants to say: it gets what it is owed, and the stream ends.
    deaf: bool,
    ended: bool,
    opened: Instant,
    observer: StreamObserver,
    _permit: StreamPermit,
    wire: PhantomData<fn() -> W>,
}

impl<W: Wire> Drive<W> {
    /// A stream of `peer` that begins now.
    pub(super) fn new(shared: Arc<Shared>, service: Service, peer: Peer, permit: StreamPermit, body: Body) -> Self {
        let settings = shared.settings.now();
        let limits = settings.config.limits;
        let limits =
            Limits { names: limits.names_per_stream as usize, name_bytes: limits.name_bytes_per_stream as usize };
        let charge = shared.budgets.open(peer);
        let wildcard = settings.secrets.wildcard;
        let Admission { feed, flavour, flavours, names } = shared.admit_anyone(&settings);
        Self {
            inbound: Inbound::new(body, shared.bounds(), charge.beside()),
            charge,
            details: 0,
            state: StreamState::new(W::VARIANT, service, limits, wildcard, shared.origin.clone()),
            feed: WatchStream::new(feed),
            names,
            files: shared.files.lease(peer.into()),
            now: None,
            flavour,
            flavours,
            returns: false,
            number: 0,
            first_sent: None,
            tail: None,
            deaf: false,
            ended: false,
            opened: Instant::now(),
            observer: StreamObserver::new(shared.clone(), W::VARIANT, service, peer),
            _permit: permit,
            wire: PhantomData,
            shared,
        }
    }

    fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Takes in every request that is ready; `Err` ends the stream.
    fn hear(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        if self.deaf {
            return Ok(());
        }
        for _ in 0..BURST {
            match self.inbound.poll_message(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(message))) => self.on_message(message)?,
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(None) => {
                    self.deaf = true;
                    return Ok(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn on_message(&mut self, message: W) -> Result<(), Status> {
        let age = self.age();
        let event = self.state.on_request(message, age).map_err(|refusal| self.refuse(&refusal))?;
        if let Some(node) = &event.node {
            let admission = self.shared.admit(&self.shared.settings.now(), node);
            self.follow_as(admission);
            self.details = self.observer.knows(node);
        }
        self.observer.heard(&event, &self.state);
        // Once one client is back, whoever is new could meet those that are not.
        if event.heard.as_ref().is_some_and(|heard| heard.opened) && self.shared.acks.has_returned() {
            self.returns = true;
            self.feed = WatchStream::new(self.shared.feeds.of(self.flavour));
            self.now = None;
        }
        if event.heard.as_ref().is_some_and(|heard| heard.opened || heard.added + heard.dropped > 0) {
            let secrets = &self.shared.settings.now().secrets;
            let is_file = |name: &ResourceName| secrets.file(name.as_str()).is_some();
            let changes = self.state.secrets().changes().names();
            if secrets.files.is_open() && changes.is_none_or(|names| names.iter().any(is_file)) {
                let wanted = self.state.secrets().wanted();
                self.files.hold(wanted.filter_map(|name| secrets.file(name.as_str())).collect());
            }
        }
        Ok(self.charge.set(self.state.weight() + self.details)?)
    }

    fn follow_as(&mut self, admission: Admission) {
        let Admission { feed, flavour, flavours, names } = admission;
        self.feed = WatchStream::new(feed);
        (self.flavour, self.flavours, self.names) = (flavour, flavours, names);
        self.now = None;
    }

    /// The resources that the client may have of this state.
    fn of(&self, view: &View, arrival: Arrival) -> Arc<ResourceSet> {
        let is_former = |since: u64| self.returns || self.first_sent.is_some_and(|sent| (1..since).contains(&sent));
        match arrival.keeps_back {
            Some(since) if is_former(since) => view.for_node_without_certificates(&self.names),
            _ => view.for_node(&self.names),
        }
    }

    /// Follows the feed of the flavour that is right now; the configuration has a say in it and may change.
    fn choose(&mut self) {
        let flavour = self.shared.settings.flavour(self.flavours);
        if flavour != self.flavour {
            self.flavour = flavour;
            self.feed = WatchStream::new(self.shared.feeds.of(flavour));
            self.now = None;
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Status {
        match refusal {
            Refusal::TooManyNames(_) => Status::resource_exhausted(refusal.to_string()),
            Refusal::WrongType(_) | Refusal::NoType => Status::invalid_argument(refusal.to_string()),
        }
    }

    /// Looks at the newest resources; `false` when the server is going away.
    fn follow(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match Pin::new(&mut self.feed).poll_next(cx) {
                Poll::Pending => return true,
                Poll::Ready(Some(Feed::Live(view, arrival))) => {
                    self.observer.looks_at(arrival);
                    // What was there before the stream looked is no news.
                    if self.now.is_some() {
                        self.observer.news(arrival);
                    }
                    let set = self.of(&view, arrival);
                    self.state.looks_at(arrival.number);
                    self.number = arrival.number;
                    self.observer.sees(&set);
                    self.now = Some(set);
                    self.choose();
                }
                Poll::Ready(Some(Feed::Closing) | None) => return false,
            }
        }
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.observer.ended(status);
        let mut trailers = http::HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl<W: Wire> http_body::Body for Drive<W> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Some(tail) = this.tail.take() {
            return Poll::Ready(Some(Ok(Frame::data(tail))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        // Requests first: the first one decides which feed is followed.
        if let Err(status) = this.hear(cx) {
            return this.end(&status);
        }
        if !this.follow(cx) {
            return this.end(&Status::ok(""));
        }
        if let Some(name) = this.observer.asked(cx) {
            this.state.resend(name.as_ref());
        }
        // Responses that wait for their answer.
        if let Err(exhausted) = this.charge.set(this.state.weight() + this.details) {
            return this.end(&exhausted.into());
        }
        let age = this.age();
        let Some(outgoing) = this.now.as_ref().and_then(|now| this.state.poll(now, age)) else {
            this.observer.settled(&mut this.state, cx);
            let settled = this.now.as_ref().is_some_and(|now| now.is_known());
            return if this.deaf && settled { this.end(&Status::ok("")) } else { Poll::Pending };
        };
        this.first_sent.get_or_insert(this.number);
        this.observer.sent(&outgoing);
        this.tail = outgoing.frame.tail;
        Poll::Ready(Some(Ok(Frame::data(outgoing.frame.head))))
    }
}

impl<W> fmt::Debug for Drive<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
