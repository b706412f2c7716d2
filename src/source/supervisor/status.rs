//! How a source does.

use std::{sync::Arc, time::SystemTime};

use crate::source::ErrorKind;

/// How the source does, for status pages and checks. Of several sources: the one in service, or while there is none,
/// whichever spoke last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// The [name](crate::source::Source::name) of the source whose identities are in service; `None` before there are any.
    pub active: Option<Arc<str>>,
    /// A session is open and has delivered usable data.
    pub connected: bool,
    /// When usable data last came, changed or not.
    pub last_update: Option<SystemTime>,
    /// Failures since then.
    pub consecutive_failures: u32,
    /// The last failure with its causes; `None` once usable data came again.
    pub last_error: Option<Arc<str>>,
    /// What that failure means.
    pub last_error_kind: Option<ErrorKind>,
}
