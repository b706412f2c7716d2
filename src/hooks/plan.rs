//! When a callback runs, and with which event: pure, time and randomness are parameters.
//!
//! Events wait in *lanes*; a lane does one thing at a time. Two numbers make the difference between the kinds of
//! callbacks: a program has a lane for each kind of event and room for one that waits (the newest), a webhook has one
//! lane and room for many. When there is no room the oldest goes, and is counted.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    backoff::Backoff,
    notice::{Attempt, Shared},
};

/// The rules of a callback's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Whether each kind of event has a lane of its own.
    pub(super) lane_per_event: bool,
    /// Events that may wait in a lane.
    pub(super) room: usize,
    /// How often one event is tried.
    pub(super) attempts: u32,
    /// Delays after failures.
    pub(super) backoff: super::backoff::Config,
}

/// Every lane of one callback.
#[derive(Debug)]
pub(super) struct Plan {
    rules: Rules,
    rng: fastrand::Rng,
    lanes: BTreeMap<&'static str, Lane>,
}

/// Something to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) lane: &'static str,
    pub(super) notice: Shared,
    pub(super) attempt: Attempt,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same event again, after this delay.
    Retry(Duration),
    /// A newer event takes its place.
    Superseded,
    /// It was the last attempt.
    GivenUp,
}

#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Job>,
    running: Option<Job>,
    /// Not before this moment, after a failure.
    not_before: Option<Instant>,
    backoff: Backoff,
    /// Events dropped since one was told.
    missed: u32,
}

#[derive(Clone, Debug)]
struct Job {
    notice: Shared,
    /// Attempts so far.
    attempts: u32,
}

impl Plan {
    pub(super) fn new(rules: Rules, rng: fastrand::Rng) -> Self {
        Self { rules, rng, lanes: BTreeMap::new() }
    }

    /// Takes an event in. Says how many older ones lost their place to it.
    pub(super) fn offer(&mut self, notice: Shared) -> u32 {
        let key = if self.rules.lane_per_event { notice.event } else { "" };
        let (rules, rng) = (self.rules, &mut self.rng);
        let lane = self.lanes.entry(key).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            running: None,
            not_before: None,
            backoff: Backoff::new(rules.backoff, rng.fork()),
            missed: 0,
        });
        lane.waiting.push_back(Job { notice, attempts: 0 });
        lane.make_room(rules.room)
    }

    /// Everything that is due; it counts as running until [`Plan::succeeded`] or [`Plan::failed`].
    pub(super) fn due(&mut self, now: Instant) -> Vec<Run> {
        let ready = self.lanes.iter_mut().filter(|(_, lane)| lane.starts().is_some_and(|at| at <= Some(now)));
        ready
            .filter_map(|(key, lane)| {
                let mut job = lane.waiting.pop_front()?;
                job.attempts += 1;
                let attempt = Attempt { number: job.attempts, missed: lane.missed };
                let run = Run { lane: key, notice: job.notice.clone(), attempt };
                lane.running = Some(job);
                Some(run)
            })
            .collect()
    }

    /// When [`Plan::due`] has something next, if nothing else happens.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lanes.values().filter_map(Lane::starts).flatten().min()
    }

    /// What ran in `lane` has worked.
    pub(super) fn succeeded(&mut self, lane: &str, told: Attempt) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.running = None;
            lane.not_before = None;
            lane.backoff.reset();
            lane.missed = lane.missed.saturating_sub(told.missed);
        }
    }

    /// What ran in `lane` has not worked.
    pub(super) fn failed(&mut self, lane: &str, now: Instant) -> Verdict {
        let rules = self.rules;
        let Some((lane, job)) = self.lanes.get_mut(lane).and_then(|lane| lane.running.take().map(|job| (lane, job)))
        else {
            return Verdict::GivenUp;
        };
        let delay = lane.backoff.next_delay();
        // A newer event waits as long: what just failed is likely to fail again.
        lane.not_before = Some(now + delay);
        if job.attempts >= rules.attempts {
            lane.missed = lane.missed.saturating_add(1);
            return Verdict::GivenUp;
        }
        lane.waiting.push_front(job);
        match lane.make_room(rules.room) {
            0 => Verdict::Retry(delay),
            _ => Verdict::Superseded,
        }
    }
}

impl Lane {
    /// When this lane may start its next job: `None` if it has none or is busy, `Some(None)` for at once.
    fn starts(&self) -> Option<Option<Instant>> {
        (self.running.is_none() && !self.waiting.is_empty()).then_some(self.not_before)
    }

    fn make_room(&mut self, room: usize) -> u32 {
        let mut dropped = 0;
        while self.waiting.len() > room {
            self.waiting.pop_front();
            dropped += 1;
        }
        self.missed = self.missed.saturating_add(dropped);
        dropped
    }
}

#[cfg(test)]
mod tests;
