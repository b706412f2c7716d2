//! Buffers that hold keys: of their final size from the start, and wiped at the end.

use bytes::Bytes;
use zeroize::Zeroizing;

/// A buffer that `fill` fills to exactly this length. It is never moved: growing would leave copies of a key behind.
pub(crate) fn filled(length: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(length));
    let at = out.as_ptr();
    fill(&mut out);
    debug_assert!(out.len() == length && out.as_ptr() == at, "{length} bytes announced, {} written", out.len());
    out
}

/// Bytes with one owner, wiped when the last clone is dropped.
pub(super) fn wiped(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    struct Wiped(Zeroizing<Vec<u8>>);
    impl AsRef<[u8]> for Wiped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Wiped(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "3 bytes announced, 4 written")]
    fn a_buffer_that_grows_is_noticed() {
        filled(3, |out| out.extend([0; 4]));
    }
}
