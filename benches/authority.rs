//! What the filter for odd authorities costs: the same bytes with and without it, in one run.
//!
//! `cargo bench --bench authority`
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measurement, not a library")]
#![allow(dead_code, reason = "the tests of the filter come along when this is checked as a test")]

// The filter is private to the server; this compiles it once more.
#[path = "../src/listen"]
mod listen {
    use tokio::io::{AsyncRead, AsyncWrite};

    mod authority;

    pub(crate) fn filtered<I>(io: I) -> impl AsyncRead + AsyncWrite + Unpin
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        authority::Authority::new(io)
    }
}

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use listen::filtered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

const REQUESTS: u32 = 20_000;
const FRAMES: usize = 200_000;
const ROUNDS: usize = 15;

/// Gives bytes as fast as they are taken, then the end, or nothing more if it stays open; takes anything.
struct Memory<'a> {
    bytes: &'a [u8],
    stays_open: bool,
}

impl AsyncRead for Memory<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { bytes, stays_open } = self.get_mut();
        if bytes.is_empty() && *stays_open {
            return Poll::Pending;
        }
        // What a socket has at a time.
        let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()).min(16 << 10));
        buf.put_slice(now);
        *bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    out.extend(&u32::try_from(content.len()).unwrap().to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(content);
}

fn opening() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, 4, 0, 0, &[]);
    out
}

/// Requests as Envoy sends them: the first one spells its header fields, the others refer to them.
fn requests(authority: &str) -> Vec<u8> {
    let mut out = opening();
    let fields = [
        (":authority", authority),
        (":path", "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "192.0.2.2"),
    ];
    let mut first = vec![0x83, 0x86];
    for (name, value) in fields {
        first.push(0x40);
        for text in [name, value] {
            first.push(u8::try_from(text.len()).unwrap());
            first.extend(text.as_bytes());
        }
    }
    frame(&mut out, 1, 5, 1, &first);
    for at in 1..REQUESTS {
        frame(&mut out, 1, 5, 2 * at + 1, &[0x83, 0x86, 0xc3, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe]);
    }
    out
}

/// Acknowledgements, a hundred bytes each.
fn data() -> Vec<u8> {
    let mut out = opening();
    for _ in 0..FRAMES {
        frame(&mut out, 0, 0, 1, &[7; 104]);
    }
    out
}

async fn read(mut io: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 16 << 10];
    while io.read(&mut buffer).await.unwrap() > 0 {}
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    for _ in 0..REQUESTS {
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
    }
}

/// The fastest of alternating rounds, plain and filtered.
async fn compare(what: &str, count: u32, mut plain: impl AsyncFnMut(), mut filtered: impl AsyncFnMut()) {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        plain().await;
        best[0] = best[0].min(start.elapsed());
        let start = Instant::now();
        filtered().await;
        best[1] = best[1].min(start.elapsed());
    }
    let [without, with] = best.map(|best| best.as_secs_f64() * 1e9 / f64::from(count));
    println!("{what:<42} {without:>8.1} ns -> {with:>8.1} ns  +{:.1} ns, x{:.3}", with - without, with / without);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let data = data();
    let frames = u32::try_from(FRAMES).unwrap();
    compare(
        "read a DATA frame",
        frames,
        async || read(Memory { bytes: &data, stays_open: false }).await,
        async || {
            read(filtered(Memory { bytes: &data, stays_open: false })).await;
        },
    )
    .await;
    for (what, authority) in [("h2 serves a request, plain authority", "localhost"), ("h2 serves a request, odd", "")] {
        let plain = requests("localhost");
        let given = if authority.is_empty() { requests("outbound|443||sds.ns.svc") } else { plain.clone() };
        compare(
            what,
            REQUESTS,
            async || serve(Memory { bytes: &plain, stays_open: true }).await,
            async || {
                serve(filtered(Memory { bytes: &given, stays_open: true })).await;
            },
        )
        .await;
    }
}
