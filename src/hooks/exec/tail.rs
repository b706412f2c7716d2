//! The end of what a program writes: enough to see what went wrong, however much there is.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::printable::is_hidden;

/// Bytes of output that are kept.
const KEPT: usize = 2048;

/// The last bytes, and how many there were in all.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    total: u64,
    /// Somebody printed the file it was told about. A key in the log would be there for good.
    has_key: bool,
}

const KEY_MARK: &[u8] = b"PRIVATE KEY";

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        self.bytes.extend(bytes);
        // Before anything is cut off.
        self.has_key |= self.bytes.make_contiguous().windows(KEY_MARK.len()).any(|window| window == KEY_MARK);
        let surplus = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..surplus);
    }

    /// One line of printable text.
    fn shown(&self) -> String {
        if self.total == 0 {
            return "nothing".to_owned();
        }
        if self.has_key {
            return format!("({} bytes, withheld because they look like a private key)", self.total);
        }
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let text: String = text.trim().chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
        if self.total > KEPT as u64 { format!("... {text} ({} bytes in all)", self.total) } else { text }
    }
}

/// Reads `stream` to its end into `tail`. Everything is read, so that nobody hangs at a full pipe.
pub(super) async fn read(stream: Option<impl AsyncRead + Unpin>, tail: &Mutex<Tail>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let read = buffer.get(..count).unwrap_or_default();
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(read);
    }
}

/// What is there by now.
pub(super) fn shown(tail: &Mutex<Tail>) -> String {
    tail.lock().unwrap_or_else(PoisonError::into_inner).shown()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: &[&str]) -> String {
        let mut tail = Tail::default();
        parts.iter().for_each(|part| tail.push(part.as_bytes()));
        tail.shown()
    }

    #[test]
    fn the_end_is_kept_and_is_one_line() {
        assert_eq!(shown(&[]), "nothing");
        assert_eq!(shown(&["a\n", "b\u{1b}[31m\n"]), "a b [31m");
        let long = shown(&["x", &"y".repeat(10_000), "end"]);
        assert!(long.len() < KEPT + 50 && long.ends_with("yend (10004 bytes in all)"), "{long}");
    }

    #[test]
    fn keys_are_withheld() {
        let text = shown(&["-----BEGIN PRIVATE KEY-----\n", "MIGH\n"]);
        assert!(!text.contains("MIGH"), "{text}");
        let text = shown(&["-----BEGIN RSA PRIV", "ATE KEY-----\n", &"MIGH".repeat(1000)]);
        assert!(!text.contains("MIGH"), "{text}");
    }
}
