//! The Huffman code of HPACK ([RFC 7541, appendix B](https://www.rfc-editor.org/rfc/rfc7541#appendix-B)).
//!
//! The code is canonical: codes of one length are consecutive numbers in the order of their symbols, so the lengths
//! alone give all of it.

/// What is no Huffman code, or ends in anything but a few ones.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The end-of-string symbol: its first bits are padding, all of it is an error.
const EOS: usize = 256;
const LONGEST: usize = 30;

/// Bits of the code of each symbol.
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    /// The lowest.
    first: u32,
    count: u32,
    /// Where their symbols begin in [`Code::symbols`].
    offset: usize,
}

/// Both directions.
struct Code {
    rows: [Row; LONGEST + 1],
    /// Sorted by code.
    symbols: [u16; EOS + 1],
    /// By symbol.
    codes: [u32; EOS + 1],
}

static CODE: Code = Code::new();

impl Code {
    #[expect(clippy::indexing_slicing, reason = "the compiler evaluates it, and stops at an index out of bounds")]
    #[expect(clippy::cast_possible_truncation, reason = "symbols are at most 256")]
    const fn new() -> Self {
        let mut code = Self {
            rows: [Row { first: 0, count: 0, offset: 0 }; LONGEST + 1],
            symbols: [0; EOS + 1],
            codes: [0; EOS + 1],
        };
        let (mut next, mut placed, mut length) = (0u32, 0, 1);
        while length <= LONGEST {
            next <<= 1;
            let (first, offset) = (next, placed);
            let mut symbol = 0;
            while symbol <= EOS {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[placed] = symbol as u16;
                    code.codes[symbol] = next;
                    placed += 1;
                    next += 1;
                }
                symbol += 1;
            }
            code.rows[length] = Row { first, count: next - first, offset };
            length += 1;
        }
        code
    }

    fn symbol(&self, code: u32, length: usize) -> Option<u16> {
        let row = self.rows.get(length)?;
        let rank = code.checked_sub(row.first).filter(|rank| *rank < row.count)?;
        self.symbols.get(row.offset + rank as usize).copied()
    }
}

/// Hands each decoded byte to `each`.
pub(super) fn decode(encoded: &[u8], mut each: impl FnMut(u8)) -> Result<(), Malformed> {
    let (mut code, mut length) = (0u32, 0);
    for byte in encoded {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            length += 1;
            if let Some(symbol) = CODE.symbol(code, length) {
                each(u8::try_from(symbol).map_err(|_| Malformed)?);
                (code, length) = (0, 0);
            }
        }
    }
    // What is left over is padding: less than a byte of ones.
    if length < 8 && code == (1 << length) - 1 { Ok(()) } else { Err(Malformed) }
}

/// Encodes `plain`.
pub(super) fn encode(plain: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(plain.len());
    let (mut bits, mut waiting) = (0u64, 0);
    for byte in plain {
        let symbol = usize::from(*byte);
        let (Some(code), Some(length)) = (CODE.codes.get(symbol), LENGTHS.get(symbol)) else { continue };
        bits = bits << length | u64::from(*code);
        waiting += u32::from(*length);
        while waiting >= 8 {
            waiting -= 8;
            encoded.push((bits >> waiting & 0xff) as u8);
        }
    }
    if waiting > 0 {
        let padding = 8 - waiting;
        encoded.push(((bits << padding | ((1 << padding) - 1)) & 0xff) as u8);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(encoded: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut plain = Vec::new();
        decode(encoded, |byte| plain.push(byte)).map(|()| plain)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541, C.4.1, C.4.3 and C.6.1.
        for (plain, encoded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ] {
            let bytes: Vec<_> =
                (0..encoded.len()).step_by(2).map(|at| u8::from_str_radix(&encoded[at..at + 2], 16).unwrap()).collect();
            assert_eq!(encode(plain.as_bytes()), bytes);
            assert_eq!(decoded(&bytes).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        assert_eq!(decoded(&[0b0000_0111]), Ok(b"0".to_vec()));
        assert_eq!(decoded(&[0b0000_0110]), Err(Malformed));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(Malformed));
        assert_eq!(decoded(&[0xff; 4]), Err(Malformed), "the end-of-string symbol");
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&encode(&plain)).unwrap(), plain);
        }

        #[test]
        fn anything_decodes_or_is_refused(encoded in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(plain) = decoded(&encoded) {
                prop_assert_eq!(encode(&plain), encoded);
            }
        }
    }
}
