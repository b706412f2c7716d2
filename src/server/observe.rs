//! What happens on streams, as log lines and as events that a library user can follow.

mod event;
mod missing;

use std::{pin::Pin, sync::Arc, task::Context};

use tokio::time::Sleep;
use tonic::{Code, Status};

use super::{
    Shared,
    publish::{AckSeat, Arrival},
    registry::{Resend, Seat},
    trail::Trail,
};
use crate::{
    listen::Peer,
    telemetry::{
        journal::Weight,
        metrics::{Mismatch, StreamMeter, Suppressed},
        traces::Verdict,
    },
    xds::{Answer, Event, Node, Outgoing, ResourceName, ResourceSet, Service, StreamState, Update, Variant},
};
pub use event::{Client, StreamEvent};

/// Watches one stream; says that it is gone when dropped.
pub(super) struct StreamObserver {
    shared: Arc<Shared>,
    client: Arc<Client>,
    meter: StreamMeter,
    seat: Seat,
    acks: AckSeat,
    opened: bool,
    ended: Option<Code>,
    since_settled: SinceSettled,
    trail: Trail,
    /// What it looks at.
    now: Option<Arc<ResourceSet>>,
    /// Runs while the client waits for names of which nobody has been told.
    patience: Option<Pin<Box<Sleep>>>,
}

/// What happened since the stream last had nothing more to say.
#[derive(Default)]
struct SinceSettled {
    /// It was opened, or wants other names than before.
    interest: bool,
    opened: bool,
    sent: bool,
    /// There are other resources than before: since when, and how they came.
    news: Option<Arrival>,
}

impl StreamObserver {
    pub(super) fn new(shared: Arc<Shared>, variant: Variant, service: Service, peer: Peer) -> Self {
        let client = Arc::new(Client { peer, node: String::new(), cluster: String::new(), variant, service });
        let meter = shared.metrics.open(service, variant, peer.class());
        let seat = shared.streams.open(client.clone());
        let acks = shared.acks.seat();
        let since_settled = SinceSettled::default();
        let trail = shared.traces.get().map(Trail::of).unwrap_or_default();
        let (now, patience) = (None, None);
        Self { shared, client, meter, seat, acks, opened: false, ended: None, since_settled, trail, now, patience }
    }

    /// What an operator wants sent again: one name, or `Some(None)` for everything.
    pub(super) fn asked(&self, cx: &Context<'_>) -> Option<Option<ResourceName>> {
        self.seat.asked(cx).map(|resend| match resend {
            Resend::Everything => None,
            Resend::Name(name) => Some(name),
        })
    }

    /// The stream looks at these resources from now on.
    pub(super) fn sees(&mut self, now: &Arc<ResourceSet>) {
        self.seat.sees(now);
        self.now = Some(now.clone());
    }

    /// The client says this of itself; says how many bytes of it are remembered.
    pub(super) fn knows(&self, node: &Node) -> usize {
        self.seat.knows(node.details())
    }

    /// The stream looks at what came like this.
    pub(super) fn looks_at(&mut self, arrival: Arrival) {
        self.trail.looks_at(arrival.step);
    }

    /// There are other resources than before.
    pub(super) fn news(&mut self, arrival: Arrival) {
        self.since_settled.news.get_or_insert(arrival);
    }

    /// The stream has nothing more to say. The task of `cx` is woken when a client has waited for too long.
    pub(super) fn settled(&mut self, state: &mut StreamState, cx: &mut Context<'_>) {
        self.trail.settles();
        self.acks.has(state.secrets().has_step());
        self.seat.has_step(self.acks.counts_from());
        let changes = state.take_changes();
        self.seat.wants(state.secrets(), &changes);
        let SinceSettled { interest, opened, sent, news } = std::mem::take(&mut self.since_settled);
        self.refuse(&state.take_refused());
        self.wait(state, interest, cx);
        if !interest && !sent && news.is_none() {
            return;
        }
        let waiting = state.secrets().waiting();
        self.meter.waiting(waiting);
        if sent || waiting == state.secrets().names() {
            return;
        }
        // It holds something, and there was a reason to send: that nothing was sent is what versions are for.
        if opened {
            self.meter.suppressed(Suppressed::Resumed);
        } else if news.is_some() {
            self.meter.suppressed(Suppressed::Unchanged);
        }
    }

    /// A request came in.
    pub(super) fn heard(&mut self, event: &Event, state: &StreamState) {
        self.meter.request();
        if let Some(node) = &event.node {
            let client = Client { node: shown(&node.id), cluster: shown(&node.cluster), ..(*self.client).clone() };
            self.client = Arc::new(client);
            self.seat.is(self.client.clone());
        }
        if let Some(type_url) = &event.foreign {
            tracing::warn!(client = %self.client, peer = %self.client.peer, %type_url, "client asks for a type that is not served, answered with nothing");
        }
        let Some(heard) = &event.heard else { return };
        self.since_settled.interest |= heard.opened || heard.added + heard.dropped > 0;
        self.since_settled.opened |= heard.opened;
        if heard.returns {
            self.acks.returns();
        }
        if !self.opened {
            self.opened = true;
            tracing::debug!(client = %self.client, names = state.secrets().names(), wildcard = heard.wildcard, "stream opened");
            self.note(Weight::Routine, "stream_opened", "", "");
            self.emit(|client| StreamEvent::Opened { client });
        }
        if heard.overlong > 0 && self.client.variant == Variant::Sotw {
            self.refuse_overlong(heard.overlong);
        }
        if heard.resent {
            self.meter.mismatch(Mismatch::Repeated);
            tracing::info!(client = %self.client, peer = %self.client.peer, "client asks for the same again, resending");
        }
        match &heard.answer {
            Answer::Acked { resource: Some((name, version)), latency } => {
                let _push = self.trail.answered(name, version, Verdict::Acked).entered();
                self.meter.acked(*latency);
                self.acks.answers();
                self.seat.acked(name, version);
                self.note(Weight::Routine, "resource_acked", name.as_str(), version.as_str());
                tracing::debug!(client = %self.client, %name, %version, latency_us = latency.as_micros() as u64, "resource acknowledged");
                self.emit(|client| StreamEvent::Acked {
                    client,
                    name: name.clone(),
                    version: version.clone(),
                    latency: *latency,
                });
            }
            Answer::Nacked { resource: Some((name, version)), rejection } => {
                self.meter.nacked();
                let detail = rejection.message.as_str();
                let _push = self.trail.answered(name, version, Verdict::Rejected(detail)).entered();
                self.seat.nacked(name, version, detail);
                self.note(Weight::Problem, "resource_rejected", name.as_str(), detail);
                tracing::warn!(client = %self.client, peer = %self.client.peer, %name, %version, detail, "resource rejected by the client, it keeps what it had");
                self.emit(|client| StreamEvent::Nacked {
                    client,
                    name: name.clone(),
                    version: version.clone(),
                    detail: detail.to_owned(),
                });
            }
            Answer::Nacked { resource: None, rejection } => {
                self.meter.nacked();
                self.note(Weight::Problem, "absence_rejected", "", &rejection.message);
                tracing::warn!(client = %self.client, peer = %self.client.peer, detail = rejection.message, "absence rejected by the client");
            }
            Answer::Stale => {
                self.meter.mismatch(Mismatch::Stale);
                tracing::debug!(client = %self.client, "stale nonce, names still count");
            }
            Answer::Acked { resource: None, latency } => self.meter.acked(*latency),
            Answer::Repeated | Answer::None => {}
        }
    }

    /// A response goes out.
    pub(super) fn sent(&mut self, outgoing: &Outgoing) {
        let _push = self.trail.sent(&self.client, outgoing).entered();
        self.meter.response(outgoing.frame.size());
        if outgoing.update.is_some() {
            self.since_settled.sent = true;
            if let Some(news) = &self.since_settled.news {
                self.meter.pushed(news.since.elapsed(), news.held);
            }
        }
        match &outgoing.update {
            Some(Update::Resource { resource, .. }) => {
                let (name, version, bytes) = (resource.name(), resource.version(), outgoing.frame.size());
                self.seat.sent(name, version);
                self.note(Weight::Routine, "resource_sent", name.as_str(), version.as_str());
                tracing::debug!(client = %self.client, %name, %version, bytes, "resource sent");
                self.emit(|client| StreamEvent::Sent { client, name: name.clone(), version: version.clone(), bytes });
            }
            Some(Update::Removed { names, .. }) => self.refuse(names),
            None => {}
        }
    }

    /// The server ends the stream.
    pub(super) fn ended(&mut self, status: &Status) {
        self.ended = Some(status.code());
        self.meter.ended(code_name(status.code()));
        if status.code() != Code::Ok {
            tracing::warn!(client = %self.client, peer = %self.client.peer, code = ?status.code(), reason = status.message(), "stream ended");
        }
    }

    /// For those who look back.
    fn note(&self, weight: Weight, event: &'static str, subject: &str, detail: &str) {
        self.shared.journal.note(weight, event, subject, detail, &self.client);
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
        if self.opened {
            let code = self.ended.map_or("client went away", code_name);
            let weight = if matches!(self.ended, None | Some(Code::Ok)) { Weight::Routine } else { Weight::Notice };
            self.note(weight, "stream_closed", "", code);
        }
        self.emit(|client| StreamEvent::Closed { client, code: self.ended });
    }
}

/// A gRPC status as labels spell it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// Text of a client's as it may stand in a log line.
fn shown(text: &str) -> String {
    ResourceName::new(text).to_string()
}
