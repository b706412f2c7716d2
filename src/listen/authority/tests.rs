//! Everything is judged by `h2` itself: what a client encodes freely must arrive there as the same request.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use super::*;

/// Gives bytes in pieces, then says nothing or the end; takes anything.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    then: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Close,
    Silence,
}

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { pieces, then } = self.get_mut();
        if pieces.is_empty() && *then == End::Silence {
            return Poll::Pending;
        }
        if let Some(mut piece) = pieces.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                pieces.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
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

/// How one field is written.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// 0: index it, 1: do not, 2: never.
    kind: u8,
    huffman: bool,
    /// Spell the name though it has an index.
    spell: bool,
    /// Prefer the newest entry of the dynamic table to the static one.
    dynamic: bool,
}

#[derive(Clone, Debug)]
struct Call {
    authority: String,
    custom: Vec<(String, String)>,
    styles: Vec<Style>,
    /// A new table size first.
    resize: Option<usize>,
    padding: Option<u8>,
    priority: bool,
    /// Where the block is cut into CONTINUATION frames, in thousandths.
    cuts: Vec<usize>,
    data: usize,
}

/// An encoder that uses all of HPACK, with its own idea of the table.
struct Encoder {
    table: VecDeque<(String, String)>,
    limit: usize,
}

const STATIC: [(usize, &str); 4] = [(1, ":authority"), (2, ":method"), (4, ":path"), (6, ":scheme")];

impl Encoder {
    fn integer(out: &mut Vec<u8>, flag: u8, prefix: u8, value: usize) {
        let mask = (1usize << prefix) - 1;
        if value < mask {
            return out.push(flag | value as u8);
        }
        out.push(flag | mask as u8);
        let mut rest = value - mask;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        out.push(rest as u8);
    }

    fn text(out: &mut Vec<u8>, text: &str, huffman: bool) {
        let coded = if huffman { huffman::encode(text.as_bytes()) } else { text.as_bytes().to_vec() };
        Self::integer(out, if huffman { 128 } else { 0 }, 7, coded.len());
        out.extend(coded);
    }

    fn shrink(&mut self, to: usize) {
        while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > to {
            self.table.pop_back();
        }
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &str, style: Style) {
        if let Some(at) = self.table.iter().position(|entry| (entry.0.as_str(), entry.1.as_str()) == (name, value)) {
            return Self::integer(out, 128, 7, 62 + at);
        }
        let (flag, prefix) = [(0x40, 6), (0x00, 4), (0x10, 4)][usize::from(style.kind)];
        let dynamic = self.table.iter().position(|entry| entry.0 == name).map(|at| 62 + at);
        let fixed = STATIC.iter().find(|entry| entry.1 == name).map(|entry| entry.0);
        let index = if style.dynamic { dynamic.or(fixed) } else { fixed.or(dynamic) };
        match index.filter(|_| !style.spell) {
            Some(index) => Self::integer(out, flag, prefix, index),
            None => {
                out.push(flag);
                Self::text(out, name, style.huffman);
            }
        }
        Self::text(out, value, style.huffman);
        if style.kind == 0 {
            let size = name.len() + value.len() + 32;
            self.shrink(self.limit.saturating_sub(size));
            if size <= self.limit {
                self.table.push_front((name.to_owned(), value.to_owned()));
            }
        }
    }

    fn call(&mut self, stream: u32, call: &Call) -> Vec<u8> {
        let mut block = Vec::new();
        if let Some(size) = call.resize {
            Self::integer(&mut block, 0x20, 5, size);
            self.limit = size;
            self.shrink(size);
        }
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/a/b"), (":authority", &call.authority)];
        let custom = call.custom.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for ((name, value), style) in pseudo.into_iter().chain(custom).zip(call.styles.iter().cycle()) {
            self.field(&mut block, name, value, *style);
        }
        let mut cuts: Vec<_> = call.cuts.iter().map(|cut| *cut * block.len() / 1000).collect();
        cuts.sort_unstable();
        cuts.push(block.len());
        let (mut out, mut from) = (Vec::new(), 0);
        for (at, to) in cuts.iter().enumerate() {
            let last = if at + 1 == cuts.len() { END_HEADERS } else { 0 };
            let piece = &block[from..*to];
            from = *to;
            if at > 0 {
                frame(&mut out, 9, last, stream, piece);
                continue;
            }
            let (mut flags, mut content) = (last, Vec::new());
            if let Some(padding) = call.padding {
                flags |= 0x8;
                content.push(padding);
            }
            if call.priority {
                flags |= 0x20;
                content.extend([0, 0, 0, 0, 15]);
            }
            content.extend(piece);
            content.extend(vec![0; usize::from(call.padding.unwrap_or(0))]);
            frame(&mut out, 1, flags, stream, &content);
        }
        frame(&mut out, 0, 1, stream, &vec![7; call.data]);
        out
    }
}

const END_HEADERS: u8 = 0x4;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    out.extend(&(content.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(content);
}

fn opening() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, 4, 0, 0, &[]);
    out
}

fn connection(calls: &[Call]) -> Vec<u8> {
    let mut encoder = Encoder { table: VecDeque::new(), limit: 4096 };
    let mut out = opening();
    for (at, call) in calls.iter().enumerate() {
        out.extend(encoder.call(at as u32 * 2 + 1, call));
    }
    out
}

fn pieces(bytes: &[u8], sizes: &[usize]) -> Pieces {
    let (mut out, mut rest) = (VecDeque::new(), bytes);
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        out.push_back(piece.to_vec());
        rest = later;
    }
    Pieces { pieces: out, then: End::Close }
}

fn expected(authority: &str) -> String {
    if authority.parse::<http::uri::Authority>().is_ok() {
        return authority.to_owned();
    }
    authority.bytes().map(|b| if b.is_ascii_alphanumeric() || b"._-".contains(&b) { b as char } else { '-' }).collect()
}

/// What `h2` makes of it: the first `count` requests with their number of data bytes.
fn served(mut io: Pieces, count: usize) -> Vec<(http::Request<()>, usize)> {
    io.then = End::Silence;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (accepted, mut requests) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(Authority::new(io)).await.unwrap();
            while let Some(request) = connection.accept().await {
                let _ = accepted.send(request);
            }
        });
        let mut out = Vec::new();
        while out.len() < count {
            let next = tokio::time::timeout(std::time::Duration::from_secs(5), requests.recv());
            let Ok(Some(Ok((request, _responder)))) = next.await else { break };
            let (parts, mut body) = request.into_parts();
            let mut length = 0;
            while let Some(Ok(data)) = body.data().await {
                length += data.len();
            }
            out.push((http::Request::from_parts(parts, ()), length));
        }
        out
    })
}

fn sifted(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = Vec::new();
    runtime.block_on(Authority::new(pieces(bytes, sizes)).read_to_end(&mut out)).unwrap();
    out
}

fn style() -> impl Strategy<Value = Style> {
    (0u8..3, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(kind, huffman, spell, dynamic)| Style {
        kind,
        huffman,
        spell,
        dynamic,
    })
}

fn call() -> impl Strategy<Value = Call> {
    let authority = prop_oneof![
        Just("outbound|443||sds.ns.svc".to_owned()),
        Just("tmp%2Frun%2Fsds.sock".to_owned()),
        Just("unix:/run/x.sock".to_owned()),
        Just("sds_cluster".to_owned()),
        Just("x".repeat(150) + "|"),
        "[ -~]{1,40}",
    ];
    let custom = proptest::collection::vec(("x-[a-d]{1,3}", "[ -~]{0,300}"), 0..4);
    let cuts = proptest::collection::vec(0..=1000usize, 0..3);
    let styles = proptest::collection::vec(style(), 1..8);
    let resize = proptest::option::weighted(0.2, prop_oneof![Just(0usize), 40..300usize, Just(4096)]);
    let padding = proptest::option::of(any::<u8>());
    (authority, custom, styles, resize, padding, any::<bool>(), cuts, 0usize..200).prop_map(
        |(authority, custom, styles, resize, padding, priority, cuts, data)| {
            let custom = custom.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect();
            Call { authority, custom, styles, resize, padding, priority, cuts, data }
        },
    )
}

proptest! {
    #[test]
    fn every_request_arrives_with_an_authority_that_h2_takes(
        calls in proptest::collection::vec(call(), 1..12),
        sizes in proptest::collection::vec(1usize..400, 1..6),
    ) {
        let arrived = served(pieces(&connection(&calls), &sizes), calls.len());
        prop_assert_eq!(arrived.len(), calls.len());
        for ((request, data), call) in arrived.iter().zip(&calls) {
            prop_assert_eq!(request.uri().authority().unwrap().as_str(), expected(&call.authority));
            prop_assert_eq!(request.uri().path(), "/a/b");
            let fields: Vec<_> = request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
            let mut wanted: Vec<_> = call.custom.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            // The map keeps equal names together.
            let order = |name: &str| call.custom.iter().position(|(n, _)| n == name);
            wanted.sort_by_key(|(name, _)| order(name));
            prop_assert_eq!(fields, wanted);
            prop_assert_eq!(*data, call.data);
        }
    }

    #[test]
    fn without_an_odd_authority_every_byte_passes(
        mut calls in proptest::collection::vec(call(), 1..12),
        sizes in proptest::collection::vec(1usize..400, 1..6),
    ) {
        for call in &mut calls {
            call.authority = "localhost:8443".into();
        }
        let bytes = connection(&calls);
        prop_assert_eq!(sifted(&bytes, &sizes), bytes);
    }

    #[test]
    fn garbage_passes_or_at_least_does_no_harm(
        frames in proptest::collection::vec(
            (0u8..11, any::<u8>(), 0u32..6, proptest::collection::vec(any::<u8>(), 0..80)), 0..20),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        sizes in proptest::collection::vec(1usize..60, 1..6),
    ) {
        let mut bytes = opening();
        for (kind, flags, stream, content) in frames {
            frame(&mut bytes, kind, flags, stream, &content);
        }
        bytes.extend(tail);
        // Only an authority may differ, and that does not make it longer.
        prop_assert!(sifted(&bytes, &sizes).len() <= bytes.len());
    }
}

fn plain(authority: &str) -> Call {
    let styles = vec![Style { kind: 0, huffman: false, spell: false, dynamic: false }];
    let custom = Vec::new();
    let (resize, padding, priority, cuts) = (None, None, false, Vec::new());
    Call { authority: authority.into(), custom, styles, resize, padding, priority, cuts, data: 0 }
}

#[test]
fn what_is_not_http_2_passes() {
    let bytes = b"POST /v3/discovery:secrets HTTP/1.1\r\nhost: a|b\r\n\r\n";
    assert_eq!(sifted(bytes, &[7]), bytes);
}

#[test]
fn half_a_header_block_is_handed_over_at_the_end() {
    let mut bytes = connection(&[plain("a|b")]);
    bytes.truncate(opening().len() + 12);
    assert_eq!(sifted(&bytes, &[5]), bytes);
}

#[test]
fn a_block_that_never_ends_is_not_collected_for_ever() {
    let mut bytes = opening();
    frame(&mut bytes, 1, 0, 1, &[0x82]);
    for _ in 0..10_000 {
        frame(&mut bytes, 9, 0, 1, &[]);
    }
    let mut frames = Frames::default();
    let mut at = 0;
    while let Step::Pass(count) = frames.step(&bytes[at..at + 24]) {
        at += count;
    }
    assert_eq!(frames.step(&bytes[at..at + (17 << 10)]), Step::Hold);
    assert_eq!(frames.step(&bytes[at..]), Step::Pass(bytes.len() - at), "too large to be looked at");
}

#[test]
fn an_oversized_block_does_not_disturb_what_follows() {
    let mut large = plain("a|b");
    large.custom = (0..60).map(|at| (format!("x-{at}"), "v".repeat(400))).collect();
    large.styles = vec![Style { kind: 1, huffman: false, spell: false, dynamic: false }];
    large.cuts = vec![333, 666];
    let bytes = connection(&[plain("c|d"), large, plain("c|d")]);
    // The middle one keeps its authority, which h2 refuses; the entry of the first still stands in for the last.
    let arrived = served(pieces(&bytes, &[1000]), 2);
    let authorities: Vec<_> = arrived.iter().map(|(request, _)| request.uri().authority().unwrap().as_str()).collect();
    assert_eq!(authorities, ["c-d", "c-d"]);
}
