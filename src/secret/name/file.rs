//! Names of files, in Istio's spelling (`pkg/security/security.go`).
//!
//! ```text
//!   name = "file-cert:" path "~" path   ; a certificate chain and its key
//!        / "file-root:" path            ; authorities
//!        / "file-root:system"           ; those that the machine trusts
//!   path = 1*( "/" component )          ; no "~", no control characters, at most 4095 bytes
//! ```
//!
//! No component is empty, `.` or `..`, so that a file has one name and stays where its name says. (`..data`, which the
//! kubelet writes, is a component like any other.)

use std::path::PathBuf;

use crate::identity::FileRequest;

pub(super) const CERTIFICATE: &str = "file-cert:";
pub(super) const ROOTS: &str = "file-root:";

/// `PATH_MAX` of Linux without the final NUL.
const LONGEST: usize = 4095;

/// Reads a name with its dots as dots; `None` for what is no name of a file.
pub(super) fn parse(name: &str) -> Option<FileRequest> {
    if let Some(pair) = name.strip_prefix(CERTIFICATE) {
        let (certificate, key) = pair.split_once('~')?;
        return Some(FileRequest::Certificate { certificate: path(certificate)?, key: path(key)? });
    }
    match name.strip_prefix(ROOTS)? {
        "system" => Some(FileRequest::SystemRoots),
        roots => path(roots).map(FileRequest::Roots),
    }
}

fn path(text: &str) -> Option<PathBuf> {
    let mut components = text.strip_prefix('/')?.split('/');
    let sound = text.len() <= LONGEST && !text.contains(|c: char| c == '~' || c.is_control());
    (sound && components.all(|component| !matches!(component, "" | "." | ".."))).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_they_denote() {
        let pair = |certificate: &str, key: &str| FileRequest::Certificate {
            certificate: certificate.into(),
            key: key.into(),
        };
        for (name, denoted) in [
            ("file-root:system", FileRequest::SystemRoots),
            ("file-root:/etc/certs/root-cert.pem", FileRequest::Roots("/etc/certs/root-cert.pem".into())),
            ("file-root:/system", FileRequest::Roots("/system".into())),
            ("file-root:/a/..data/...", FileRequest::Roots("/a/..data/...".into())),
            ("file-cert:/c/tls.crt~/k/tls.key", pair("/c/tls.crt", "/k/tls.key")),
            ("file-cert:/both.pem~/both.pem", pair("/both.pem", "/both.pem")),
            ("file-root:/a b%ü", FileRequest::Roots("/a b%ü".into())),
        ] {
            assert_eq!(parse(name), Some(denoted.clone()), "{name}");
            assert_eq!(denoted.to_string(), name);
        }
    }

    #[test]
    fn everything_else_denotes_nothing() {
        let long = format!("file-root:/{}", "a".repeat(LONGEST));
        for name in [
            "file-root",
            "file-root:",
            "file-root:System",
            "file-root:etc/ca.pem",
            "file-root:./ca.pem",
            "file-root:/",
            "file-root://ca.pem",
            "file-root:/etc//ca.pem",
            "file-root:/etc/ca.pem/",
            "file-root:/etc/./ca.pem",
            "file-root:/etc/../ca.pem",
            "file-root:/etc/..",
            "file-root:/a~/b",
            "file-root:/a\0",
            "file-root:/a\nb",
            "file-cert:/a",
            "file-cert:/a~",
            "file-cert:~/a",
            "file-cert:/a~/b~/c",
            "file-cert:/a~b",
            "file-cert:/a/../b~/c",
            "file-cert:system~system",
            "FILE-ROOT:/a",
            "file-key:/a",
            &long,
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
        assert!(parse(&long[..long.len() - 1]).is_some());
    }
}
