//! The decision on virtual clocks: what is asked, and what is in service, after each thing that happens.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::identity::{Certificate, CertificateChain, PrivateKey, SpiffeId, Svid, Validity};

/// A story about sources. `t` is in seconds.
struct Story {
    failover: Failover,
    start: Instant,
    t: u64,
    open: Vec<bool>,
    seen: Vec<Sightings>,
}

fn story(count: usize, config: Config) -> Story {
    let mut story = Story {
        failover: Failover::new(config, count),
        start: Instant::now(),
        t: 0,
        open: vec![false; count],
        seen: vec![Sightings::default(); count],
    };
    story.steer();
    story
}

fn config() -> Config {
    Config { lost_after: secs(10), stale_percent: 75, failback_after: secs(60), on_denial: false }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Story {
    fn now(&self) -> Moment {
        Moment { wall: SystemTime::UNIX_EPOCH + secs(1_800_000_000 + self.t), steady: self.start + secs(self.t) }
    }

    /// Identities `/0`, `/1`, ... that live so long from now on.
    fn snapshot(&self, lives: &[u64]) -> IdentitySnapshot {
        let named: Vec<_> = lives.iter().enumerate().map(|(at, life)| (at, 0, *life)).collect();
        self.aged(&named)
    }

    /// Each by its number, how long ago its life began, and how long it lasts from now on.
    fn aged(&self, svids: &[(usize, u64, u64)]) -> IdentitySnapshot {
        let svid = |(number, age, left): &(usize, u64, u64)| {
            let now = self.now().wall;
            let validity = Validity { not_before: now - secs(*age), not_after: now + secs(*left) };
            Arc::new(Svid {
                id: SpiffeId::new(format!("spiffe://example.org/{number}")).unwrap(),
                chain: CertificateChain::new(Certificate::from_der(format!("{validity:?}").as_bytes()), vec![]),
                key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
                hint: None,
                validity,
            })
        };
        IdentitySnapshot { svids: svids.iter().map(svid).collect(), ..IdentitySnapshot::default() }
    }

    /// As the supervisor does after each thing that happens.
    fn steer(&mut self) -> Option<(usize, Option<SwitchReason>)> {
        let now = self.now();
        let switch = self.failover.decide(now);
        if let Some(switch) = switch {
            self.failover.switched(switch.to, now);
        }
        assert_eq!(self.failover.decide(now), None, "one switch at a time");
        for index in 0..self.open.len() {
            let wanted = self.failover.wants(index, now);
            if wanted && !self.open[index] {
                self.failover.on_opened(index, now);
            } else if !wanted && self.open[index] {
                self.failover.on_closed(index);
            }
            self.open[index] = wanted;
        }
        switch.map(|switch| (switch.to, switch.from.map(|(_, reason)| reason)))
    }

    /// A source delivers SVIDs of this life.
    fn says(&mut self, index: usize, lives: &[u64]) -> Option<(usize, Option<SwitchReason>)> {
        let snapshot = self.snapshot(lives);
        self.gives(index, &snapshot)
    }

    /// A source delivers an SVID that lives for an hour and has so many seconds left of it.
    fn says_late(&mut self, index: usize, left: u64) -> Option<(usize, Option<SwitchReason>)> {
        let snapshot = self.aged(&[(0, 3600 - left, left)]);
        self.gives(index, &snapshot)
    }

    fn gives(&mut self, index: usize, snapshot: &IdentitySnapshot) -> Option<(usize, Option<SwitchReason>)> {
        assert!(self.open[index], "{index} is not even asked");
        let now = self.now();
        self.seen[index].note(&snapshot.svids, now.wall);
        self.failover.on_snapshot(index, snapshot, &self.seen[index], now);
        self.steer()
    }

    fn fails(&mut self, index: usize, kind: ErrorKind) -> Option<(usize, Option<SwitchReason>)> {
        let now = self.now();
        self.failover.on_failure(index, kind, now);
        self.steer()
    }

    fn down(&mut self, index: usize) -> Option<(usize, Option<SwitchReason>)> {
        self.fails(index, ErrorKind::Transient)
    }

    /// Lets the time pass to `t`, from alarm to alarm. The switches on the way, with their times.
    fn at(&mut self, t: u64) -> Vec<(u64, usize, SwitchReason)> {
        let mut switches = Vec::new();
        while self.t < t {
            let now = self.now();
            let (wall, steady) = self.failover.next_alarm(now);
            let wall = wall.map(|at| at.duration_since(now.wall).unwrap().as_millis().div_ceil(1000) as u64);
            let steady = steady.map(|at| (at - now.steady).as_secs());
            let nap = wall.into_iter().chain(steady).min().unwrap_or(u64::MAX);
            assert!(nap > 0, "an alarm for now is no alarm");
            self.t = self.t.saturating_add(nap).min(t);
            if let Some((to, reason)) = self.steer() {
                switches.push((self.t, to, reason.unwrap()));
            }
        }
        switches
    }

    fn asked(&self) -> Vec<usize> {
        (0..self.open.len()).filter(|index| self.open[*index]).collect()
    }
}

#[test]
fn only_the_preferred_one_is_asked_while_all_is_well() {
    let mut story = story(3, config());
    assert_eq!(story.asked(), [0]);
    assert_eq!(story.says(0, &[3600]), Some((0, None)));
    for t in (600..36_000).step_by(1800) {
        assert!(story.at(t).is_empty());
        assert_eq!(story.says(0, &[3600]), None);
        assert_eq!(story.asked(), [0]);
    }
}

#[test]
fn at_the_start_one_failure_or_a_long_silence_is_enough() {
    let mut refused = story(3, config());
    refused.down(0);
    assert_eq!(refused.asked(), [0, 1]);
    refused.down(1);
    assert_eq!(refused.asked(), [0, 1, 2]);
    assert_eq!(refused.says(2, &[3600]), Some((2, Some(SwitchReason::Lost))));

    let mut silent = story(2, config());
    silent.at(9);
    assert_eq!(silent.asked(), [0]);
    silent.at(10);
    assert_eq!(silent.asked(), [0, 1]);
    assert_eq!(silent.says(0, &[3600]), Some((0, None)), "it was just slow");
    assert_eq!(silent.asked(), [0]);
}

#[test]
fn a_restart_is_waited_for_and_a_loss_is_not() {
    let mut story = story(2, config());
    story.says(0, &[3600]);
    story.at(100);
    story.down(0);
    assert!(story.at(109).is_empty());
    assert_eq!((story.says(0, &[3600]), story.asked()), (None, vec![0]), "it is back");

    story.at(200);
    story.down(0);
    assert!(story.at(209).is_empty());
    assert_eq!(story.asked(), [0]);
    story.down(0);
    assert!(story.at(210).is_empty());
    assert_eq!(story.asked(), [0, 1], "ten seconds after the first failure, not the last");
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Lost))));
    assert_eq!(story.asked(), [0, 1], "the preferred one is looked for");
}

#[test]
fn the_preferred_one_is_back_after_it_was_good_for_long_enough() {
    let mut story = story(2, config());
    story.down(0);
    story.says(1, &[36_000]);
    story.at(100);
    assert_eq!(story.says(0, &[36_000]), None);
    assert!(story.at(150).is_empty());
    story.down(0);
    assert!(story.at(155).is_empty());
    assert_eq!(story.says(0, &[36_000]), None, "it has to start again");
    assert_eq!(story.at(300), [(215, 0, SwitchReason::Preferred)]);
    assert_eq!(story.asked(), [0], "and the other one is let go");
}

#[test]
fn a_source_that_flaps_never_comes_back() {
    let mut story = story(2, config());
    story.down(0);
    story.says(1, &[1_000_000]);
    for t in (0..10_000).step_by(50) {
        assert!(story.at(t).is_empty());
        assert_eq!(story.says(0, &[3600]), None);
        assert!(story.at(t + 30).is_empty());
        assert_eq!(story.down(0), None);
    }
}

#[test]
fn the_preferred_one_serves_before_its_time_if_the_other_is_lost() {
    let mut story = story(2, config());
    story.down(0);
    story.says(1, &[36_000]);
    story.at(20);
    story.says(0, &[36_000]);
    story.at(30);
    story.down(1);
    assert_eq!(story.at(100), [(40, 0, SwitchReason::Lost)]);
}

#[test]
fn one_that_does_not_renew_is_left_for_something_fresher_only() {
    let mut story = story(2, config());
    story.says(0, &[7200, 1000]);
    assert!(story.at(749).is_empty());
    assert_eq!(story.asked(), [0]);
    story.at(750);
    assert_eq!(story.asked(), [0, 1], "the first SVID counts");
    assert_eq!(story.says_late(1, 800), None, "that one is late too");
    assert_eq!(story.says(1, &[1000]), None, "for one that is late no other is taken away");
    story.t += 10;
    assert_eq!(story.says(1, &[1000, 900]), Some((1, Some(SwitchReason::Stale))));
    assert_eq!(story.asked(), [0, 1]);
    assert!(story.at(800).is_empty(), "connected for long, but that alone proves nothing");
    assert_eq!(story.says(0, &[1000, 1000]), None);
    assert_eq!(story.at(1000), [(860, 0, SwitchReason::Preferred)]);
}

#[test]
fn nothing_better_changes_nothing() {
    let mut story = story(2, config());
    story.says(0, &[1000]);
    story.at(100);
    story.down(0);
    story.at(110);
    story.down(1);
    assert!(story.at(5000).is_empty());
    assert_eq!((story.failover.active(), story.asked()), (Some(0), vec![0, 1]));
    assert_eq!(story.says(0, &[1000]), None);
    assert_eq!(story.asked(), [0]);
}

#[test]
fn a_denial_is_an_answer() {
    let mut story = story(2, config());
    story.fails(0, ErrorKind::NotEntitled);
    story.at(1000);
    assert_eq!(story.asked(), [0]);
    story.says(0, &[3600]);
    story.fails(0, ErrorKind::NotEntitled);
    story.at(2000);
    assert_eq!(story.asked(), [0]);
    story.down(0);
    story.at(2010);
    assert_eq!(story.asked(), [0, 1], "until it is not even there");
}

#[test]
fn a_denial_can_be_made_a_loss() {
    let mut story = story(2, Config { on_denial: true, ..config() });
    story.says(0, &[3600]);
    story.fails(0, ErrorKind::NotEntitled);
    assert_eq!(story.asked(), [0, 1]);
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Denied))));
    // Bundles alone are the same statement.
    assert_eq!(story.says(0, &[]), None);
    assert!(story.at(1000).is_empty());
    assert_eq!(story.says(0, &[3600]), None);
    assert_eq!(story.at(1100), [(1060, 0, SwitchReason::Preferred)]);
}

#[test]
fn bundles_alone_never_replace_an_identity() {
    let mut story = story(2, config());
    story.says(0, &[3600]);
    story.down(0);
    story.at(10);
    assert_eq!(story.says(1, &[]), None);
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Lost))));
}

#[test]
fn verifiers_fail_over_too() {
    let mut story = story(2, config());
    assert_eq!(story.says(0, &[]), Some((0, None)));
    assert!(story.at(100_000).is_empty(), "bundles are never late");
    story.down(0);
    story.at(100_010);
    assert_eq!(story.says(1, &[]), Some((1, Some(SwitchReason::Lost))));
    story.says(0, &[]);
    story.at(100_040);
    story.says(0, &[]);
    assert_eq!(story.at(100_100), [(100_070, 0, SwitchReason::Preferred)], "its updates do not start it again");
}

#[test]
fn of_many_the_best_that_works_serves() {
    let mut story = story(4, config());
    story.says(0, &[36_000]);
    story.down(0);
    story.at(10);
    assert_eq!(story.asked(), [0, 1]);
    story.down(1);
    assert_eq!(story.asked(), [0, 1, 2], "one failure of a standby is enough");
    story.says(2, &[36_000]);
    assert_eq!(story.asked(), [0, 1, 2], "the last one is not needed");
    story.at(20);
    story.says(1, &[36_000]);
    assert_eq!(story.at(100), [(80, 1, SwitchReason::Preferred)]);
    assert_eq!(story.asked(), [0, 1]);
}

#[test]
fn what_is_late_serves_where_there_is_nothing_better() {
    for left in [800, 300, 10, 1] {
        let mut alone = story(1, config());
        assert_eq!(alone.says_late(0, left), Some((0, None)), "{left} s left");
        assert!(alone.at(3600).is_empty());
    }
    let mut both = story(2, config());
    assert_eq!(both.says_late(0, 500), Some((0, None)));
    assert_eq!(both.asked(), [0, 1], "something fresher is looked for");
    assert_eq!(both.says_late(1, 600), None, "the preferred one of two that are late serves");
    assert!(both.at(319).is_empty());
    assert_eq!(both.at(500), [(320, 1, SwitchReason::Stale)], "until it is about to end");
}

#[test]
fn what_is_late_is_left_for_something_fresher_and_not_for_less() {
    let mut story = story(2, config());
    assert_eq!(story.says_late(0, 500), Some((0, None)));
    assert_eq!(story.says(1, &[]), None, "bundles alone are less");
    assert_eq!(story.says_late(1, 900), None, "late as well");
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Stale))));
}

#[test]
fn two_that_are_late_in_turns_do_not_go_back_and_forth() {
    let mut story = story(2, config());
    let stuck = story.aged(&[(0, 100_000, 30_000)]);
    assert_eq!(story.gives(0, &stuck), Some((0, None)));
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Stale))));
    for round in 1..6 {
        // It renews, but late each time; the preferred one never does.
        assert!(story.at(round * 3000).is_empty(), "{round}");
        assert_eq!(story.says(1, &[3600]), None);
    }
    assert_eq!(story.says(0, &[36_000]), None);
    assert_eq!(story.at(15_100), [(15_060, 0, SwitchReason::Preferred)], "until it does");
}

#[test]
fn a_new_certificate_with_an_old_beginning_is_not_late() {
    let mut story = story(2, config());
    // The issuer sets its beginning back by an hour. How old the first one is nobody knows.
    let first = story.aged(&[(0, 3600, 300)]);
    assert_eq!(story.gives(0, &first), Some((0, None)));
    for round in 1..5 {
        story.at(round * 150);
        let renewed = story.aged(&[(0, 3600, 300)]);
        assert_eq!(story.gives(0, &renewed), None);
        assert_eq!(story.asked(), [0], "round {round}");
    }
    assert!(story.at(4 * 150 + 224).is_empty());
    assert_eq!(story.asked(), [0]);
    story.at(4 * 150 + 225);
    assert_eq!(story.asked(), [0, 1], "three quarters of what was left when it came");
}

#[test]
fn of_several_identities_each_counts_for_itself() {
    let mut story = story(2, config());
    let mixed = story.aged(&[(0, 0, 3600), (1, 3500, 100)]);
    assert_eq!(story.gives(0, &mixed), Some((0, None)), "one that is late withholds no other");
    let fewer = story.aged(&[(0, 0, 3600)]);
    assert_eq!(story.gives(1, &fewer), None, "what is valid is not given up");
    story.at(100);
    assert_eq!(story.failover.active(), Some(1), "the other one is over, and this one has all that is left");
}

#[test]
fn a_lost_source_is_kept_while_the_others_have_only_worse() {
    let mut story = story(2, config());
    story.says(0, &[3600]);
    story.down(0);
    story.at(10);
    assert_eq!(story.says_late(1, 800), None);
    assert_eq!(story.says(1, &[3600]), Some((1, Some(SwitchReason::Lost))));
}
