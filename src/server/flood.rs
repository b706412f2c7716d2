//! Log lines that clients can cause at will, kept to a few a second.
//!
//! With on-demand secrets the names are whatever strangers send as the server name of a TLS handshake. Refusing one is
//! cheap; a line about each would be the attack.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    secret::table::Unusable,
    xds::{Node, ResourceName},
};

/// Lines at once, and each second after.
const BURST: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Everything of that kind.
#[derive(Debug)]
pub(super) struct Floods {
    /// Names that clients were told do not exist.
    pub(super) refused: Limit,
    /// Resources that clients did not take.
    pub(super) rejected: Limit,
    /// Whether it was said of an entry of the name table that it means nothing for some node.
    unusable: Vec<AtomicBool>,
}

/// So many lines a second.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    second: Option<Instant>,
    said: u32,
    unsaid: u64,
}

impl Floods {
    /// For a name table with so many templates.
    pub(super) fn new(templates: usize) -> Self {
        let unusable = std::iter::repeat_with(AtomicBool::default).take(templates).collect();
        Self { refused: Limit::default(), rejected: Limit::default(), unusable }
    }

    /// An entry means nothing for this node; said aloud for the first one.
    pub(super) fn unusable(&self, node: &Node, unusable: &Unusable) {
        let (name, reason) = (unusable.name.as_str(), unusable.reason.to_string());
        let node = ResourceName::new(&node.id);
        let first = self.unusable.get(unusable.template).is_some_and(|said| !said.swap(true, Ordering::Relaxed));
        if first {
            tracing::warn!(name, %node, reason, "entry of the name table means nothing for a client");
        } else {
            tracing::debug!(name, %node, reason, "entry of the name table means nothing for a client");
        }
    }
}

impl Limit {
    /// Whether a line may be written now, and how many were not written since the last one.
    pub(super) fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.second.is_none_or(|since| now.saturating_duration_since(since) >= SECOND) {
            state.second = Some(now);
            state.said = 0;
        }
        if state.said == BURST {
            state.unsaid += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let (limit, start) = (Limit::default(), Instant::now());
        let said: Vec<_> = (0..1000).filter_map(|_| limit.take(start)).collect();
        assert_eq!(said, [0; BURST as usize]);
        assert_eq!(limit.take(start + SECOND), Some(1000 - u64::from(BURST)));
        assert_eq!(limit.take(start + SECOND), Some(0));
    }
}
