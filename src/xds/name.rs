//! Resource names.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::printable::is_hidden;

/// A resource name: opaque here, compared byte for byte, echoed exactly as asked. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(Arc<str>);

impl ResourceName {
    /// Any text is a name; what it denotes is not decided here.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name as asked.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ResourceName {
    fn from(name: String) -> Self {
        Self(Arc::from(name))
    }
}

impl From<&str> for ResourceName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl Borrow<str> for ResourceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Names come from clients: control characters are escaped and length is bounded, so that a log line stays a line.
impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 256;
        for c in self.0.chars().take(SHOWN) {
            if is_hidden(c) { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        if self.0.chars().nth(SHOWN).is_some() { f.write_str("…") } else { Ok(()) }
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_bounded_line() {
        assert_eq!(ResourceName::new("a\nb\u{7}").to_string(), "a\\nb\\u{7}");
        let long = ResourceName::new(&"x".repeat(10_000));
        assert_eq!(long.to_string().chars().count(), 257);
        assert_eq!(long.as_str().len(), 10_000);
    }
}
