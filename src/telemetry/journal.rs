//! What happened lately, for people who look: a bounded list in memory that the admin pages show.
//!
//! The log is the record; this is the part of it that somebody can read at a glance. Ten thousand clients that take the
//! same secret are one entry with a count, so that a rotation does not push everything else out.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::printable::is_hidden;

/// Entries kept; the oldest goes first.
const KEPT: usize = 2_000;
/// How far back an equal entry is looked for, and for how long it goes on counting.
const REACH: usize = 16;
const SPAN: Duration = Duration::from_secs(10);
/// New entries of one weight in that time; what is more is counted together, so that clients with names and words of their
/// own do not push everything else out.
const ROUTINE: u32 = 100;
const OTHER: u32 = 200;
/// Characters of one text. Texts come from clients.
const LONGEST: usize = 512;

/// The list. Clones are the same list.
///
/// What happens on streams is mostly what happened just before: that takes a shared lock and no memory. Readers are told
/// of nothing, they look at [`Journal::revision`].
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: RwLock<Entries>,
    revision: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    list: VecDeque<Arc<Record>>,
    /// Of routine, and of everything else.
    surplus: [Surplus; 2],
}

#[derive(Debug, Default)]
struct Surplus {
    /// New entries since that time.
    new: Option<(SystemTime, u32)>,
    /// What is counted together now, one a kind.
    others: Vec<Arc<Record>>,
}

/// An entry that goes on counting.
#[derive(Debug)]
struct Record {
    /// With the count and the last time of when it began.
    entry: Entry,
    again: AtomicU64,
    /// Milliseconds from the first time to the last.
    until: AtomicU64,
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
    pub subject: Arc<str>,
    /// The details; a client's words, a version.
    pub detail: Arc<str>,
    /// Who did it, the first one of several; empty if it is us.
    pub who: Arc<str>,
}

impl Journal {
    /// Notes what happened now. `who` is only written out when the entry is new.
    pub fn note(&self, weight: Weight, kind: &'static str, subject: &str, detail: &str, who: &dyn fmt::Display) {
        let now = SystemTime::now();
        let entries = self.0.entries.read().unwrap_or_else(PoisonError::into_inner);
        let known = entries.alike(kind, subject, detail, now).or_else(|| entries.together(weight, kind, now));
        let counted = known.map(|record| record.count(now)).is_some();
        drop(entries);
        if !counted {
            self.add(weight, kind, (text(subject), text(detail)), text(&who.to_string()), now);
        }
        self.0.revision.fetch_add(1, Ordering::Release);
    }

    fn add(&self, weight: Weight, kind: &'static str, about: (Arc<str>, Arc<str>), who: Arc<str>, now: SystemTime) {
        let (mut subject, mut detail) = about;
        // Nothing that can panic happens under the lock.
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        let full = entries.surplus(weight).fills_up(weight, now);
        // Somebody was faster, or the text was no line.
        let known = entries.alike(kind, &subject, &detail, now).or_else(|| entries.together(weight, kind, now));
        if let Some(record) = known {
            return record.count(now);
        }
        if full {
            (subject, detail) = ("".into(), "and others".into());
        }
        entries.next += 1;
        let sequence = entries.next;
        let entry = Entry { sequence, first: now, last: now, count: 1, weight, kind, subject, detail, who };
        let record = Arc::new(Record { entry, again: AtomicU64::new(0), until: AtomicU64::new(0) });
        if full {
            entries.surplus(weight).others.push(record.clone());
        }
        if entries.list.len() == KEPT {
            entries.list.pop_front();
        }
        entries.list.push_back(record);
    }

    /// The entries for which `wanted` holds, newest first: those from `offset` on, at most `limit`, and how many there
    /// are in all. Whoever notes something meanwhile does not wait for the search.
    #[must_use]
    pub fn newest(&self, wanted: impl Fn(&Entry) -> bool, offset: usize, limit: usize) -> (usize, Vec<Entry>) {
        let list = self.0.entries.read().unwrap_or_else(PoisonError::into_inner).list.clone();
        let found: Vec<_> = list.iter().rev().map(|record| record.entry()).filter(wanted).collect();
        (found.len(), found.into_iter().skip(offset).take(limit).collect())
    }

    /// A number that grows with everything that is noted.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.revision.load(Ordering::Acquire)
    }
}

impl Entries {
    /// A recent entry that says the same.
    fn alike(&self, kind: &'static str, subject: &str, detail: &str, now: SystemTime) -> Option<&Record> {
        let same = |entry: &Entry| *entry.subject == *subject && *entry.detail == *detail;
        let recent = self.list.iter().rev().take(REACH).map(|record| &**record);
        recent.into_iter().find(|it| it.entry.kind == kind && same(&it.entry) && is_fresh(it.entry.first, now))
    }

    /// What counts this kind together, if that is done now.
    fn together(&self, weight: Weight, kind: &'static str, now: SystemTime) -> Option<&Record> {
        let [routine, other] = &self.surplus;
        let surplus = if weight == Weight::Routine { routine } else { other };
        let counting = surplus.new.is_some_and(|(since, _)| is_fresh(since, now));
        let mut others = surplus.others.iter().map(|record| &**record);
        others.find(|record| counting && record.entry.kind == kind)
    }

    const fn surplus(&mut self, weight: Weight) -> &mut Surplus {
        let [routine, other] = &mut self.surplus;
        match weight {
            Weight::Routine => routine,
            Weight::Notice | Weight::Problem => other,
        }
    }
}

impl Surplus {
    /// Takes account of a new entry. Says whether there are too many.
    fn fills_up(&mut self, weight: Weight, now: SystemTime) -> bool {
        if !self.new.is_some_and(|(since, _)| is_fresh(since, now)) {
            self.new = None;
            self.others.clear();
        }
        let (_, count) = self.new.get_or_insert((now, 0));
        *count += 1;
        *count > if weight == Weight::Routine { ROUTINE } else { OTHER }
    }
}

fn is_fresh(first: SystemTime, now: SystemTime) -> bool {
    now.duration_since(first).is_ok_and(|age| age <= SPAN)
}

impl Record {
    fn count(&self, now: SystemTime) {
        self.again.fetch_add(1, Ordering::Relaxed);
        let age = now.duration_since(self.entry.first).unwrap_or_default();
        self.until.fetch_max(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn entry(&self) -> Entry {
        let until = Duration::from_millis(self.until.load(Ordering::Relaxed));
        let count = self.entry.count + self.again.load(Ordering::Relaxed);
        Entry { count, last: self.entry.first + until, ..self.entry.clone() }
    }
}

/// One bounded line.
fn text(full: &str) -> Arc<str> {
    let mut line: String = full.chars().take(LONGEST).map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect();
    if full.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(journal: &Journal) -> Vec<(Arc<str>, u64)> {
        journal.newest(|_| true, 0, usize::MAX).1.into_iter().map(|entry| (entry.subject, entry.count)).collect()
    }

    #[test]
    fn equal_things_are_counted_and_others_are_listed() {
        let journal = Journal::default();
        for _ in 0..10_000 {
            journal.note(Weight::Routine, "resource_sent", "default", "v1", &"a");
            journal.note(Weight::Routine, "resource_acked", "default", "v1", &"a");
        }
        journal.note(Weight::Routine, "resource_sent", "default", "v2", &"a");
        let counts: Vec<_> = all(&journal).into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 10_000, 10_000]);
        assert_eq!(journal.revision(), 20_001);
    }

    #[test]
    fn memory_is_bounded_whatever_clients_say() {
        let journal = Journal::default();
        let hostile = "x\n".repeat(10_000);
        journal.note(Weight::Problem, "resource_rejected", "", &hostile, &"<script>");
        let first = journal.newest(|_| true, 0, 1).1.remove(0);
        assert_eq!(first.detail.chars().count(), LONGEST + 1);
        assert!(!first.detail.contains('\n'));
        for number in 0..KEPT {
            journal.note(Weight::Problem, "resource_rejected", &number.to_string(), &hostile, &"<script>");
        }
        let (total, newest) = journal.newest(|_| true, 0, 1);
        assert_eq!(total, OTHER as usize + 1, "words of clients push nothing else out");
        assert_eq!((&*newest[0].detail, newest[0].count), ("and others", (KEPT - OTHER as usize + 1) as u64));
    }

    #[test]
    fn hostile_texts_are_counted_too() {
        let journal = Journal::default();
        for _ in 0..3 {
            journal.note(Weight::Problem, "resource_rejected", "a\nb", &"x".repeat(10_000), &"a");
        }
        assert_eq!(all(&journal), [("a\u{fffd}b".into(), 3)]);
    }

    #[test]
    fn clients_with_names_of_their_own_leave_room_for_others() {
        let journal = Journal::default();
        journal.note(Weight::Problem, "svid_expired", "spiffe://example.org/w", "", &"");
        for number in 0..10_000 {
            journal.note(Weight::Routine, "resource_sent", &format!("client-{number}"), "v1", &number);
            journal.note(Weight::Routine, "resource_acked", &format!("client-{number}"), "v1", &number);
        }
        journal.note(Weight::Problem, "svid_expired", "spiffe://example.org/x", "", &"");
        let (total, newest) = journal.newest(|_| true, 0, usize::MAX);
        assert_eq!(total, 2 + 100 + 2);
        assert_eq!(newest.iter().filter(|entry| entry.weight == Weight::Problem).count(), 2);
        assert_eq!(
            newest.iter().filter(|entry| &*entry.detail == "and others").map(|entry| entry.count).sum::<u64>(),
            19_900
        );
    }
}
