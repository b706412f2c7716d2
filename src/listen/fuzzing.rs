//! What fuzzers need and nobody else may have. No interface: it changes whenever it likes.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::authority::Authority;

/// A connection on which these pieces come, and then its end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What `h2` sees of a connection on which these pieces come.
#[must_use]
pub fn authority(pieces: &[&[u8]]) -> Vec<u8> {
    let pieces = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect();
    let (mut io, mut out, mut space) = (Authority::new(Pieces(pieces)), Vec::new(), [0; 997]);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        let mut buf = ReadBuf::new(&mut space);
        let read = Pin::new(&mut io).poll_read(&mut cx, &mut buf);
        if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().is_empty() {
            return out;
        }
        out.extend_from_slice(buf.filled());
    }
}
