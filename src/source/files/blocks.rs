//! The blocks of a PEM file, as OpenSSL, Go and Envoy find them.
//!
//! A block begins with a line `-----BEGIN LABEL-----` and ends with `-----END LABEL-----`. White space around lines, their
//! length and the way they end mean nothing. Whatever stands outside of blocks is comment, even if it mentions BEGIN.
//! Headers (`Proc-Type: ...`) are skipped, but those that say that the block is encrypted.

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One block, decoded. It may be a key, so it is wiped.
pub(in crate::source) struct Block {
    pub(in crate::source) label: String,
    pub(in crate::source) der: Zeroizing<Vec<u8>>,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file ends, or another block begins, before it does.
    #[error("it has no END line")]
    NoEnd,
    /// Something else than base64 between its lines.
    #[error("it holds something else than base64")]
    Base64,
    /// There is nothing between its lines.
    #[error("it is empty")]
    Empty,
    /// The old way to encrypt a key.
    #[error("it is encrypted; store it without a passphrase")]
    Encrypted,
}

/// A block that was begun.
struct Open<'a> {
    label: String,
    index: usize,
    lines: Vec<&'a [u8]>,
    encrypted: bool,
}

/// The blocks with one of these labels, or what is wrong with one and which block of the file it is, from 0.
pub(super) fn blocks(text: &[u8], labels: &[&str]) -> Vec<Result<Block, (usize, Fault)>> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let (mut found, mut open, mut count) = (Vec::new(), None::<Open<'_>>, 0);
    let wanted = |open: &Open<'_>| labels.contains(&open.label.as_str());
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii) {
        if let Some(label) = boundary(line, b"-----BEGIN ") {
            if let Some(former) = open.take().filter(wanted) {
                found.push(Err((former.index, Fault::NoEnd)));
            }
            open = Some(Open { label: label.to_owned(), index: count, lines: Vec::new(), encrypted: false });
            count += 1;
        } else if let Some(block) = &mut open {
            if boundary(line, b"-----END ").is_some_and(|label| label == block.label) {
                found.extend(open.take().filter(wanted).map(Open::decoded));
            } else if line.contains(&b':') {
                block.encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
            } else {
                block.lines.push(line);
            }
        }
    }
    if let Some(block) = open.filter(wanted) {
        found.push(Err((block.index, Fault::NoEnd)));
    }
    found
}

impl Open<'_> {
    fn decoded(self) -> Result<Block, (usize, Fault)> {
        let Self { label, index, lines, encrypted } = self;
        let fault = |fault| Err((index, fault));
        if encrypted {
            return fault(Fault::Encrypted);
        }
        // Of its final size from the start: a buffer that grows leaves copies behind.
        let mut base64 = Zeroizing::new(Vec::with_capacity(lines.iter().map(|line| line.len()).sum()));
        let characters = lines.into_iter().flatten().filter(|byte| !byte.is_ascii_whitespace());
        base64.extend(characters);
        if base64.is_empty() {
            return fault(Fault::Empty);
        }
        let mut der = Zeroizing::new(vec![0; base64.len()]);
        let Some(length) = Base64::decode(base64.as_slice(), &mut der).ok().map(<[u8]>::len) else {
            return fault(Fault::Base64);
        };
        der.truncate(length);
        Ok(Block { label, der })
    }
}

/// The label of a line that is nothing but a boundary.
fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a str> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    std::str::from_utf8(label).ok().filter(|label| !label.contains("--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DER: &[u8] = b"a certificate, or so it says, that is longer than one line of base64 has characters";

    fn wrapped(width: usize, end: &str) -> String {
        let base64 = Base64::encode_string(DER);
        let lines: Vec<_> = base64.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line)).collect();
        format!("-----BEGIN CERTIFICATE-----{end}{}{end}-----END CERTIFICATE-----", lines.join(end))
    }

    fn read(text: &str) -> Vec<Result<Vec<u8>, (usize, Fault)>> {
        let all = blocks(text.as_bytes(), &["CERTIFICATE"]);
        all.into_iter().map(|block| block.map(|block| block.der.to_vec())).collect()
    }

    #[test]
    fn what_other_tools_read_is_read() {
        let good = wrapped(64, "\n");
        let mut indented = String::new();
        good.lines().for_each(|line| indented.push_str(&format!("  {line} \t\n")));
        let cases = [
            good.clone(),
            wrapped(64, "\r\n"),
            wrapped(76, "\n"),
            wrapped(7, "\n"),
            wrapped(4096, "\n"),
            wrapped(64, "\n\n"),
            indented,
            format!("\u{feff}{good}\n"),
            format!(
                "subject=CN = a\n# a comment: -----BEGIN CERTIFICATE----- begins a block\n-----BEGIN of text\n{good}\n"
            ),
            format!("-----END CERTIFICATE-----\n{good}\nafter -----BEGIN \n"),
            good.replacen("-----\n", "-----\nComment: none\n\n", 1),
            format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{good}"),
            format!("-----BEGIN EC PARAMETERS-----\n{good}"),
        ];
        for text in cases {
            assert_eq!(read(&text), [Ok(DER.to_vec())], "{text}");
        }
    }

    #[test]
    fn a_broken_block_costs_no_other() {
        let good = wrapped(64, "\n");
        let one = Ok(DER.to_vec());
        let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert_eq!(read(&format!("{good}\n{broken}{good}")), [one.clone(), Err((1, Fault::Base64)), one.clone()]);
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
        assert_eq!(read(&format!("{cut}{good}")), [Err((0, Fault::NoEnd)), one.clone()]);
        assert_eq!(read(&format!("{good}\n{cut}")), [one.clone(), Err((1, Fault::NoEnd))]);
        let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
        assert_eq!(read(&format!("{empty}{good}")), [Err((0, Fault::Empty)), one]);
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(read(other), [Err((0, Fault::NoEnd))]);
    }

    #[test]
    fn the_old_encryption_is_told() {
        let text =
            "-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END CERTIFICATE-----";
        assert_eq!(read(text), [Err((0, Fault::Encrypted))]);
    }
}
