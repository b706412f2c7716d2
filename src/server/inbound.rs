//! Requests off the wire: gRPC messages out of a request body.
//!
//! The generated decoder reserves what a message announces and keeps its buffer for the life of the stream. This one
//! stores what has come and will be used ([`Sieve`]), charges the client for it, and keeps nothing between messages:
//! Envoy's first one is 61 KB, nearly all of it forgotten at once.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use super::budget::Charge;
use crate::xds::{Sieve, Wire};

/// The length of a gRPC message's prefix: one byte "compressed", four of length.
const PREFIX: usize = 5;

/// What a request may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of one message.
    pub(super) bytes: usize,
    /// From a message's first byte to its last.
    pub(super) patience: Duration,
}

/// The messages of one request body.
pub(super) struct Inbound<W> {
    body: Body,
    /// What has come and was not looked at.
    chunk: Bytes,
    prefix: [u8; PREFIX],
    /// How much of `prefix` there is.
    have: usize,
    /// What is to come of the message whose prefix is there.
    left: usize,
    sieve: Sieve<W>,
    bounds: Bounds,
    charge: Charge,
    /// While a message is under way.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<W: Wire> Inbound<W> {
    /// Messages within these bounds, at the expense of whoever `charge` is on.
    pub(super) fn new(body: Body, bounds: Bounds, charge: Charge) -> Self {
        let (chunk, prefix, sieve) = (Bytes::new(), [0; PREFIX], Sieve::default());
        Self { body, chunk, prefix, have: 0, left: 0, sieve, bounds, charge, deadline: None }
    }

    /// The next message; `None` when the client has said all it wants to say.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<W, Status>>> {
        loop {
            let next = self.take_apart();
            if let Err(exhausted) = self.charge.set(self.sieve.weight() + self.chunk.len()) {
                return Poll::Ready(Some(Err(exhausted.into())));
            }
            if let Some(next) = next.transpose() {
                self.deadline = None;
                return Poll::Ready(Some(next));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    let patience = humantime::format_duration(self.bounds.patience);
                    let words =
                        format!("a request was begun and not finished within {patience} (limits.request_timeout)");
                    return Poll::Ready(Some(Err(Status::deadline_exceeded(words))));
                }
                Poll::Ready(Some(Ok(frame))) => self.chunk = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) if self.have == 0 => return Poll::Ready(None),
                Poll::Ready(None) => {
                    self.have = 0;
                    self.sieve = Sieve::default();
                    return Poll::Ready(Some(Err(Status::internal("the request ends in the middle of a message"))));
                }
            }
        }
    }

    /// The charge, for what becomes of the message.
    pub(super) fn into_charge(self) -> Charge {
        self.charge
    }

    /// Ready when a message has been under way for too long.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.have == 0 {
            return Poll::Pending;
        }
        let patience = self.bounds.patience;
        self.deadline.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx)
    }

    /// Takes in what has come; a message when that was its last byte.
    fn take_apart(&mut self) -> Result<Option<W>, Status> {
        if self.have < PREFIX {
            let missing = (PREFIX - self.have).min(self.chunk.len());
            let part = self.chunk.split_to(missing);
            if let Some(place) = self.prefix.get_mut(self.have..self.have + missing) {
                place.copy_from_slice(&part);
            }
            self.have += missing;
            if self.have < PREFIX {
                return Ok(None);
            }
            self.left = self.announced()?;
        }
        let part = self.chunk.len().min(self.left);
        let pushed = self.sieve.push(self.chunk.get(..part).unwrap_or_default());
        self.chunk.advance(part);
        if self.chunk.is_empty() {
            // An empty view still keeps the whole frame.
            self.chunk = Bytes::new();
        }
        self.left -= part;
        let message = match pushed {
            Ok(()) if self.left > 0 => return Ok(None),
            Ok(()) => self.sieve.finish(),
            Err(malformed) => Err(malformed),
        };
        self.have = 0;
        let words = |error| Status::invalid_argument(format!("the request is not a discovery request: {error}"));
        message.map(Some).map_err(words)
    }

    /// The length that a message's prefix announces.
    fn announced(&self) -> Result<usize, Status> {
        let [compressed, length @ ..] = self.prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not accepted: no encoding was offered"));
        }
        let (length, limit) = (u32::from_be_bytes(length) as usize, self.bounds.bytes);
        if length > limit {
            return Err(Status::resource_exhausted(format!(
                "a request of {length} bytes is larger than the limit of {limit}; ask for fewer names at once or raise limits.request_bytes"
            )));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
