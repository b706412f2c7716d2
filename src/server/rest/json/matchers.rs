//! What names a peer may have, in protobuf's JSON.

use envoy_types::pb::envoy::{
    extensions::transport_sockets::tls::v3::{SubjectAltNameMatcher, subject_alt_name_matcher::SanType},
    r#type::matcher::v3::{RegexMatcher, string_matcher::MatchPattern},
};
use serde_json::{Value, json};

/// All of them, or `None` if one says more than has a form here.
pub(super) fn matchers(matchers: &[SubjectAltNameMatcher]) -> Option<Vec<Value>> {
    matchers.iter().map(matcher).collect()
}

fn matcher(matcher: &SubjectAltNameMatcher) -> Option<Value> {
    let san_type = SanType::try_from(matcher.san_type).ok()?.as_str_name();
    let text = matcher.matcher.as_ref()?;
    let plain = !text.ignore_case && matcher.oid.is_empty();
    let pattern = match text.match_pattern.as_ref().filter(|_| plain)? {
        MatchPattern::Exact(text) => json!({ "exact": text }),
        MatchPattern::Prefix(text) => json!({ "prefix": text }),
        MatchPattern::Suffix(text) => json!({ "suffix": text }),
        MatchPattern::Contains(text) => json!({ "contains": text }),
        MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: None }) => {
            json!({ "safe_regex": { "regex": regex } })
        }
        _ => return None,
    };
    Some(json!({ "san_type": san_type, "matcher": pattern }))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

    use super::*;

    fn of(pattern: MatchPattern, ignore_case: bool) -> Option<Vec<Value>> {
        let matcher = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
        matchers(&[SubjectAltNameMatcher { san_type: SanType::Uri.into(), matcher, ..Default::default() }])
    }

    #[test]
    fn what_has_a_form_is_written_and_nothing_gets_lost() {
        let exact = json!([{ "san_type": "URI", "matcher": { "exact": "x" } }]);
        assert_eq!(of(MatchPattern::Exact("x".into()), false).map(Value::from), Some(exact));
        let regex = RegexMatcher { regex: "x.*".into(), ..Default::default() };
        let expected = json!([{ "san_type": "URI", "matcher": { "safe_regex": { "regex": "x.*" } } }]);
        assert_eq!(of(MatchPattern::SafeRegex(regex), false).map(Value::from), Some(expected));
        assert_eq!(of(MatchPattern::Exact("x".into()), true), None);
    }
}
