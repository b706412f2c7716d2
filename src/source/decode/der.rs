//! Where one DER element ends and the next begins, for what the parser of certificates does not say.

const SEQUENCE: u8 = 0x30;

/// The content of the `SEQUENCE` at the front, and what follows it; `None` where there is none, or it is cut short.
pub(in crate::source) fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    if tag == SEQUENCE { split(rest) } else { None }
}

/// The element at the front, header and all, and what follows it.
pub(in crate::source) fn whole(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = split(der.get(1..)?)?;
    der.split_at_checked(der.len() - rest.len())
}

/// Content and remainder, from the length on.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_split_and_cut_ones_are_none() {
        assert_eq!(element(&[0x30, 2, 5, 0, 9]), Some((&[5, 0][..], &[9][..])));
        assert_eq!(element(&[0x30, 0x81, 1, 7]), Some((&[7][..], &[][..])));
        assert_eq!(whole(&[0x30, 2, 5, 0, 9]), Some((&[0x30, 2, 5, 0][..], &[9][..])));
        for none in [&[][..], &[0x30], &[0x30, 3, 1, 2], &[0x31, 0], &[0x30, 0x80, 0, 0], &[0x30, 0x85, 0, 0, 0, 0, 0]]
        {
            assert_eq!(element(none), None, "{none:?}");
        }
        assert_eq!(element(&[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 1]), None);
    }
}
