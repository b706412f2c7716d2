//! Which steps of a roll-out every stream has acknowledged.
//!
//! A step has a number. A stream has a step when it has looked at it, has nothing more to send, and all that it sent
//! for it is answered; refusing is an answer. Streams report that number when it grows, so counting costs each stream one
//! short lock a step, and nothing is looked through.
//!
//! Only those are waited for who are worth it: a stream counts from its first acknowledgement on, or when its client
//! says that it holds something from before. Who has not answered in time does not count until it does.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

use crate::telemetry::metrics::RolloutMetrics;

/// Steps that are counted by themselves; with more, the newest stands for those before it.
const OPEN: usize = 32;

/// The streams' answers to one workload's steps. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Acks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tally: Mutex<Tally>,
    /// A step has become complete.
    complete: Notify,
    /// A client has said that it holds something from before.
    returned: AtomicBool,
    metrics: RolloutMetrics,
}

/// Counts only: which stream is where, it knows itself.
#[derive(Debug, Default)]
struct Tally {
    /// The last step.
    last: u64,
    /// The last step that every stream has.
    acked: u64,
    /// Streams that are waited for.
    counted: usize,
    /// Steps that some of them have not, oldest first.
    open: VecDeque<Open>,
    /// Streams that had not this step in time are not waited for.
    given_up: u64,
    /// How often that was.
    give_ups: u64,
}

#[derive(Debug)]
struct Open {
    number: u64,
    since: Instant,
    /// How many have it not.
    left: usize,
}

/// One stream's answers; withdraws itself when dropped.
pub(in crate::server) struct AckSeat {
    acks: Acks,
    /// The last step that the stream has.
    has: u64,
    counted: bool,
    /// How often others had been given up when it came to count.
    joined: u64,
    /// The client has acknowledged something.
    answers: bool,
}

impl Acks {
    pub(super) fn counting(metrics: RolloutMetrics) -> Self {
        Self(Arc::new(Inner { metrics, ..Inner::default() }))
    }

    /// A stream that has nothing yet.
    pub(in crate::server) fn seat(&self) -> AckSeat {
        AckSeat { acks: self.clone(), has: 0, counted: false, joined: 0, answers: false }
    }

    /// The number of the step that streams are given next. All of them have to be told of it, also those to whom it says
    /// nothing.
    pub(super) fn begin(&self) -> u64 {
        let mut tally = self.lock();
        tally.begin();
        self.settle(&mut tally);
        tally.last
    }

    /// The last step that every stream has that is waited for.
    pub(super) fn acked(&self) -> u64 {
        self.lock().acked
    }

    /// Waits until that may have changed.
    pub(super) async fn changed(&self) {
        self.0.complete.notified().await;
    }

    /// Waits no longer for those who have not this step. Says how many that are.
    pub(super) fn give_up(&self, number: u64) -> usize {
        let mut tally = self.lock();
        let late = tally.give_up(number);
        self.0.metrics.timed_out(late);
        self.settle(&mut tally);
        late
    }

    /// Whether a client has said that it holds something from before.
    pub(in crate::server) fn has_returned(&self) -> bool {
        self.0.returned.load(Ordering::SeqCst)
    }

    /// Takes out what is complete.
    fn settle(&self, tally: &mut Tally) {
        let before = tally.acked;
        while tally.open.front().is_some_and(|open| open.left == 0)
            && let Some(open) = tally.open.pop_front()
        {
            tally.acked = open.number;
            self.0.metrics.acked(open.since.elapsed());
        }
        if tally.open.is_empty() {
            tally.acked = tally.last;
        }
        self.0.metrics.waits_for(tally.open.front().map_or(0, |open| open.left));
        if tally.acked > before {
            self.0.complete.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Nothing in there can panic half-way.
        self.0.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn begin(&mut self) {
        self.last += 1;
        if self.counted == 0 {
            return;
        }
        let open = Open { number: self.last, since: Instant::now(), left: self.counted };
        let full = self.open.len() >= OPEN;
        match self.open.back_mut().filter(|_| full) {
            Some(newest) => *newest = Open { since: newest.since, ..open },
            None => self.open.push_back(open),
        }
    }

    fn give_up(&mut self, number: u64) -> usize {
        let at = self.open.partition_point(|open| open.number < number);
        // Without one it is complete.
        let Some(late) = self.open.get(at).map(|open| open.left) else { return 0 };
        for open in self.open.drain(..=at) {
            (self.acked, self.given_up) = (open.number, open.number);
        }
        self.give_ups += 1;
        self.counted = self.counted.saturating_sub(late);
        self.open.iter_mut().for_each(|open| open.left = open.left.saturating_sub(late));
        late
    }

    /// One more is waited for, for all that is open after the step that it has.
    fn join(&mut self, has: u64) {
        self.counted += 1;
        self.open.iter_mut().filter(|open| open.number > has).for_each(|open| open.left += 1);
    }

    /// One less.
    fn leave(&mut self, has: u64) {
        self.counted = self.counted.saturating_sub(1);
        self.advance(has, u64::MAX);
    }

    /// One that is waited for has gone from one step to another.
    fn advance(&mut self, from: u64, to: u64) {
        let passed = self.open.iter_mut().filter(|open| from < open.number && open.number <= to);
        passed.for_each(|open| open.left = open.left.saturating_sub(1));
    }
}

impl AckSeat {
    /// The client says that it holds something from before this stream: what that is worth nobody knows, so it is waited
    /// for as one that has nothing.
    pub(in crate::server) fn returns(&mut self) {
        let acks = self.acks.clone();
        acks.0.returned.store(true, Ordering::SeqCst);
        let mut tally = acks.lock();
        self.look(&tally);
        if self.counted {
            return;
        }
        (self.counted, self.joined, self.has) = (true, tally.give_ups, 0);
        tally.join(0);
        let last = tally.last;
        if last > 0 && tally.open.back().is_none_or(|open| open.number < last) {
            tally.open.push_back(Open { number: last, since: Instant::now(), left: 1 });
            tally.acked = tally.acked.min(last - 1);
        }
        acks.settle(&mut tally);
    }

    /// The client has acknowledged something.
    pub(in crate::server) fn answers(&mut self) {
        self.answers = true;
    }

    /// The stream has this step, and all before it.
    pub(in crate::server) fn has(&mut self, step: u64) {
        // Nothing new, in nearly all cases.
        if step <= self.has && (self.counted || !self.answers) {
            return;
        }
        let acks = self.acks.clone();
        let mut tally = acks.lock();
        self.look(&tally);
        if self.counted {
            tally.advance(self.has, step);
            self.has = self.has.max(step);
        } else if self.answers && step >= tally.given_up {
            // What is complete is so without it.
            (self.counted, self.joined, self.has) = (true, tally.give_ups, step.max(tally.acked));
            tally.join(self.has);
        } else {
            self.has = self.has.max(step);
        }
        acks.settle(&mut tally);
    }

    /// The last step that it has, if it is waited for.
    pub(in crate::server) fn counts_from(&self) -> Option<u64> {
        self.counted.then_some(self.has)
    }

    /// Finds out whether it was given up.
    fn look(&mut self, tally: &Tally) {
        self.counted &= tally.give_ups == self.joined || self.has >= tally.given_up;
    }
}

impl Drop for AckSeat {
    fn drop(&mut self) {
        let acks = self.acks.clone();
        let mut tally = acks.lock();
        self.look(&tally);
        if self.counted {
            tally.leave(self.has);
            acks.settle(&mut tally);
        }
    }
}

#[cfg(test)]
mod tests;
