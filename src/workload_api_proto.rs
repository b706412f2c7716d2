//! What the SPIFFE Workload API says on the wire: generated from `proto/`, with a `Debug` that keeps secrets.

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

pub use generated::*;

use std::fmt;

/// Shown instead of a key or a token.
const REDACTED: &str = "[redacted]";

/// Shows whose it is, never the key.
impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SVID")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid_bytes", &self.x509_svid.len())
            .field("x509_svid_key", &REDACTED)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

/// Shows whose it is, never the token.
impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JWTSVID")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &REDACTED)
            .field("hint", &self.hint)
            .finish()
    }
}

/// Shows for whom it is, never the token.
impl fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJWTSVIDRequest").field("audience", &self.audience).field("svid", &REDACTED).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_keys_nor_tokens() {
        let svid = X509svid { x509_svid_key: b"SECRET"[..].into(), ..X509svid::default() };
        let token = Jwtsvid { svid: "SECRET".into(), ..Jwtsvid::default() };
        let request = ValidateJwtsvidRequest { svid: "SECRET".into(), ..ValidateJwtsvidRequest::default() };
        let messages = (
            X509svidResponse { svids: vec![svid], ..X509svidResponse::default() },
            JwtsvidResponse { svids: vec![token] },
        );
        let shown = format!("{messages:?} {messages:#?} {request:?}");
        assert!(shown.contains("[redacted]") && !shown.contains("SECRET"), "{shown}");
        assert!(!shown.contains("83, 69"), "bytes as numbers: {shown}");
    }
}
