use std::{sync::Arc, time::SystemTime};

use super::*;
use crate::hooks::{Notice, backoff};

const PROGRAM: Rules = Rules { lane_per_event: true, room: 1, attempts: 3, backoff: SECONDS };
const WEBHOOK: Rules = Rules { lane_per_event: false, room: 3, attempts: 3, backoff: SECONDS };
const SECONDS: backoff::Config = backoff::Config { initial: Duration::from_secs(1), max: Duration::from_secs(4) };

struct World {
    plan: Plan,
    now: Instant,
}

impl World {
    fn new(rules: Rules) -> Self {
        Self { plan: Plan::new(rules, fastrand::Rng::with_seed(7)), now: Instant::now() }
    }

    /// An event whose serial tells it from others.
    fn offer(&mut self, event: &'static str, serial: &str) -> u32 {
        let mut notice = Notice::new(event, SystemTime::UNIX_EPOCH);
        notice.serial = Some(serial.to_owned());
        self.plan.offer(Arc::new(notice))
    }

    /// What starts now: serial, number of the attempt, and events missed.
    fn due(&mut self) -> Vec<(String, u32, u32)> {
        let runs = self.plan.due(self.now);
        runs.into_iter()
            .map(|run| (run.notice.serial.clone().unwrap(), run.attempt.number, run.attempt.missed))
            .collect()
    }

    /// Time passes until something is due again.
    fn wait(&mut self) -> Duration {
        let before = self.now;
        self.now = self.plan.next_due().expect("nothing is planned").max(self.now);
        self.now - before
    }

    fn succeed(&mut self, lane: &str, missed: u32) {
        self.plan.succeeded(lane, Attempt { number: 1, missed });
    }
}

fn run(serial: &str, attempt: u32, missed: u32) -> (String, u32, u32) {
    (serial.to_owned(), attempt, missed)
}

#[test]
fn a_program_runs_once_a_kind_and_the_newest_waits() {
    let mut world = World::new(PROGRAM);
    assert_eq!(world.offer("renewed", "1"), 0);
    assert_eq!(world.due(), [run("1", 1, 0)]);
    assert_eq!((world.offer("renewed", "2"), world.offer("renewed", "3"), world.offer("renewed", "4")), (0, 1, 1));
    assert_eq!(world.due(), [], "one at a time");
    assert_eq!(world.offer("expired", "5"), 0);
    assert_eq!(world.due(), [run("5", 1, 0)], "another kind does not wait");
    world.succeed("renewed", 0);
    assert_eq!(world.due(), [run("4", 1, 2)], "the newest, which knows what it replaces");
    world.succeed("renewed", 2);
    assert_eq!((world.due(), world.plan.next_due()), (vec![], None));
    world.offer("renewed", "6");
    assert_eq!(world.due(), [run("6", 1, 0)], "what was told is not missed any more");
}

#[test]
fn failures_are_tried_again_with_growing_delays_and_a_bound() {
    let mut world = World::new(PROGRAM);
    world.offer("renewed", "1");
    for (attempt, ceiling) in [(1, 1.0), (2, 2.0)] {
        assert_eq!(world.due(), [run("1", attempt, 0)]);
        let Verdict::Retry(delay) = world.plan.failed("renewed", world.now) else { panic!("not tried again") };
        assert!(delay.as_secs_f64() >= ceiling / 2.0 && delay.as_secs_f64() <= ceiling, "{delay:?}");
        assert_eq!(world.due(), [], "not before the delay is over");
        assert_eq!(world.wait(), delay);
    }
    assert_eq!(world.due(), [run("1", 3, 0)]);
    assert_eq!(world.plan.failed("renewed", world.now), Verdict::GivenUp);
    assert_eq!(world.plan.next_due(), None);
    world.offer("renewed", "2");
    assert!(world.due().is_empty() && world.wait() >= Duration::from_secs(2), "the next event waits as well");
    assert_eq!(world.due(), [run("2", 1, 1)], "with attempts of its own");
    world.succeed("renewed", 1);
    world.offer("renewed", "3");
    assert_eq!(world.due(), [run("3", 1, 0)], "a success ends the waiting");
}

#[test]
fn a_newer_event_replaces_a_failed_one() {
    let mut world = World::new(PROGRAM);
    world.offer("renewed", "1");
    world.due();
    world.offer("renewed", "2");
    assert_eq!(world.plan.failed("renewed", world.now), Verdict::Superseded);
    assert!(world.due().is_empty() && world.wait() > Duration::ZERO);
    assert_eq!(world.due(), [run("2", 1, 1)]);
    // Also while it waits for its next attempt.
    assert!(matches!(world.plan.failed("renewed", world.now), Verdict::Retry(_)));
    assert_eq!(world.offer("renewed", "3"), 1);
    world.wait();
    assert_eq!(world.due(), [run("3", 1, 2)]);
}

#[test]
fn a_webhook_tells_everything_in_order_and_drops_the_oldest() {
    let mut world = World::new(WEBHOOK);
    world.offer("renewed", "1");
    assert_eq!(world.due(), [run("1", 1, 0)]);
    for (event, serial) in [("expired", "2"), ("renewed", "3"), ("renewed", "4")] {
        assert_eq!(world.offer(event, serial), 0);
    }
    assert_eq!(world.due(), [], "one at a time");
    assert_eq!(world.plan.failed("", world.now), Verdict::Superseded, "no room to come back to");
    world.wait();
    assert_eq!(world.due(), [run("2", 1, 1)]);
    assert!(matches!(world.plan.failed("", world.now), Verdict::Retry(_)), "there is room now");
    world.wait();
    assert_eq!(world.due(), [run("2", 2, 1)], "order is kept");
    world.offer("renewed", "5");
    assert_eq!(world.offer("renewed", "6"), 1);
    world.succeed("", 1);
    assert_eq!(world.due(), [run("4", 1, 1)], "3 was dropped");
}

#[test]
fn an_answer_for_nothing_changes_nothing() {
    let mut world = World::new(PROGRAM);
    world.succeed("renewed", 0);
    assert_eq!(world.plan.failed("renewed", world.now), Verdict::GivenUp);
    assert_eq!((world.due(), world.plan.next_due()), (vec![], None));
}
