use super::*;
use crate::secret::fixture;

const HOLD: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(5);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn snapshot(leaf: &str, bundles: &[(&str, &[&str])]) -> IdentitySnapshot {
    fixture::snapshot(&[("spiffe://example.org/w", leaf)], bundles)
}

/// Of labels: `l1@a` is signed by `a`, of others nobody knows.
pub(super) fn by_label(authority: &Certificate, chain: &CertificateChain) -> bool {
    let text = |certificate: &Certificate| String::from_utf8_lossy(certificate.der()).into_owned();
    chain.iter().any(|certificate| text(certificate).split_once('@').is_some_and(|(_, by)| by == text(authority)))
}

/// A roll-out, its clients' answers, and what they were given.
struct Line {
    rollout: Rollout,
    now: Duration,
    number: u64,
    acked: u64,
    /// Whether clients answer at once.
    prompt: bool,
    target: Arc<IdentitySnapshot>,
    given: Vec<String>,
}

impl Line {
    /// `first` is out, and everybody who was to come back has.
    fn with(first: IdentitySnapshot) -> Self {
        let timing = Timing { hold: HOLD, max_wait: MAX };
        let rollout = Rollout { vouches: by_label, ..Rollout::new(timing) };
        let target = Arc::new(IdentitySnapshot::default());
        let (now, number, acked) = (Duration::ZERO, 0, 0);
        let mut line = Self { rollout, now, number, acked, prompt: true, target, given: Vec::new() };
        line.says(first);
        line.passes(20.0);
        line.given.clear();
        line
    }

    fn says(&mut self, target: IdentitySnapshot) {
        self.target = Arc::new(target);
        self.goes();
    }

    /// Publishes what is due.
    fn goes(&mut self) -> Option<Hold> {
        let mut kept = self.rollout.returning.is_some();
        for _ in 0..9 {
            let plan = self.rollout.plan(&self.target, self.acked, self.now);
            self.acked = self.acked.max(plan.overdue.unwrap_or_default());
            let released = kept && !plan.keeps_back;
            let again = || self.rollout.published().filter(|_| released).cloned();
            let Some(step) = plan.step.or_else(again) else { return plan.hold };
            self.number += 1;
            self.given.push(fixture::shown(&step));
            self.rollout.took(&step, plan.keeps_back, self.number, self.now);
            kept = plan.keeps_back;
            if self.prompt {
                self.acked = self.number;
            }
        }
        panic!("never done: {:?}", self.given);
    }

    /// So much time, in which it is asked again when it wants to be.
    fn passes(&mut self, time: f64) {
        let end = self.now + seconds(time);
        while let Some(hold) = self.goes().filter(|hold| hold.until <= end) {
            assert!(hold.until > self.now, "{hold:?}");
            self.now = hold.until;
        }
        self.now = end;
        self.goes();
    }

    fn acks(&mut self) {
        self.acked = self.number;
        self.goes();
    }

    #[track_caller]
    fn gave(&mut self, expected: &[&str]) {
        assert_eq!(self.given, expected, "at {:?}", self.now);
        self.given.clear();
    }
}

/// Everything that a client is given when all answer at once and time passes.
fn all(old: &IdentitySnapshot, new: &IdentitySnapshot) -> Vec<String> {
    let mut line = Line::with(old.clone());
    line.says(new.clone());
    line.passes(20.0);
    line.given
}

#[test]
fn nothing_new_is_no_step() {
    let state = snapshot("l1", &[("example.org", &["a"])]);
    assert!(all(&state, &state).is_empty());
}

#[test]
fn a_new_leaf_goes_out_at_once() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.prompt = false;
    line.says(snapshot("l2", &[("example.org", &["a"])]));
    line.gave(&["l2 example.org=a"]);
    line.says(snapshot("l3", &[("example.org", &["a"])]));
    line.gave(&["l3 example.org=a"]);
}

#[test]
fn trust_grows_before_the_leaf_and_shrinks_after_it() {
    let old = snapshot("l1", &[("example.org", &["a"])]);
    let new = snapshot("l2", &[("example.org", &["b"])]);
    assert_eq!(all(&old, &new), ["l1 example.org=a,b", "l2 example.org=a,b", "l2 example.org=b"]);
}

#[test]
fn growth_alone_and_shrinking_alone_are_one_step() {
    let one = snapshot("l1", &[("example.org", &["a"])]);
    let two = snapshot("l1", &[("example.org", &["a", "b"])]);
    assert_eq!(all(&one, &two), ["l1 example.org=a,b"]);
    let mut line = Line::with(two);
    line.says(one);
    line.gave(&["l1 example.org=a"]);
}

#[test]
fn replaced_trust_overlaps_even_without_a_new_leaf() {
    let old = snapshot("l1", &[("example.org", &["a"])]);
    let new = snapshot("l1", &[("example.org", &["b"])]);
    assert_eq!(all(&old, &new), ["l1 example.org=a,b", "l1 example.org=b"]);
}

#[test]
fn each_step_waits_for_the_acknowledgements_of_the_one_before() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.prompt = false;
    line.says(snapshot("l2", &[("example.org", &["b"])]));
    line.gave(&["l1 example.org=a,b"]);
    line.passes(4.9);
    line.gave(&[]);
    line.acks();
    line.gave(&["l2 example.org=a,b"]);
    line.passes(4.9);
    line.gave(&[]);
    line.acks();
    line.gave(&["l2 example.org=b"]);
    assert!(line.rollout.leaving.is_empty() && line.goes().is_none());
}

#[test]
fn acknowledgements_do_not_shorten_the_hold() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.says(snapshot("l2", &[("example.org", &["b"])]));
    line.gave(&["l1 example.org=a,b"]);
    line.passes(0.249);
    line.gave(&[]);
    line.passes(0.001);
    line.gave(&["l2 example.org=a,b"]);
    line.passes(0.249);
    line.gave(&[]);
    line.passes(0.001);
    line.gave(&["l2 example.org=b"]);
}

#[test]
fn who_does_not_acknowledge_holds_each_step_for_a_bounded_time() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.prompt = false;
    line.says(snapshot("l2", &[("example.org", &["b"])]));
    line.passes(4.999);
    line.gave(&["l1 example.org=a,b"]);
    line.passes(0.001);
    line.gave(&["l2 example.org=a,b"]);
    assert_eq!(line.acked, line.number - 1, "and is said to be late");
    line.passes(5.0);
    line.gave(&["l2 example.org=b"]);
}

#[test]
fn a_certificate_waits_for_its_own_authority_only() {
    let own: (&str, &[&str]) = ("example.org", &["a"]);
    let mut line = Line::with(snapshot("l1", &[own, ("other.org", &["x"])]));
    line.prompt = false;
    // Nobody acknowledges anything, and all the time another bundle grows.
    for (round, more) in ["y1", "y2", "y3", "y4"].into_iter().enumerate() {
        line.says(snapshot(&format!("l{}", round + 2), &[own, ("other.org", &["x", more])]));
        line.passes(0.1);
    }
    let leaves: Vec<_> = line.given.iter().map(|given| given.split(' ').next().unwrap()).collect();
    assert_eq!(leaves, ["l2", "l3", "l4", "l5"], "{:?}", line.given);

    // The own one too, with authorities that vouch for nothing yet.
    line.given.clear();
    line.says(snapshot("l6@a", &[("example.org", &["a", "b"]), ("other.org", &["x"])]));
    assert!(line.given[0].starts_with("l6@a example.org=a,b "), "{:?}", line.given);
    line.given.clear();
    line.says(snapshot("l7@b", &[("example.org", &["a", "b", "c"]), ("other.org", &["x"])]));
    assert!(line.given[0].starts_with("l6@a example.org=a,b,c "), "{:?}", line.given);
}

#[test]
fn one_identity_does_not_wait_for_the_authority_of_another() {
    let state = |one, other, own: &[&str], far: &[&str]| {
        let ids = [("spiffe://example.org/w", one), ("spiffe://far.org/w", other)];
        fixture::snapshot(&ids, &[("example.org", own), ("far.org", far)])
    };
    let mut line = Line::with(state("l1", "f1", &["a"], &["x"]));
    line.prompt = false;
    line.says(state("l2", "f2", &["a"], &["x", "y"]));
    line.gave(&["l2,f1 example.org=a far.org=x,y"]);
    line.passes(0.3);
    line.acks();
    line.gave(&["l2,f2 example.org=a far.org=x,y"]);
}

#[test]
fn an_identity_that_takes_the_place_of_another_takes_it_when_it_can() {
    let state = |id, leaf, own: &[&str]| fixture::snapshot(&[(id, leaf)], &[("example.org", own)]);
    let mut line = Line::with(state("spiffe://example.org/old", "l1", &["a"]));
    line.says(state("spiffe://example.org/new", "l2", &["a", "b"]));
    line.gave(&["l1 example.org=a,b"]);
    line.passes(0.25);
    line.gave(&["l2 example.org=a,b"]);
    // Where it is ready there is nothing in between.
    line.says(state("spiffe://example.org/third", "l3", &["a", "b"]));
    line.gave(&["l3 example.org=a,b"]);
}

#[test]
fn two_of_one_name_are_told_apart_by_their_hints() {
    let state = |leaves: [&str; 2], own: &[&str]| {
        let mut state = fixture::snapshot(
            &[("spiffe://example.org/w", leaves[0]), ("spiffe://example.org/w", leaves[1])],
            &[("example.org", own)],
        );
        Arc::make_mut(&mut state.svids[1]).hint = crate::identity::Hint::new("second");
        state
    };
    let mut line = Line::with(state(["l1@a", "m1@a"], &["a"]));
    line.says(state(["l2@b", "m2@a"], &["a", "b"]));
    line.gave(&["l1@a,m2@a example.org=a,b"]);
    line.passes(0.25);
    line.gave(&["l2@b,m2@a example.org=a,b"]);
}

#[test]
fn what_arrives_during_a_hold_is_taken_up_at_its_end() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.says(snapshot("l2", &[("example.org", &["a", "b"])]));
    line.passes(0.1);
    line.says(snapshot("l3", &[("example.org", &["a", "b"])]));
    line.gave(&["l1 example.org=a,b"]);
    line.passes(0.15);
    line.gave(&["l3 example.org=a,b"]);
}

#[test]
fn what_is_taken_back_during_a_hold_was_never_there() {
    let old = snapshot("l1", &[("example.org", &["a"])]);
    let mut line = Line::with(old.clone());
    line.says(snapshot("l2", &[("example.org", &["b"])]));
    line.passes(0.1);
    line.says(old);
    line.gave(&["l1 example.org=a,b"]);
    line.passes(20.0);
    line.gave(&["l1 example.org=a"]);
}

#[test]
fn changes_without_end_postpone_no_withdrawal_and_no_certificate() {
    let mut line = Line::with(snapshot("l0", &[("example.org", &["a"])]));
    line.prompt = false;
    let mut withdrawn = None;
    for round in 1..=200 {
        let newest = format!("b{round}");
        line.says(snapshot(&format!("l{round}"), &[("example.org", &[&newest])]));
        line.passes(0.1);
        let last = fixture::shown(line.rollout.published().unwrap());
        if !last.contains("=a") {
            withdrawn.get_or_insert(line.now);
        }
    }
    let leaves: std::collections::BTreeSet<_> = line.given.iter().map(|given| given.split(' ').next()).collect();
    assert!(leaves.len() > 2, "each is out after five seconds: {leaves:?}");
    assert!(withdrawn.unwrap() <= seconds(20.0) + 3 * MAX, "{withdrawn:?}");
}

#[test]
fn leaves_that_follow_each_other_fast_do_not_postpone_a_withdrawal() {
    let mut line = Line::with(snapshot("l1@b", &[("example.org", &["a", "b"])]));
    for round in 2..6 {
        line.says(snapshot(&format!("l{round}@b"), &[("example.org", &["b"])]));
        line.passes(0.1);
    }
    assert_eq!(line.given.iter().filter(|given| given.ends_with("=b")).count(), 2, "{:?}", line.given);
}

#[test]
fn a_withdrawn_trust_domain_stays_as_one_that_trusts_nobody() {
    let old = snapshot("l1", &[("example.org", &["a"]), ("other.org", &["x"])]);
    let new = snapshot("l1", &[("example.org", &["a"])]);
    let mut line = Line::with(old);
    line.says(new.clone());
    line.gave(&["l1 example.org=a other.org="]);
    line.says(new);
    line.gave(&[]);
}

#[test]
fn lists_count_for_as_long_as_their_authority_does() {
    let list = |text: &str| -> Arc<[u8]> { Arc::from(text.as_bytes()) };
    let with = |leaf, own: &[&str], lists: &[&str]| {
        let crls = lists.iter().map(|text| list(text)).collect();
        IdentitySnapshot { crls, ..snapshot(leaf, &[("example.org", own)]) }
    };
    let mut line = Line::with(with("l1", &["a"], &["of a"]));
    let lists = |line: &Line| line.rollout.published().unwrap().crls.clone();
    line.says(with("l2", &["b"], &["of b"]));
    assert_eq!(lists(&line), [list("of a"), list("of b")], "trust has grown");
    line.passes(0.25);
    assert_eq!(lists(&line), [list("of a"), list("of b")], "the certificate has changed");
    line.passes(0.25);
    assert_eq!(lists(&line), [list("of b")], "trust has shrunk");
    line.gave(&["l1 example.org=a,b", "l2 example.org=a,b", "l2 example.org=b"]);
    // A list alone goes out at once.
    line.says(with("l2", &["b"], &["of b, newer"]));
    assert_eq!(lists(&line), [list("of b, newer")]);
}

#[test]
fn who_comes_back_after_a_start_is_waited_for() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.rollout = Rollout { vouches: by_label, ..Rollout::new(line.rollout.timing) };
    (line.now, line.prompt) = (Duration::ZERO, false);
    line.says(snapshot("l2", &[("example.org", &["a", "b"])]));
    line.gave(&["l2 example.org=a,b"]);
    let kept = |line: &mut Line| line.rollout.plan(&line.target.clone(), line.acked, line.now).keeps_back;
    assert!(kept(&mut line), "but not for them");
    line.passes(0.5);
    line.acked = line.number;
    line.passes(0.499);
    assert!(kept(&mut line), "half of them are still away");
    line.passes(0.001);
    assert!(!kept(&mut line));
    line.gave(&["l2 example.org=a,b"]);

    // One that does not answer.
    line.rollout = Rollout { vouches: by_label, ..Rollout::new(line.rollout.timing) };
    (line.now, line.acked) = (Duration::ZERO, line.number);
    line.goes();
    line.passes(4.999);
    assert!(kept(&mut line));
    line.passes(0.001);
    assert!(!kept(&mut line));
}

#[test]
fn nothing_is_withdrawn_from_who_comes_back_before_its_certificates_have_changed() {
    let mut line = Line::with(snapshot("l1", &[("example.org", &["a"])]));
    line.rollout = Rollout { vouches: by_label, ..Rollout::new(line.rollout.timing) };
    line.now = Duration::ZERO;
    // As from disk, and then from the source.
    line.says(snapshot("l1", &[("example.org", &["a"])]));
    line.passes(0.1);
    line.given.clear();
    line.says(snapshot("l2", &[("example.org", &["b"])]));
    line.passes(0.899);
    line.gave(&["l1 example.org=a,b", "l2 example.org=a,b"]);
    assert_eq!(line.goes().map(|hold| hold.reason), Some(HoldReason::Withdrawal));
    line.passes(0.001);
    line.gave(&["l2 example.org=a,b"]);
    line.passes(0.249);
    line.gave(&[]);
    line.passes(0.001);
    line.gave(&["l2 example.org=b"]);
}

#[test]
fn after_a_denial_trust_goes_first_and_what_was_trusted_goes_last() {
    let mut line = Line::with(snapshot("l1@a", &[("example.org", &["a"])]));
    line.rollout.deny();
    assert!(line.rollout.published().is_none());
    line.says(snapshot("l2@b", &[("example.org", &["b"])]));
    line.gave(&[" example.org=a,b"]);
    line.passes(0.249);
    line.gave(&[]);
    line.passes(0.001);
    line.gave(&["l2@b example.org=a,b"]);
    line.passes(0.25);
    line.gave(&["l2@b example.org=b"]);

    // The same again is news too, because everything was taken away.
    line.rollout.deny();
    line.says(snapshot("l2@b", &[("example.org", &["b"])]));
    line.gave(&["l2@b example.org=b"]);
    assert!(line.rollout.plan(&line.target.clone(), line.acked, line.now).keeps_back);
}

#[test]
fn each_step_changes_one_kind_of_thing() {
    let old = snapshot("l1", &[("example.org", &["a"]), ("other.org", &["x"])]);
    let new = snapshot("l2", &[("example.org", &["b"])]);
    let none = Change::default();
    assert_eq!(Change::between(&new, &new), none);
    let grows = Change { trust_grows: true, ..none };
    let union = snapshot("l1", &[("example.org", &["a", "b"]), ("other.org", &["x"])]);
    assert_eq!(Change::between(&old, &union), grows);
    assert_eq!(Change::between(&union, &old), Change { trust_shrinks: true, ..none });
    let changed = snapshot("l2", &[("example.org", &["a", "b"]), ("other.org", &["x"])]);
    assert_eq!(Change::between(&union, &changed), Change { certificates: true, ..none });
    assert_eq!(Change::between(&changed, &new), Change { trust_shrinks: true, ..none });
}
