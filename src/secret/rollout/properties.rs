//! Whatever a source says, whenever clients answer: no certificate is faster than the trust that it needs, and nothing
//! waits for ever.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{tests::by_label, *};
use crate::secret::fixture;

const TIMING: Timing = Timing { hold: Duration::from_millis(200), max_wait: Duration::from_millis(1000) };

#[derive(Clone, Debug)]
enum Act {
    /// The source's authorities of the own and of another trust domain, and who has signed the leaf.
    Says {
        own: u8,
        other: u8,
        by: u8,
    },
    /// The clients have the step that is so many behind the last one.
    Acks(u64),
    /// Milliseconds.
    Passes(u64),
    Denies,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..16_u8, 0..16_u8, 0..4_u8).prop_map(|(own, other, by)| Act::Says { own, other, by }),
        4 => (0..3_u64).prop_map(Act::Acks),
        5 => (0..600_u64).prop_map(Act::Passes),
        1 => Just(Act::Denies),
    ]
}

fn labels(bits: u8, letter: char) -> Vec<String> {
    (0..4).filter(|bit| bits & (1 << bit) != 0).map(|bit| format!("{letter}{bit}")).collect()
}

/// The clients' side: when each authority of the own trust domain was given to them, and with which step.
struct Check {
    rollout: Rollout,
    now: Duration,
    number: u64,
    acked: u64,
    kept: bool,
    target: Option<Arc<IdentitySnapshot>>,
    /// Since when the source has been saying the same.
    since: Duration,
    /// Since when it names this leaf's name with something else than what is published.
    waiting: Option<Duration>,
    /// `None` for those of the first step.
    out: BTreeMap<String, Option<(u64, Duration)>>,
    unwanted: BTreeMap<String, Duration>,
}

impl Check {
    fn goes(&mut self) -> Result<(), TestCaseError> {
        let Some(target) = self.target.clone() else { return Ok(()) };
        for _ in 0..9 {
            let plan = self.rollout.plan(&target, self.acked, self.now);
            self.acked = self.acked.max(plan.overdue.unwrap_or_default());
            let released = self.kept && !plan.keeps_back;
            let again = || self.rollout.published().filter(|_| released).cloned();
            let Some(step) = plan.step.or_else(again) else { return Ok(()) };
            self.number += 1;
            self.given(&step)?;
            self.rollout.took(&step, plan.keeps_back, self.number, self.now);
            self.kept = plan.keeps_back;
        }
        prop_assert!(false, "never done");
        Ok(())
    }

    /// A step reaches clients.
    fn given(&mut self, step: &IdentitySnapshot) -> Result<(), TestCaseError> {
        let before = self.rollout.published().cloned();
        let leaf = |state: &IdentitySnapshot| state.svids.first().map(|svid| svid.chain.clone());
        let td = TrustDomain::new("example.org").unwrap();
        let own: Vec<String> = step.bundles.get(&td).iter().flat_map(|bundle| bundle.authorities()).map(text).collect();
        let (first, chain) = (self.out.is_empty(), leaf(step));
        if let Some(chain) = chain.filter(|chain| before.as_deref().and_then(leaf).as_ref() != Some(chain) && !first) {
            let label = text(chain.leaf());
            let by = label.split_once('@').unwrap().1;
            let waited = self.waiting.is_some_and(|since| since + TIMING.max_wait <= self.now);
            let over = |(step, at): &(u64, Duration)| {
                *at + TIMING.max_wait <= self.now || *at + TIMING.hold <= self.now && *step <= self.acked
            };
            let everywhere = |name: &String| self.out.get(name).is_some_and(|out| out.as_ref().is_none_or(over));
            let vouched = own.iter().filter(|name| *name == by).any(everywhere);
            // By nobody known: all of the trust domain count.
            prop_assert!(waited || vouched || own.iter().all(everywhere), "{label} is too early at {:?}", self.now);
        }
        self.out.retain(|name, _| own.contains(name));
        for name in own {
            self.out.entry(name).or_insert((!first).then_some((self.number, self.now)));
        }
        Ok(())
    }

    /// Nothing has been waiting for too long.
    fn ends(&mut self) -> Result<(), TestCaseError> {
        let Some(target) = self.target.clone() else { return Ok(()) };
        let Some(published) = self.rollout.published() else { return Ok(()) };
        let behind = published.svids != target.svids;
        self.waiting = behind.then(|| self.waiting.unwrap_or(self.now));
        if let Some(since) = self.waiting {
            prop_assert!(self.now < since + TIMING.max_wait, "a certificate waits since {since:?} at {:?}", self.now);
        }
        let names = |state: &IdentitySnapshot| -> Vec<String> {
            state.bundles.values().flat_map(|bundle| bundle.authorities()).map(text).collect()
        };
        let wanted = names(&target);
        let unwanted: Vec<_> = names(published).into_iter().filter(|name| !wanted.contains(name)).collect();
        self.unwanted.retain(|name, _| unwanted.contains(name));
        for name in unwanted {
            let since = *self.unwanted.entry(name.clone()).or_insert(self.now);
            let bound = since + 3 * TIMING.max_wait.max(RECONNECT);
            prop_assert!(self.now < bound, "{name} is trusted since {since:?} at {:?}", self.now);
        }
        Ok(())
    }

    /// Time goes on, and it is asked whenever it wants to be.
    fn passes(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        while let Some(target) = self.target.clone() {
            self.goes()?;
            self.ends()?;
            let hold = self.rollout.plan(&target, self.acked, self.now).hold;
            let Some(until) = hold.map(|hold| hold.until).filter(|until| *until <= end) else { break };
            prop_assert!(until > self.now, "it asks to be asked at once: {hold:?}");
            self.now = until;
        }
        self.now = end;
        self.goes()?;
        self.ends()
    }
}

fn text(certificate: &Certificate) -> String {
    String::from_utf8_lossy(certificate.der()).into_owned()
}

proptest! {
    #[test]
    fn order_and_bounds_hold(actions in proptest::collection::vec(act(), 1..60)) {
        let rollout = Rollout { vouches: by_label, ..Rollout::new(TIMING) };
        let zero = Duration::ZERO;
        let mut check = Check {
            rollout, now: zero, number: 0, acked: 0, kept: false, target: None, since: zero, waiting: None,
            out: BTreeMap::new(), unwanted: BTreeMap::new(),
        };
        for (at, action) in actions.into_iter().enumerate() {
            match action {
                Act::Says { own, other, by } => {
                    let (own, other) = (labels(own, 'a'), labels(other, 'x'));
                    let leaf = format!("l{at}@a{by}");
                    let own: Vec<_> = own.iter().map(String::as_str).collect();
                    let other: Vec<_> = other.iter().map(String::as_str).collect();
                    let bundles: [(&str, &[&str]); 2] = [("example.org", &own), ("other.org", &other)];
                    let target = fixture::snapshot(&[("spiffe://example.org/w", &leaf)], &bundles);
                    check.target = Some(Arc::new(target));
                    check.since = check.now;
                }
                Act::Acks(back) => check.acked = check.acked.max(check.number.saturating_sub(back)),
                Act::Passes(ms) => check.passes(Duration::from_millis(ms))?,
                Act::Denies => {
                    check.rollout.deny();
                    (check.target, check.kept, check.waiting) = (None, false, None);
                    check.unwanted.clear();
                }
            }
            check.goes()?;
            check.ends()?;
        }
        // In the end all is as the source has it.
        if let Some(target) = check.target.clone() {
            check.passes(4 * TIMING.max_wait.max(RECONNECT))?;
            let published = check.rollout.published().unwrap();
            prop_assert_eq!(&published.svids, &target.svids);
            prop_assert!(target.bundles.iter().all(|(td, bundle)| published.bundles.get(td) == Some(bundle)));
        }
    }
}
