//! What happened lately, for people who look: a bounded list in memory that the admin pages show.
//!
//! The log is the record; this is the part of it that somebody can read at a glance. Ten thousand clients that take the
//! same secret are one entry with a count, so that a rotation does not push everything else out.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

/// Entries kept; the oldest goes first.
const KEPT: usize = 2_000;
/// How far back an equal entry is looked for, and for how long it goes on counting.
const REACH: usize = 16;
const SPAN: Duration = Duration::from_secs(10);
/// Characters of one text. Texts come from clients.
const LONGEST: usize = 512;

/// The list. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<Entries>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    list: VecDeque<Entry>,
}

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As it should be.
    Routine,
    /// Somebody may want to look.
    Notice,
    /// Somebody should look.
    Problem,
}

impl Weight {
    /// How pages and JSON spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routine => "routine",
            Self::Notice => "notice",
            Self::Problem => "problem",
        }
    }
}

/// What happened, once or several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows by one an entry, from 1 on.
    pub sequence: u64,
    /// The first time.
    pub first: SystemTime,
    /// The last time.
    pub last: SystemTime,
    /// How often.
    pub count: u64,
    /// How much it matters.
    pub weight: Weight,
    /// A stable name, such as `svid_renewed` or `resource_sent`.
    pub kind: &'static str,
    /// What it is about: a resource name, a SPIFFE ID, a trust domain.
    pub subject: String,
    /// The details; a client's words, a version.
    pub detail: String,
    /// Who did it, the first one of several; empty if it is us.
    pub who: String,
}

impl Journal {
    /// Notes what happened now. `who` is only written out when the entry is new.
    pub fn note(
        &self,
        weight: Weight,
        kind: &'static str,
        subject: &dyn fmt::Display,
        detail: &dyn fmt::Display,
        who: &dyn fmt::Display,
    ) {
        let (subject, detail, now) = (text(subject), text(detail), SystemTime::now());
        let mut entries = self.lock();
        let alike = |entry: &&mut Entry| {
            let fresh = now.duration_since(entry.first).is_ok_and(|age| age <= SPAN);
            fresh && entry.kind == kind && entry.subject == subject && entry.detail == detail
        };
        if let Some(entry) = entries.list.iter_mut().rev().take(REACH).find(alike) {
            entry.count += 1;
            entry.last = now;
        } else {
            if entries.list.len() == KEPT {
                entries.list.pop_front();
            }
            entries.next += 1;
            let sequence = entries.next;
            let who = text(who);
            entries.list.push_back(Entry {
                sequence,
                first: now,
                last: now,
                count: 1,
                weight,
                kind,
                subject,
                detail,
                who,
            });
        }
        drop(entries);
        self.0.revision.send_modify(|revision| *revision += 1);
    }

    /// The entries for which `wanted` holds, newest first: those from `offset` on, at most `limit`, and how many there
    /// are in all.
    #[must_use]
    pub fn newest(&self, wanted: impl Fn(&Entry) -> bool, offset: usize, limit: usize) -> (usize, Vec<Entry>) {
        let entries = self.lock();
        let found = || entries.list.iter().rev().filter(|entry| wanted(entry));
        (found().count(), found().skip(offset).take(limit).cloned().collect())
    }

    /// A number that grows with everything that is noted, now and as it grows.
    #[must_use]
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        // Nothing that can panic happens under the lock.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One bounded line.
fn text(value: &dyn fmt::Display) -> String {
    let full = value.to_string();
    let mut line: String = full.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if full.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(journal: &Journal) -> Vec<(String, u64)> {
        journal.newest(|_| true, 0, usize::MAX).1.into_iter().map(|entry| (entry.subject, entry.count)).collect()
    }

    #[test]
    fn equal_things_are_counted_and_others_are_listed() {
        let journal = Journal::default();
        for _ in 0..10_000 {
            journal.note(Weight::Routine, "resource_sent", &"default", &"v1", &"a");
            journal.note(Weight::Routine, "resource_acked", &"default", &"v1", &"a");
        }
        journal.note(Weight::Routine, "resource_sent", &"default", &"v2", &"a");
        let counts: Vec<_> = all(&journal).into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 10_000, 10_000]);
        assert_eq!(*journal.revision().borrow(), 20_001);
    }

    #[test]
    fn memory_is_bounded_whatever_clients_say() {
        let journal = Journal::default();
        for number in 0..KEPT + 10 {
            journal.note(Weight::Problem, "resource_rejected", &number, &"x\n".repeat(10_000), &"<script>");
        }
        let (total, newest) = journal.newest(|_| true, 0, 1);
        assert_eq!((total, newest[0].sequence), (KEPT, (KEPT + 10) as u64));
        assert_eq!(newest[0].detail.chars().count(), LONGEST + 1);
        assert!(!newest[0].detail.contains('\n'));
    }
}
