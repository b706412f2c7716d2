//! Makes clients work whose `:authority` is no authority of a URI.
//!
//! Clients put there whatever names the server for them: Envoy the name of a cluster (`outbound|443||sds.ns.svc`), gRPC
//! C-core (Python, C++, Ruby, Envoy's `google_grpc`) the escaped path of the socket (`run%2Fsds.sock`). `h2` resets such
//! a stream before anything of ours sees it, and the client learns nothing. This filter stands between the socket and
//! `h2` and replaces, in what comes in, nothing but such an authority. `docs/adr/0012-odd-authorities.md` says why so.
//!
//! Whatever it does not understand it passes on and looks no further, so that a connection never fares worse with it
//! than without. DATA frames go through in the reader's own buffer; what goes out is not looked at.

mod frames;
mod hpack;
mod huffman;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::{Frames, Step};

/// A connection of which `h2` sees only authorities that it takes.
#[derive(Debug)]
pub(crate) struct Authority<I> {
    io: I,
    frames: Frames,
    /// What came and waits for more, because a header block is judged as a whole.
    held: BytesMut,
    /// What was held and may go on.
    ready: BytesMut,
}

impl<I> Authority<I> {
    pub(crate) fn new(io: I) -> Self {
        Self { io, frames: Frames::default(), held: BytesMut::new(), ready: BytesMut::new() }
    }

    /// Leaves in `buf` what may go on of what was read after `start`, and holds the rest.
    fn sift(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let mut passed = start;
        if self.held.is_empty() {
            while let Some(input) = buf.filled().get(passed..).filter(|input| !input.is_empty()) {
                match self.frames.step(input) {
                    Step::Pass(count) => passed += count,
                    Step::Replace(count, replacement) => {
                        self.ready.extend_from_slice(&replacement);
                        self.held.extend_from_slice(input.get(count..).unwrap_or_default());
                        break;
                    }
                    Step::Hold => {
                        self.held.extend_from_slice(input);
                        break;
                    }
                }
            }
        } else {
            self.held.extend_from_slice(buf.filled().get(start..).unwrap_or_default());
        }
        buf.set_filled(passed.min(buf.filled().len()));
        self.release();
    }

    /// Moves from held to ready what may go on.
    fn release(&mut self) {
        while !self.held.is_empty() {
            match self.frames.step(&self.held) {
                Step::Pass(count) => self.ready.extend_from_slice(&self.held.split_to(count)),
                Step::Replace(count, replacement) => {
                    self.held.advance(count);
                    self.ready.extend_from_slice(&replacement);
                }
                Step::Hold => return,
            }
        }
        // Connections live long and rarely need this memory again.
        self.held = BytesMut::new();
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.len().min(buf.remaining());
        buf.put_slice(&self.ready.split_to(count));
        if self.ready.is_empty() {
            self.ready = BytesMut::new();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Authority<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        loop {
            this.hand_out(buf);
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() > start {
                this.sift(buf, start);
            } else if this.held.is_empty() {
                return Poll::Ready(Ok(()));
            } else {
                // The connection ended within a header block: `h2` is to see what there was of it.
                this.frames.give_up();
                this.release();
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Authority<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
