//! How many lines of one kind are logged: the rule for everything that others can cause.
//!
//! A kind is a place in the code that logs. What a peer causes is logged once for the same words and at most
//! [`PEER`]`.burst` times a [`WINDOW`] for others, a peer and a kind; what is our own state a few more times. The rest is
//! counted, and the number is said at the end of the window. As long as it goes on, each further window has one line and a
//! number. Nothing is exempt, so that no new message can be forgotten.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use tracing::Level;

/// The time that lines are counted over.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Kinds and subjects that are remembered.
const REMEMBERED: usize = 4_096;

/// What may be logged in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Different lines of one kind about one subject.
    burst: usize,
    /// Lines of one kind about all subjects.
    lines: usize,
    /// Whether the same words again are worth a line.
    repeats: bool,
}

/// For what a peer causes.
pub(super) const PEER: Allowance = Allowance { burst: 5, lines: 32, repeats: false };
/// For what we say about ourselves.
pub(super) const OWN: Allowance = Allowance { burst: 10, lines: 256, repeats: true };

/// One line that wants to be logged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a, K> {
    /// The place in the code.
    pub(super) kind: K,
    pub(super) allowance: Allowance,
    pub(super) level: Level,
    pub(super) message: &'a str,
    /// Who caused it, or what it is about; empty if that is not said.
    pub(super) subject: &'a str,
    /// A digest of everything that it says.
    pub(super) digest: u64,
}

/// What was not logged of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) level: Level,
    pub(super) message: Box<str>,
    /// Empty if the lines were about nothing in particular, or about several.
    pub(super) subject: Box<str>,
    pub(super) count: u64,
    /// The time in which they would have been.
    pub(super) seconds: u64,
}

/// What has been logged lately.
#[derive(Debug)]
pub(super) struct Limits<K> {
    /// By kind and subject. The entry without a subject is for the subjects that have none of their own.
    entries: HashMap<(K, Option<Box<str>>), Entry>,
    /// When the number of lines of a kind began to be counted, and that number.
    totals: HashMap<K, (Instant, usize)>,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    level: Level,
    message: Box<str>,
    /// Digests of the lines that were logged in this window.
    said: Vec<u64>,
    unsaid: u64,
    /// Lines of this window: fewer if there were too many before.
    burst: usize,
}

impl<K> Default for Limits<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), totals: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Limits<K> {
    /// Whether this line is logged. If not, tells when [`Limits::due`] has something to say about it.
    pub(super) fn admit(&mut self, line: Line<'_, K>, now: Instant) -> Result<(), Instant> {
        let key = (line.kind.clone(), Some(Box::from(line.subject)));
        let fresh = |entry: &Entry| entry.unsaid == 0 && is_over(entry.since, now);
        if self.entries.get(&key).is_some_and(fresh) {
            self.entries.remove(&key);
        }
        let full = self.total(&line.kind, now) >= line.allowance.lines;
        if full || (self.is_full(now) && !self.entries.contains_key(&key)) {
            return Err(self.entry(&line, None, now).leave_out());
        }
        let entry = self.entry(&line, key.1, now);
        let known = !line.allowance.repeats && entry.said.contains(&line.digest);
        if known || entry.said.len() >= entry.burst {
            return Err(entry.leave_out());
        }
        entry.said.push(line.digest);
        if let Some((_, lines)) = self.totals.get_mut(&line.kind) {
            *lines += 1;
        }
        Ok(())
    }

    /// What was not logged in the windows that are over, and when the next one is.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<Summary>, Option<Instant>) {
        let mut summaries = Vec::new();
        self.entries.retain(|(_, subject), entry| {
            if !is_over(entry.since, now) {
                return true;
            }
            if entry.unsaid == 0 {
                return false;
            }
            let subject = subject.clone().unwrap_or_default();
            let (level, message, count) = (entry.level, entry.message.clone(), entry.unsaid);
            let seconds = now.saturating_duration_since(entry.since).as_secs();
            summaries.push(Summary { level, message, subject, count, seconds });
            (entry.since, entry.unsaid, entry.burst) = (now, 0, entry.burst.min(1));
            entry.said.clear();
            true
        });
        let pending = self.entries.values().filter(|entry| entry.unsaid > 0);
        let next = pending.map(|entry| entry.since + WINDOW).min();
        (summaries, next)
    }

    /// Lines of this kind in its window.
    fn total(&mut self, kind: &K, now: Instant) -> usize {
        let total = self.totals.entry(kind.clone()).or_insert((now, 0));
        if is_over(total.0, now) {
            *total = (now, 0);
        }
        total.1
    }

    fn is_full(&mut self, now: Instant) -> bool {
        if self.entries.len() >= REMEMBERED {
            self.entries.retain(|_, entry| entry.unsaid > 0 || !is_over(entry.since, now));
        }
        self.entries.len() >= REMEMBERED
    }

    fn entry(&mut self, line: &Line<'_, K>, subject: Option<Box<str>>, now: Instant) -> &mut Entry {
        let burst = if subject.is_some() { line.allowance.burst } else { 0 };
        self.entries.entry((line.kind.clone(), subject)).or_insert_with(|| Entry {
            since: now,
            level: line.level,
            message: line.message.into(),
            said: Vec::new(),
            unsaid: 0,
            burst,
        })
    }
}

impl Entry {
    fn leave_out(&mut self) -> Instant {
        self.unsaid += 1;
        self.since + WINDOW
    }
}

fn is_over(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(subject: &'a str, allowance: Allowance, digest: u64) -> Line<'a, u8> {
        Line { kind: 1, allowance, level: Level::WARN, message: "stream refused", subject, digest }
    }

    fn admitted(limits: &mut Limits<u8>, lines: impl IntoIterator<Item = Line<'static, u8>>, now: Instant) -> usize {
        lines.into_iter().filter(|line| limits.admit(*line, now).is_ok()).count()
    }

    #[test]
    fn the_first_is_logged_and_then_a_number() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!(admitted(&mut limits, (0..1000).map(|_| line("pid:1", PEER, 7)), start), 1);
        assert_eq!(limits.due(start).0, []);
        assert_eq!(limits.due(start).1, Some(start + WINDOW));
        let summary = |count| Summary {
            level: Level::WARN,
            message: "stream refused".into(),
            subject: "pid:1".into(),
            count,
            seconds: WINDOW.as_secs(),
        };
        assert_eq!(limits.due(start + WINDOW), (vec![summary(999)], None));
        // It goes on: one line a window, whatever it says, and a number.
        assert_eq!(admitted(&mut limits, (0..1000).map(|digest| line("pid:1", PEER, digest)), start + WINDOW), 1);
        assert_eq!(limits.due(start + 2 * WINDOW), (vec![summary(999)], None));
        // It is calm for a window, and forgotten.
        assert_eq!(limits.due(start + 3 * WINDOW), (vec![], None));
        assert!(limits.entries.is_empty());
        assert_eq!(admitted(&mut limits, (0..9).map(|digest| line("pid:1", PEER, digest)), start + 3 * WINDOW), 5);
    }

    #[test]
    fn other_words_other_peers_and_other_kinds_are_news() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!(admitted(&mut limits, [line("a", PEER, 1), line("a", PEER, 2), line("a", PEER, 1)], start), 2);
        assert_eq!(admitted(&mut limits, [line("b", PEER, 1)], start), 1);
        assert_eq!(admitted(&mut limits, [Line { kind: 2, ..line("a", PEER, 1) }], start), 1);
    }

    #[test]
    fn our_own_state_is_said_again_but_not_for_ever() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!(admitted(&mut limits, (0..50).map(|_| line("spiffe://a/b", OWN, 1)), start), OWN.burst);
        // As many things at once as one start has to say.
        let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let logged = names.iter().filter(|name| limits.admit(line(name, OWN, 1), start).is_ok());
        assert_eq!(logged.count(), 200);
    }

    #[test]
    fn peers_that_change_their_names_gain_nothing() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let logged = names.iter().filter(|name| limits.admit(line(name, PEER, 1), start).is_ok()).count();
        assert_eq!(logged, PEER.lines);
        assert!(limits.entries.len() <= PEER.lines + 1);
        let (summaries, _) = limits.due(start + WINDOW);
        assert_eq!(summaries.iter().map(|summary| summary.count).sum::<u64>(), 100_000 - logged as u64);
        assert!(summaries.iter().all(|summary| summary.subject.is_empty()));
    }

    #[test]
    fn memory_is_bounded_whatever_it_is_about() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let names: Vec<String> = (0..OWN.lines).map(|number| number.to_string()).collect();
        for kind in 0..100_u8 {
            for name in &names {
                let _ = limits.admit(Line { kind, ..line(name, OWN, 1) }, start);
            }
        }
        assert!(limits.entries.len() <= REMEMBERED + 100, "{}", limits.entries.len());
        let _ = limits.due(start + WINDOW);
        assert_eq!(limits.due(start + 2 * WINDOW), (vec![], None));
        assert!(limits.entries.is_empty());
    }
}
