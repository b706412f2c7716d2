//! Headers that say which delivery this is, and prove who sends it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::hmac;
use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::WebhookError;
use crate::{detached, hooks::plan::Run};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the webhook's key file {}; nothing is sent unsigned", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It has no (usable) key.
    #[error("the webhook's key file {} holds no usable key; write `whsec_` and at least 24 bytes as base64, or any text of at least 24 bytes", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
    },
}

/// Standard Webhooks asks for 24 to 64 bytes.
const SHORTEST: usize = 24;
/// More than any key has.
const LONGEST: u64 = 4096;

/// The headers of one attempt. All attempts of one event have the same `webhook-id`, so that receivers can tell.
pub(super) async fn headers(
    key_file: Option<&Path>,
    run: &Run,
    body: &str,
) -> Result<Vec<(&'static str, String)>, WebhookError> {
    let id = &run.notice.id;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let timestamp = now.as_secs().to_string();
    let mut headers = vec![("webhook-id", id.clone()), ("webhook-timestamp", timestamp.clone())];
    if let Some(path) = key_file {
        let path = path.to_owned();
        let key = detached::run("key", move || read(&path)).await.map_err(WebhookError::Resources)??;
        headers.push(("webhook-signature", signature(&key, id, &timestamp, body)));
    }
    Ok(headers)
}

fn signature(key: &[u8], id: &str, timestamp: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", Base64::encode_string(tag.as_ref()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // Of its final size from the start: growing would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_end(&mut content))
        .map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    key(&content).ok_or_else(|| KeyError::Unusable { path: path.to_owned() })
}

/// `whsec_` and base64, as the libraries of Standard Webhooks write it, or the bytes themselves.
fn key(content: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let text = content.trim_ascii();
    let key = match text.strip_prefix(b"whsec_") {
        Some(encoded) => Zeroizing::new(Base64::decode_vec(std::str::from_utf8(encoded).ok()?).ok()?),
        None => Zeroizing::new(text.to_vec()),
    };
    (key.len() >= SHORTEST).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the specification, "Signature scheme".
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let key = key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn short_and_broken_keys_are_refused() {
        assert_eq!(key(b" 0123456789012345678901234\n").unwrap().as_slice(), b"0123456789012345678901234");
        for bad in [&b""[..], b"short", b"whsec_", b"whsec_not base64 at all, but long enough", b"whsec_c2hvcnQ="] {
            assert!(key(bad).is_none());
        }
    }
}
