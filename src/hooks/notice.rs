//! What a callback is told: never a key, never a token.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::Value;

use crate::identity::{SpiffeId, TrustDomain};

/// One event as callbacks see it. A webhook sends exactly these fields as JSON, a program finds them in its environment
/// (`spiffe_id` as `SDS_SPIFFE_ID`); docs/hooks.md explains each. What an event has nothing to say about is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Tells one event from every other; all attempts to tell it have the same.
    pub id: String,
    /// The stable name of the event.
    pub event: &'static str,
    /// When it happened, RFC 3339 in UTC.
    pub time: String,
    /// Whose identity.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub spiffe_id: Option<SpiffeId>,
    /// Which trust domain, by name.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub trust_domain: Option<TrustDomain>,
    /// Of the leaf certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The end of the certificate's or token's life, RFC 3339 in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// For whom a token is, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The output directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// The generation of files that is in place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Authorities or keys that are new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<usize>,
    /// Authorities or keys that are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<usize>,
    /// What is left out of what is served, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// What a failure means: `transient`, `not_entitled` or `misconfigured`. Of something that is left out: what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// The source that is in service now, or that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The source's own reason, or why another source is in service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The failure with its causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Failures in a row, this one included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Seconds for which what is in service stays there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u64>,
}

/// What differs from one attempt to tell to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// From 1.
    pub(super) number: u32,
    /// Earlier events that this callback was not told, because newer ones took their place.
    pub(super) missed: u32,
}

impl Notice {
    /// An event with nothing but its name and moment.
    #[must_use]
    pub fn new(event: &'static str, at: SystemTime) -> Self {
        Self { id: format!("msg_{:032x}", fastrand::u128(..)), event, time: rfc3339(at), ..Self::default() }
    }

    /// The fields as JSON: texts and numbers only.
    pub(super) fn fields(&self, attempt: Attempt) -> serde_json::Map<String, Value> {
        let mut fields = match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            // Cannot happen for a structure of texts and numbers.
            _ => serde_json::Map::new(),
        };
        fields.insert("attempt".to_owned(), attempt.number.into());
        fields.insert("missed".to_owned(), attempt.missed.into());
        fields
    }

    /// The fields as variables.
    pub(super) fn environment(&self, attempt: Attempt) -> Vec<(String, String)> {
        let text = |value: Value| match value {
            // A NUL cannot stand in a variable; the error texts of others could hold one.
            Value::String(text) => text.replace('\0', ""),
            other => other.to_string(),
        };
        self.fields(attempt)
            .into_iter()
            .map(|(name, value)| (format!("SDS_{}", name.to_uppercase()), text(value)))
            .collect()
    }
}

/// A moment in UTC, to the second; what lies outside 1970 to 9999 becomes the nearest end.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn text<T: ToString, S: serde::Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(T::to_string).serialize(serializer)
}

/// A notice that several callbacks and attempts share.
pub(super) type Shared = Arc<Notice>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_environment_say_the_same() {
        let mut notice = Notice::new("svid_renewed", SystemTime::UNIX_EPOCH);
        notice.id = "msg_1".to_owned();
        notice.spiffe_id = Some(SpiffeId::new("spiffe://example.org/web").unwrap());
        notice.trust_domain = Some(TrustDomain::new("example.org").unwrap());
        notice.error = Some("a\0b".to_owned());
        let attempt = Attempt { number: 2, missed: 3 };
        let json = serde_json::to_string(&notice.fields(attempt)).unwrap();
        assert_eq!(
            json,
            r#"{"id":"msg_1","event":"svid_renewed","time":"1970-01-01T00:00:00Z","spiffe_id":"spiffe://example.org/web","trust_domain":"example.org","error":"a\u0000b","attempt":2,"missed":3}"#
        );
        let environment = notice.environment(attempt);
        let pairs: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("SDS_ID", "msg_1"),
                ("SDS_EVENT", "svid_renewed"),
                ("SDS_TIME", "1970-01-01T00:00:00Z"),
                ("SDS_SPIFFE_ID", "spiffe://example.org/web"),
                ("SDS_TRUST_DOMAIN", "example.org"),
                ("SDS_ERROR", "ab"),
                ("SDS_ATTEMPT", "2"),
                ("SDS_MISSED", "3"),
            ]
        );
    }
}
