//! Shell-like patterns over names and SPIFFE IDs.

use std::{fmt, str::FromStr};

use regex::Regex;
use thiserror::Error;

/// A pattern for a whole text: `*` is any run of characters without `/`, `**` any run at all, everything else itself.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{source_text:?} is not a pattern that can be used; shorten it")]
pub struct PatternError {
    source_text: String,
}

impl Pattern {
    /// Whether all of `text` is as the pattern says.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(source: &str) -> Result<Self, PatternError> {
        let across: Vec<_> = source
            .split("**")
            .map(|part| part.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]*"))
            .collect();
        // `(?s)`: a name that a client makes up may hold a line break.
        let regex = Regex::new(&format!("(?s)^{}$", across.join(".*")));
        let regex = regex.map_err(|_| PatternError { source_text: source.chars().take(128).collect() })?;
        Ok(Self { source: source.to_owned(), regex })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stay_within_segments_and_double_stars_do_not() {
        let matches = |pattern: &str, text: &str| pattern.parse::<Pattern>().unwrap().matches(text);
        for (pattern, text, expected) in [
            ("spiffe://example.org/ns/*/web", "spiffe://example.org/ns/a/web", true),
            ("spiffe://example.org/ns/*/web", "spiffe://example.org/ns/a/b/web", false),
            ("spiffe://example.org/**/web", "spiffe://example.org/ns/a/b/web", true),
            ("spiffe://example.org/web", "spiffe://exampleXorg/web", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.example.com.evil", false),
            ("*.example.com", "x\n.example.com", true),
            ("web", "web2", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text:?}");
        }
    }
}
