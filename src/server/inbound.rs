//! Requests off the wire: gRPC messages out of a request body.
//!
//! The generated decoder keeps its buffer for the life of the stream, and Envoy's first message is 61 KB: ten thousand
//! idle streams would hold 600 MB of nodes long forgotten. This one gives the buffer back after every message.

use std::{
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body as _;
use tonic::{Status, body::Body};

/// The length of a gRPC message's prefix: one byte "compressed", four of length.
const PREFIX: usize = 5;

/// The messages of one request body.
pub(super) struct Inbound<M> {
    body: Body,
    buffer: BytesMut,
    limit: usize,
    message: PhantomData<fn() -> M>,
}

impl<M: prost::Message + Default> Inbound<M> {
    /// Messages of at most `limit` bytes.
    pub(super) fn new(body: Body, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), limit, message: PhantomData }
    }

    /// The next message; `None` when the client has said all it wants to say.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M, Status>>> {
        loop {
            match self.decode_buffered() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.take_in(data);
                    }
                }
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.buffer.is_empty() => return Poll::Ready(None),
                None => {
                    self.buffer = BytesMut::new();
                    return Poll::Ready(Some(Err(Status::internal("the request ends in the middle of a message"))));
                }
            }
        }
    }

    fn take_in(&mut self, data: Bytes) {
        if self.buffer.is_empty() {
            // Nearly always a frame is a message; then nothing is copied.
            self.buffer = BytesMut::from(data);
        } else {
            self.buffer.extend_from_slice(&data);
        }
    }

    fn decode_buffered(&mut self) -> Result<Option<M>, Status> {
        let Some(([compressed, length @ ..], rest)) = self.buffer.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if *compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not accepted: no encoding was offered"));
        }
        if length > self.limit {
            let limit = self.limit;
            return Err(Status::resource_exhausted(format!(
                "a request of {length} bytes is larger than the limit of {limit}; ask for fewer names at once or raise limits.request_bytes"
            )));
        }
        let Some(message) = rest.get(..length) else {
            self.buffer.reserve((PREFIX + length).saturating_sub(self.buffer.len()));
            return Ok(None);
        };
        let decoded = M::decode(message)
            .map_err(|error| Status::invalid_argument(format!("the request is not a discovery request: {error}")));
        self.buffer.advance(PREFIX + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        decoded.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::{BodyExt as _, Full, StreamBody};
    use prost::Message as _;

    use super::*;
    use crate::xds::WireSotw;

    fn message(names: usize) -> Vec<u8> {
        let wire = WireSotw { resource_names: vec!["name".into(); names], ..WireSotw::default() };
        let mut framed = vec![0, 0, 0, 0, 0];
        framed.extend(wire.encode_to_vec());
        let length = u32::try_from(framed.len() - PREFIX).unwrap();
        framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        framed
    }

    fn next(inbound: &mut Inbound<WireSotw>) -> Option<Result<WireSotw, Status>> {
        match inbound.poll_message(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => panic!("nothing to wait for"),
        }
    }

    fn chunked(bytes: Vec<u8>, size: usize) -> Inbound<WireSotw> {
        let chunks: Vec<_> = bytes
            .chunks(size)
            .map(|chunk| Ok::<_, Status>(http_body::Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(chunks));
        Inbound::new(Body::new(body), 1 << 20)
    }

    #[test]
    fn messages_may_be_split_and_joined_anywhere() {
        let both = [message(3), message(70)].concat();
        for size in [1, 2, 4, 5, 6, 7, 100, both.len()] {
            let mut inbound = chunked(both.clone(), size);
            assert_eq!(next(&mut inbound).unwrap().unwrap().resource_names.len(), 3);
            assert_eq!(next(&mut inbound).unwrap().unwrap().resource_names.len(), 70);
            assert_eq!(inbound.buffer.capacity(), 0, "the buffer is given back");
            assert!(next(&mut inbound).is_none());
        }
    }

    #[test]
    fn garbage_is_a_status() {
        let status = |bytes: Vec<u8>| {
            let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {});
            next(&mut Inbound::<WireSotw>::new(Body::new(body), 1000)).unwrap().unwrap_err().code()
        };
        assert_eq!(status(vec![1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
        assert_eq!(status(vec![0, 255, 255, 255, 255]), tonic::Code::ResourceExhausted);
        assert_eq!(status(vec![0, 0, 0, 0, 2, 0xff, 0xff]), tonic::Code::InvalidArgument);
        assert_eq!(status(vec![0, 0, 0, 0, 9, 1]), tonic::Code::Internal);
    }
}
