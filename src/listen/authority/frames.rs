//! The client's half of an HTTP/2 connection ([RFC 9113](https://www.rfc-editor.org/rfc/rfc9113)): finds whole header
//! blocks and rewrites those that need it.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    hpack::{Edit, Table},
    huffman::Malformed,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream.
const FRAME_HEADER: usize = 9;
/// What this server lets a frame be long; the protocol's default.
const LONGEST_FRAME: usize = 16 << 10;
/// The most that is held back of one header block with its frame headers. The server refuses longer ones anyway.
const LONGEST_BLOCK: usize = 17 << 10;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What to do with the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many may go on as they are; at least one.
    Pass(usize),
    /// So many are replaced.
    Replace(usize, Bytes),
    /// Not one may go on before more have come.
    Hold,
}

/// Where in the connection the next byte stands.
#[derive(Debug)]
pub(super) struct Frames {
    state: State,
    table: Table,
}

#[derive(Debug)]
enum State {
    /// What of the preface is still to come.
    Preface(&'static [u8]),
    /// At a frame.
    Frame,
    /// So much of a frame's content is still to come.
    Content(usize),
    /// Something is wrong or too large: `h2` sees the rest as it is and answers it.
    Blind,
}

/// One frame of a header block, as ranges of the bytes at hand.
struct Part {
    header: Range<usize>,
    /// The part's piece of the block; what stands before and after it is priority and padding.
    piece: Range<usize>,
    end: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { state: State::Preface(PREFACE), table: Table::default() }
    }
}

impl Frames {
    /// Says what to do with the next bytes of the connection, of which there must be at least one. The caller comes
    /// back with what is left, or after [`Step::Hold`] with the same bytes and more.
    pub(super) fn step(&mut self, input: &[u8]) -> Step {
        match self.state {
            State::Preface(expected) => self.preface(expected, input),
            State::Content(left) => {
                let passed = left.min(input.len());
                self.content(left - passed);
                Step::Pass(passed)
            }
            State::Frame => self.frame(input),
            State::Blind => Step::Pass(input.len()),
        }
    }

    /// Gives up: everything from here on passes.
    pub(super) fn give_up(&mut self) {
        self.state = State::Blind;
    }

    fn preface(&mut self, expected: &'static [u8], input: &[u8]) -> Step {
        let length = expected.len().min(input.len());
        let (now, later) = expected.split_at(length);
        if !input.starts_with(now) {
            return self.blind(input);
        }
        self.state = if later.is_empty() { State::Frame } else { State::Preface(later) };
        Step::Pass(length)
    }

    fn frame(&mut self, input: &[u8]) -> Step {
        let Some(header) = Header::read(input) else { return Step::Hold };
        if header.kind != HEADERS {
            self.content(header.length);
            return Step::Pass(FRAME_HEADER);
        }
        match block(input) {
            Ok(Some(parts)) => self.rewrite(input, &parts).unwrap_or_else(|_| self.blind(input)),
            Ok(None) if input.len() <= LONGEST_BLOCK => Step::Hold,
            Ok(None) | Err(Malformed) => self.blind(input),
        }
    }

    fn content(&mut self, left: usize) {
        self.state = if left == 0 { State::Frame } else { State::Content(left) };
    }

    fn blind(&mut self, input: &[u8]) -> Step {
        tracing::debug!("header blocks of this connection are no longer looked at, its frames are not as expected");
        self.give_up();
        Step::Pass(input.len())
    }

    fn rewrite(&mut self, input: &[u8], parts: &[Part]) -> Result<Step, Malformed> {
        let end = parts.last().map(|part| part.end).ok_or(Malformed)?;
        let edits = if let [only] = parts {
            self.table.follow(slice(input, &only.piece)?)?
        } else {
            self.table.follow(&joined(input, parts)?)?
        };
        if edits.is_empty() {
            return Ok(Step::Pass(end));
        }
        tracing::debug!("replaced an authority that is none in a URI");
        let block = edited(&joined(input, parts)?, &edits)?;
        Ok(Step::Replace(end, split(input, parts, &block)?))
    }
}

/// The first bytes of a frame.
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Header {
    fn read(input: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, ..] = *input.get(..FRAME_HEADER)? else { return None };
        Some(Self { length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), kind, flags })
    }
}

/// The frames of the header block that `input` starts with; `None` if there is more to come.
fn block(input: &[u8]) -> Result<Option<Vec<Part>>, Malformed> {
    let mut parts: Vec<Part> = Vec::new();
    loop {
        let start = parts.last().map_or(0, |part| part.end);
        let Some(header) = input.get(start..).and_then(Header::read) else { return Ok(None) };
        let expected = if parts.is_empty() { HEADERS } else { CONTINUATION };
        if header.kind != expected || header.length > LONGEST_FRAME {
            return Err(Malformed);
        }
        let content = start + FRAME_HEADER;
        let end = content + header.length;
        if end > input.len() {
            return Ok(None);
        }
        let mut piece = content..end;
        if header.kind == HEADERS {
            if header.flags & PADDED != 0 {
                let padding = input.get(content).filter(|_| header.length > 0).ok_or(Malformed)?;
                piece = piece.start + 1..piece.end.saturating_sub(usize::from(*padding));
            }
            if header.flags & PRIORITY != 0 {
                piece.start += 5;
            }
        }
        if piece.start > piece.end {
            return Err(Malformed);
        }
        parts.push(Part { header: start..content, piece, end });
        if header.flags & END_HEADERS != 0 {
            return Ok(Some(parts));
        }
    }
}

fn slice<'a>(input: &'a [u8], range: &Range<usize>) -> Result<&'a [u8], Malformed> {
    input.get(range.clone()).ok_or(Malformed)
}

/// The block in one piece.
fn joined(input: &[u8], parts: &[Part]) -> Result<Vec<u8>, Malformed> {
    let mut block = Vec::new();
    for part in parts {
        block.extend_from_slice(slice(input, &part.piece)?);
    }
    Ok(block)
}

fn edited(block: &[u8], edits: &[Edit]) -> Result<Vec<u8>, Malformed> {
    let (mut out, mut from) = (Vec::with_capacity(block.len()), 0);
    for edit in edits {
        out.extend_from_slice(slice(block, &(from..edit.at.start))?);
        out.extend_from_slice(&edit.with);
        from = edit.at.end;
    }
    out.extend_from_slice(block.get(from..).ok_or(Malformed)?);
    Ok(out)
}

/// The same frames with the pieces of another block, which is no longer than theirs.
fn split(input: &[u8], parts: &[Part], block: &[u8]) -> Result<Bytes, Malformed> {
    let mut out = BytesMut::with_capacity(input.len());
    let mut rest = block;
    for part in parts {
        let (piece, later) = rest.split_at(part.piece.len().min(rest.len()));
        rest = later;
        let (before, after) = (part.header.end..part.piece.start, part.piece.end..part.end);
        let length = before.len() + piece.len() + after.len();
        out.put_uint(length as u64, 3);
        out.put_slice(slice(input, &(part.header.start + 3..part.header.end))?);
        out.put_slice(slice(input, &before)?);
        out.put_slice(piece);
        out.put_slice(slice(input, &after)?);
    }
    if rest.is_empty() { Ok(out.freeze()) } else { Err(Malformed) }
}
