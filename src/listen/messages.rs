//! Bodies of gRPC requests for generated services: no message larger than is of use, and none unfinished for ever.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// The length of a message's prefix: one byte "compressed", four of length.
const PREFIX: usize = 5;

/// What one message may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Its bytes.
    pub(crate) bytes: usize,
    /// From its first byte to its last.
    pub(crate) patience: Duration,
    /// There is one message, and the whole body has that much time. Else the client may be silent between two.
    pub(crate) unary: bool,
}

/// A body that ends with an error when a message is too large or takes too long.
pub(crate) struct Messages<B> {
    body: B,
    bounds: Bounds,
    prefix: [u8; PREFIX],
    /// How much of `prefix` there is.
    have: usize,
    /// What is to come of the message whose prefix is there.
    left: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Messages<B> {
    pub(crate) fn new(body: B, bounds: Bounds) -> Self {
        Self { body, bounds, prefix: [0; PREFIX], have: 0, left: 0, deadline: None }
    }

    /// Follows what has come.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while let Some((first, rest)) = data.split_first() {
            if self.have < PREFIX {
                if let Some(place) = self.prefix.get_mut(self.have) {
                    *place = *first;
                }
                self.have += 1;
                data = rest;
                if self.have == PREFIX {
                    self.left = self.announced()?;
                }
            } else {
                let part = self.left.min(data.len());
                self.left -= part;
                data.advance(part);
            }
            if self.have == PREFIX && self.left == 0 {
                self.have = 0;
                if !self.bounds.unary {
                    self.deadline = None;
                }
            }
        }
        Ok(())
    }

    /// The length that a message's prefix announces.
    fn announced(&self) -> Result<usize, Status> {
        let [_, length @ ..] = self.prefix;
        let (length, limit) = (u32::from_be_bytes(length) as usize, self.bounds.bytes);
        if length > limit {
            let words = format!("a request of {length} bytes is larger than {limit}, which is enough for this method");
            return Err(Status::resource_exhausted(words));
        }
        Ok(length)
    }

    /// Ready when the client has had its time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.have == 0 && !self.bounds.unary {
            return Poll::Pending;
        }
        let patience = self.bounds.patience;
        self.deadline.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx)
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                ready!(this.poll_deadline(cx));
                let patience = humantime::format_duration(this.bounds.patience);
                let words = format!("the request was not finished within {patience}");
                Poll::Ready(Some(Err(Status::deadline_exceeded(words))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(Some(Ok(frame))) => {
                let followed = frame.data_ref().map_or(Ok(()), |data| this.follow(data));
                Poll::Ready(Some(followed.map(|()| frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 8, patience: Duration::from_secs(30), unary: false };

    /// These pieces, and then nothing more.
    fn body(pieces: &[&'static [u8]], bounds: Bounds) -> Messages<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece)))).collect();
        Messages::new(StreamBody::new(stream::iter(pieces).chain(stream::pending())), bounds)
    }

    /// How the body fails after so many good pieces.
    async fn fails(mut body: impl Body<Error = Status> + Unpin, after: usize) -> Code {
        for _ in 0..after {
            body.frame().await.unwrap().unwrap();
        }
        body.frame().await.unwrap().err().unwrap().code()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_large_is_refused_on_its_announcement() {
        let pieces: &[&[u8]] = &[&[0, 0, 0, 0, 2, 1, 2, 0], &[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8], &[0, 0, 0, 0, 9]];
        assert_eq!(fails(body(pieces, BOUNDS), 2).await, Code::ResourceExhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_begun_has_to_be_finished() {
        for begun in [&[0][..], &[0, 0, 0, 0, 2], &[0, 0, 0, 0, 2, 1]] {
            let pieces: &[&[u8]] = &[&[0, 0, 0, 0, 1, 1], begun];
            assert_eq!(fails(body(pieces, BOUNDS), 2).await, Code::DeadlineExceeded);
        }
        let unary = Bounds { unary: true, ..BOUNDS };
        assert_eq!(fails(body(&[], unary), 0).await, Code::DeadlineExceeded);
        assert_eq!(fails(body(&[&[0, 0, 0, 0, 1, 1]], unary), 1).await, Code::DeadlineExceeded, "it has to end, too");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_messages_has_no_end() {
        let mut body = body(&[&[0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]], BOUNDS);
        body.frame().await.unwrap().unwrap();
        let more = tokio::time::timeout(Duration::from_secs(3600), body.frame()).await;
        assert!(more.is_err(), "an hour of silence");
    }
}
