//! How a private key or a token gives itself away in text, whatever prints it.

use bytes::Bytes;
use pem_rfc7468::LineEnding;

/// Parts of a PKCS#8 key in every spelling that a program may print it in. The header is the same in every key, so they
/// are taken from the secret number behind it.
pub fn of_key(der: &[u8]) -> Vec<String> {
    let mut traces = Vec::new();
    for window in der[36..68].chunks(8) {
        let separated = |format: fn(&u8) -> String, by: &str| window.iter().map(format).collect::<Vec<_>>().join(by);
        traces.push(separated(|byte| byte.to_string(), ", "));
        for by in ["", ":", " "] {
            traces.push(separated(|byte| format!("{byte:02x}"), by));
            traces.push(separated(|byte| format!("{byte:02X}"), by));
        }
        // `Bytes` shows itself as b"...".
        let shown = format!("{:?}", Bytes::copy_from_slice(window));
        traces.push(shown[2..shown.len() - 1].to_owned());
    }
    let pem = pem_rfc7468::encode_string("PRIVATE KEY", LineEnding::LF, der).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // Lines are 64 characters long and start on a multiple of 16.
    traces.extend(body.as_bytes().chunks(16).skip(3).take(3).map(|it| String::from_utf8(it.to_vec()).unwrap()));
    traces
}

/// The parts of a token that nobody else may know: claims and signature.
pub fn of_token(token: &str) -> Vec<String> {
    let parts = token.trim_start_matches("Bearer ").split('.').skip(1);
    parts.map(|part| part.chars().take(24).collect()).collect()
}

/// Fails without printing what was found.
pub fn assert_none(what: &str, text: &str, traces: &[String]) {
    assert!(!traces.is_empty(), "nothing was looked for");
    for trace in traces {
        if let Some(at) = text.find(trace.as_str()) {
            panic!("{what} shows a part of a secret, {} characters long, at byte {at}", trace.len());
        }
    }
}
