//! Responses that were sent and not yet answered.

use std::{collections::VecDeque, time::Duration};

use crate::xds::{ResourceName, Version};

/// A client that answers nothing costs this many entries; the answer to an older response counts as stale.
pub(super) const KEPT: usize = 1024;

/// One response that waits for its answer.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) nonce: Box<str>,
    /// `None` for a response that only named absences.
    pub(super) resource: Option<(ResourceName, Version)>,
    /// The age of the stream when it was sent.
    pub(super) at: Duration,
    /// The step of a roll-out that it was sent for, or an earlier one that brought nothing else.
    pub(super) step: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outstanding(VecDeque<Sent>);

impl Outstanding {
    pub(super) fn push(&mut self, sent: Sent) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sent);
    }

    /// Clients answer in order, so the match is nearly always the first.
    pub(super) fn take(&mut self, nonce: &str) -> Option<Sent> {
        let at = self.0.iter().position(|sent| *sent.nonce == *nonce)?;
        self.0.remove(at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The step that the oldest one was sent for.
    pub(super) fn oldest_step(&self) -> Option<u64> {
        self.0.front().map(|sent| sent.step)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, nonce: &str) -> bool {
        self.0.iter().any(|sent| *sent.nonce == *nonce)
    }
}
