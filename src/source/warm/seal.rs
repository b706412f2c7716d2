//! Sealed files: AES-256-GCM under a key that is elsewhere.
//!
//! ```text
//!   magic (14) | version (1) | kind (1) | nonce (12) | ciphertext | tag (16)
//!   '--------- authenticated ----------'
//! ```
//!
//! The nonce is random. That is safe for 2^32 files under one key: a lifetime of rotations.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use super::vault::WarmError;

const MAGIC: &[u8; 14] = b"spiffe-sds/wrm";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 2;
const NONCE: usize = 12;
const TAG: usize = 16;

/// What a file is, so that one cannot stand in for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    State = b'S' as isize,
    Floor = b'F' as isize,
}

/// Seals and opens.
pub(super) struct Seal(RandomizedNonceKey);

impl Seal {
    /// `None` unless `key` is 32 bytes, or 64 hexadecimal digits with white space around.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        if let Ok(raw) = <&[u8; 32]>::try_from(key) {
            bytes.copy_from_slice(raw);
        } else {
            let text = std::str::from_utf8(key).ok()?.trim().as_bytes();
            if text.len() != 64 {
                return None;
            }
            for (byte, digits) in bytes.iter_mut().zip(text.chunks(2)) {
                *byte = digits.iter().try_fold(0, |byte, digit| Some(byte << 4 | hex(*digit)?))?;
            }
        }
        RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).ok().map(Self)
    }

    /// `plain` becomes the sealed file; its buffer is used, so it holds no plain text afterwards.
    pub(super) fn seal(&self, part: Part, mut plain: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, WarmError> {
        let header = header(part);
        let length = plain.len();
        // The tag must not make the buffer move.
        let mut room = Zeroizing::new(Vec::with_capacity(length + TAG));
        room.append(&mut plain);
        let nonce = self.0.seal_in_place_append_tag(Aad::from(header), &mut *room).map_err(|_| WarmError::Crypto)?;
        Ok([&header[..], nonce.as_ref(), room.as_slice()].concat())
    }

    /// The plain text.
    pub(super) fn open(&self, part: Part, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, WarmError> {
        let (found, rest) = file.split_at_checked(HEADER).ok_or(WarmError::NotOurs)?;
        if !found.starts_with(MAGIC) {
            return Err(WarmError::NotOurs);
        }
        if let Some(version) = found.get(MAGIC.len()).filter(|version| **version != VERSION) {
            return Err(WarmError::Version(*version));
        }
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or(WarmError::NotOurs)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| WarmError::NotOurs)?;
        let mut text = Zeroizing::new(sealed.to_vec());
        if found != header(part) {
            return Err(WarmError::Tampered);
        }
        let plain = self.0.open_in_place(nonce, Aad::from(header(part)), &mut text);
        let length = plain.map_err(|_| WarmError::Tampered)?.len();
        text.truncate(length);
        Ok(text)
    }
}

fn header(part: Part) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let fields = MAGIC.iter().copied().chain([VERSION, part as u8]);
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    header
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[test]
    fn keys_are_bytes_or_digits() {
        let digits = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
        let bytes: Vec<u8> =
            (0..64).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect();
        let sealed = Seal::new(&bytes).unwrap().seal(Part::State, plain("x")).unwrap();
        let again = Seal::new(format!("{digits}\n").as_bytes()).unwrap();
        assert_eq!(*again.open(Part::State, &sealed).unwrap(), b"x");
        for wrong in [&b""[..], &bytes[1..], &digits.as_bytes()[1..], &[b'g'; 64], &[0xff; 64]] {
            assert!(Seal::new(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let seal = Seal::new(&[7; 32]).unwrap();
        let sealed = seal.seal(Part::State, plain("a state")).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"a state"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal.open(Part::State, &changed).is_err(), "byte {at}");
            assert!(seal.open(Part::State, &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(seal.open(Part::Floor, &sealed), Err(WarmError::Tampered)), "one part is not the other");
        assert!(matches!(Seal::new(&[8; 32]).unwrap().open(Part::State, &sealed), Err(WarmError::Tampered)));
        assert!(seal.seal(Part::State, plain("a state")).unwrap() != sealed, "no nonce is used twice");
    }
}
