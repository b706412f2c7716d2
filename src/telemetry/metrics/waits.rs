//! Who waits for a name, and since when: without looking at each stream.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many subscriptions have waited since which second. Clones are the same count.
///
/// A stream touches it only when the number of names that it waits for changes: nearly always twice in its life.
#[derive(Clone, Debug)]
pub struct Waits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// Seconds since `origin`, and how many began to wait then. Never zero, so that the map stays small.
    since: Mutex<BTreeMap<u64, u64>>,
}

impl Default for Waits {
    fn default() -> Self {
        Self(Arc::new(Inner { origin: Instant::now(), since: Mutex::default() }))
    }
}

impl Waits {
    /// How many wait, and how many of them for at least `bound`, to the second.
    #[must_use]
    pub fn count(&self, bound: Duration) -> (u64, u64) {
        self.count_at(bound, self.now())
    }

    fn count_at(&self, bound: Duration, now: u64) -> (u64, u64) {
        let since = self.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        let all = since.values().sum();
        let starved = now.checked_sub(bound.as_secs()).map_or(0, |last| since.range(..=last).map(|(_, n)| n).sum());
        (all, starved)
    }

    fn now(&self) -> u64 {
        self.0.origin.elapsed().as_secs()
    }
}

/// What one stream waits for; all of it ends with the stream.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Seconds and how many names began to wait then, oldest first.
    since: Vec<(u64, u64)>,
}

impl Waiting {
    /// From now on the stream waits for this many names.
    ///
    /// When it waits for fewer than before, the youngest ones are taken to have been answered: names that are there are
    /// answered at once, and what remains is what will not come.
    pub(super) fn set(&mut self, waits: &Waits, names: u64) {
        let before: u64 = self.since.iter().map(|(_, count)| count).sum();
        if names != before {
            self.change(waits, names, before, waits.now());
        }
    }

    fn change(&mut self, waits: &Waits, names: u64, before: u64, now: u64) {
        let mut all = waits.0.since.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = names.checked_sub(before) {
            *all.entry(now).or_default() += more;
            match self.since.last_mut() {
                Some((second, count)) if *second == now => *count += more,
                _ => self.since.push((now, more)),
            }
            return;
        }
        let mut fewer = before - names;
        while let Some((second, count)) = self.since.last_mut() {
            let gone = fewer.min(*count);
            *count -= gone;
            fewer -= gone;
            if let Some(left) = all.get_mut(second) {
                *left -= gone.min(*left);
                if *left == 0 {
                    all.remove(second);
                }
            }
            if *count > 0 {
                break;
            }
            self.since.pop();
        }
        if self.since.is_empty() {
            self.since = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    /// Lets `waiting` wait for `names` at a second.
    fn set(waiting: &mut Waiting, waits: &Waits, names: u64, at: u64) {
        let before = waiting.since.iter().map(|(_, count)| count).sum();
        if names != before {
            waiting.change(waits, names, before, at);
        }
    }

    #[test]
    fn starved_is_who_waits_for_the_bound() {
        let (waits, mut a, mut b) = (Waits::default(), Waiting::default(), Waiting::default());
        set(&mut a, &waits, 2, 5);
        set(&mut b, &waits, 1, 20);
        assert_eq!(waits.count_at(BOUND, 34), (3, 0));
        assert_eq!(waits.count_at(BOUND, 35), (3, 2));
        assert_eq!(waits.count_at(BOUND, 50), (3, 3));
        set(&mut a, &waits, 0, 50);
        assert_eq!(waits.count_at(BOUND, 50), (1, 1));
        set(&mut b, &waits, 0, 51);
        assert!(waits.0.since.lock().unwrap().is_empty(), "and nothing is kept");
    }

    #[test]
    fn names_that_come_and_go_do_not_hide_one_that_never_comes() {
        let (waits, mut stream) = (Waits::default(), Waiting::default());
        set(&mut stream, &waits, 1, 0);
        for second in 1..40 {
            set(&mut stream, &waits, 2, second);
            set(&mut stream, &waits, 1, second);
        }
        assert_eq!(waits.count_at(BOUND, 40), (1, 1));
    }

    #[test]
    fn the_bound_may_be_zero() {
        let (waits, mut stream) = (Waits::default(), Waiting::default());
        stream.set(&waits, 1);
        assert_eq!(waits.count(Duration::ZERO), (1, 1));
        stream.set(&waits, 0);
        assert_eq!(waits.count(Duration::ZERO), (0, 0));
    }
}
