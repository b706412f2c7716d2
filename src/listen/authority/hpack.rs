//! Header blocks ([RFC 7541](https://www.rfc-editor.org/rfc/rfc7541)): finds the `:authority` that has to change.
//!
//! Header compression has a state, the dynamic table, that both ends keep in step. A replacement that is *as long as
//! the original* leaves every size, eviction and index as it was, so that nothing else in any block has to change:
//! later references to the entry simply yield the replacement.
//!
//! For the same reason little has to be known of the table: which of the newest entries are named `:authority`, because
//! a new value may refer to its name there. Indexes count from the newest entry, and what the peer's table has lost by
//! eviction (or by an entry too large for it, which empties it) is older than all it still holds: a table that forgets
//! later than the peer's reads every valid index alike.

use std::{borrow::Cow, ops::Range};

use super::huffman::{self, Malformed};

const AUTHORITY: &[u8] = b":authority";
/// The index of [`AUTHORITY`] in the static table, and how many entries that has (RFC 7541, appendix A).
const STATIC_AUTHORITY: usize = 1;
const STATIC_ENTRIES: usize = 61;

/// A part of a block and what to put in its place. It is never longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) at: Range<usize>,
    pub(super) with: Vec<u8>,
}

/// Which entries of the peer's dynamic table are named `:authority`: the lowest bit is the newest entry. The table has
/// 4096 bytes (the protocol's default, of which this server announces no other) and an entry takes at least 32 of them
/// (RFC 7541, 4.1), so that there are never more than 128.
#[derive(Debug, Default)]
pub(super) struct Table(u128);

/// A string literal where it stands.
struct Literal<'a> {
    /// Length prefix and text.
    span: Range<usize>,
    huffman: bool,
    text: &'a [u8],
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl Table {
    /// Follows one whole block and says what has to change in it. Blocks must come in the connection's order.
    pub(super) fn follow(&mut self, block: &[u8]) -> Result<Vec<Edit>, Malformed> {
        let mut cursor = Cursor { block, at: 0 };
        let mut edits = Vec::new();
        while let Some(first) = cursor.peek() {
            match first {
                // A field of either table, whole.
                0x80.. => drop(cursor.integer(7)?),
                // A literal field that becomes the newest entry.
                0x40.. => {
                    let is_authority = self.literal(&mut cursor, 6, &mut edits)?;
                    self.0 = self.0 << 1 | u128::from(is_authority);
                }
                // A new size of the table.
                0x20.. => drop(cursor.integer(5)?),
                // A literal field that leaves no trace.
                _ => drop(self.literal(&mut cursor, 4, &mut edits)?),
            }
        }
        Ok(edits)
    }

    /// Reads a literal field and says whether it is the authority.
    fn literal(&self, cursor: &mut Cursor<'_>, prefix: u8, edits: &mut Vec<Edit>) -> Result<bool, Malformed> {
        let is_authority = match cursor.integer(prefix)? {
            0 => cursor.string()?.is(AUTHORITY),
            index => self.is_authority(index),
        };
        let value = cursor.string()?;
        if is_authority && let Some(fit) = fitting(&value.decode()?) {
            edits.push(Edit { at: value.span, with: string(&fit, value.huffman) });
        }
        Ok(is_authority)
    }

    fn is_authority(&self, index: usize) -> bool {
        match index.checked_sub(STATIC_ENTRIES + 1) {
            None => index == STATIC_AUTHORITY,
            Some(age) => {
                u32::try_from(age).ok().and_then(|age| self.0.checked_shr(age)).is_some_and(|bits| bits & 1 == 1)
            }
        }
    }
}

impl Literal<'_> {
    fn decode(&self) -> Result<Cow<'_, [u8]>, Malformed> {
        if !self.huffman {
            return Ok(Cow::Borrowed(self.text));
        }
        let mut plain = Vec::with_capacity(self.text.len() * 2);
        huffman::decode(self.text, |byte| plain.push(byte))?;
        Ok(Cow::Owned(plain))
    }

    /// Whether it says `plain`. What cannot be decoded says nothing; `h2` refuses it.
    fn is(&self, plain: &[u8]) -> bool {
        self.text.len() <= plain.len() && self.decode().is_ok_and(|text| *text == *plain)
    }
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    /// An integer whose first byte has `prefix` bits of it (RFC 7541, 5.1).
    fn integer(&mut self, prefix: u8) -> Result<usize, Malformed> {
        let mask = (1u8 << prefix) - 1;
        let mut value = u32::from(self.byte()? & mask);
        if value < u32::from(mask) {
            return Ok(value as usize);
        }
        // Four bytes of seven bits: far more than a block may be long.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value as usize);
            }
        }
        Err(Malformed)
    }

    fn string(&mut self) -> Result<Literal<'a>, Malformed> {
        let start = self.at;
        let huffman = self.peek().ok_or(Malformed)? & 0x80 != 0;
        let length = self.integer(7)?;
        let end = self.at + length;
        let text = self.block.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(Literal { span: start..end, huffman, text })
    }
}

/// What stands in for an authority that `h2` would refuse: as long, and with `-` where a character may be refused.
fn fitting(authority: &[u8]) -> Option<Vec<u8>> {
    if authority.is_empty() || http::uri::Authority::try_from(authority).is_ok() {
        return None;
    }
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() || b"._-".contains(byte) { *byte } else { b'-' };
    Some(authority.iter().map(plain).collect())
}

/// A string literal. In the Huffman code `-` takes no more bits than what it stands in for, so it does not grow either.
fn string(plain: &[u8], huffman: bool) -> Vec<u8> {
    let (text, flag) = if huffman { (huffman::encode(plain), 0x80) } else { (plain.to_vec(), 0) };
    let mut out = Vec::with_capacity(text.len() + 4);
    let mut rest = text.len();
    if let Some(byte) = u8::try_from(rest).ok().filter(|byte| *byte < 0x7f) {
        out.push(flag | byte);
    } else {
        out.push(flag | 0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            out.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        out.push((rest & 0x7f) as u8);
    }
    out.extend(text);
    out
}
