//! How our sockets are called in the store: the name says which file they have.

use std::{
    fmt,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use super::FileId;

/// The longest name that systemd takes (`FDNAME=`, sd_notify(3)).
pub(super) const LONGEST: usize = 255;
/// All TCP sockets; their address can be asked of themselves.
pub(super) const TCP: &str = "stored-tcp";
const PREFIX: &str = "stored-unix";

/// A Unix socket in the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) file: FileId,
    pub(super) path: PathBuf,
}

impl Stored {
    /// `None` for a name that is not ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix(' ')?.splitn(3, ' ');
        let mut number = || parts.next()?.parse().ok();
        let file = (number()?, number()?);
        Some(Self { file, path: PathBuf::from(std::ffi::OsString::from_vec(decode(parts.next()?)?)) })
    }
}

/// ASCII without control characters and `:`, because names are listed with colons between them.
impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX} {} {} ", self.file.0, self.file.1)?;
        for byte in self.path.as_os_str().as_bytes() {
            match byte {
                b'%' | b':' | 0..=0x1f | 0x7f.. => write!(f, "%{byte:02x}")?,
                _ => write!(f, "{}", *byte as char)?,
            }
        }
        Ok(())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let (first, rest) = text.split_once('%').unwrap_or((text, ""));
    let mut bytes = first.as_bytes().to_vec();
    if rest.is_empty() {
        return Some(bytes);
    }
    for part in rest.split('%') {
        let (code, plain) = (part.get(..2)?, part.get(2..)?);
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend(plain.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_file() {
        for path in ["/run/spiffe-sds/sds.sock", "/run/a:b%c d/é.sock", "/run/x%"] {
            let stored = Stored { file: (7, 12_345), path: path.into() };
            let name = stored.to_string();
            assert!(name.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b':'), "{name}");
            assert_eq!(Stored::parse(&name), Some(stored));
        }
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in [
            "",
            "sds.socket",
            "stored-tcp",
            "stored-unix",
            "stored-unix 1 x /a",
            "stored-unix 1 2",
            "stored-unix 1 2 /%zz",
        ] {
            assert_eq!(Stored::parse(name), None, "{name}");
        }
    }
}
