//! Single rules of the schedule and of the keys, with signed tokens and made-up clocks.

use super::{handover::Signing, *};
use crate::source::{decode::jwt::JwksError, jwt::schedule::AHEAD};

/// A schedule, the keys that its tokens are judged by, and a clock.
struct Bench {
    schedule: Schedule,
    keys: Keys,
    zero: StdInstant,
    elapsed: Duration,
}

impl Bench {
    fn new(policy: supervisor::Config) -> Self {
        let schedule = Schedule::new(request(), policy, fastrand::Rng::with_seed(1));
        let keys = Keys::new(policy.denied_grace, Duration::from_secs(20));
        Self { schedule, keys, zero: StdInstant::now(), elapsed: Duration::ZERO }
    }

    fn now(&self) -> Moment {
        Moment { wall: start() + self.elapsed, steady: self.zero + self.elapsed }
    }

    fn learn(&mut self, keys: JwtKeys) -> Vec<&'static str> {
        let now = self.now();
        let events = self.keys.on_news(Ok(keys), now);
        let more = self.schedule.on_keys(&self.keys, now);
        events.iter().chain(&more).map(RenewalEvent::name).collect()
    }

    /// Asks, and tells to which question the answer will be.
    fn ask(&mut self) -> u32 {
        assert!(self.schedule.start(self.now()), "it is due");
        self.schedule.question().0
    }

    fn answer(&mut self, question: u32, answer: Result<JwtSvid, SourceError>) -> Vec<&'static str> {
        let events = self.schedule.on_fetched(question, answer, &self.keys, self.now());
        events.iter().map(RenewalEvent::name).collect()
    }

    fn due(&self) -> bool {
        self.schedule.is_due(self.now())
    }
}

fn signer(kid: &'static str) -> Signing {
    Signing::new(kid, Instant::now())
}

fn of(mut svid: JwtSvid, id: &str) -> JwtSvid {
    svid.id = SpiffeId::new(id).unwrap();
    svid
}

const WEB: &str = "spiffe://example.org/web";
const API: &str = "spiffe://example.org/api";

#[tokio::test(start_paused = true)]
async fn a_token_is_judged_by_the_keys_of_when_it_comes() {
    let (old, new) = (signer("old"), signer("new"));
    let mut bench = Bench::new(policy());
    bench.learn(old.keys().into());
    let question = bench.ask();
    bench.learn(new.keys().into());
    assert_eq!(bench.answer(question, Ok(old.token(start(), LIFE))), ["jwt_renewal_failed"]);
    assert_eq!(*bench.schedule.state(), JwtState::Pending);
    bench.elapsed += Duration::from_secs(10);
    let question = bench.ask();
    assert_eq!(bench.answer(question, Ok(new.token(start(), LIFE))), ["jwt_renewed"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_taken_before_the_keys_is_judged_when_they_are_known() {
    let (honest, forger) = (signer("a"), signer("a"));
    let mut bench = Bench::new(policy());
    let question = bench.ask();
    assert_eq!(bench.answer(question, Ok(forger.token(start(), LIFE))), ["jwt_renewed"], "nothing is known against it");
    assert_eq!(bench.learn(honest.keys().into()), ["jwt_keys_changed", "jwt_renewal_failed"]);
    assert!(matches!(bench.schedule.state(), JwtState::Gone(_)), "nobody ever vouched for it");
    let question = bench.ask();
    assert_eq!(bench.answer(question, Ok(honest.token(start(), LIFE))), ["jwt_renewed"]);
    assert_eq!(bench.learn(honest.keys().into()), [""; 0]);
    assert!(matches!(bench.schedule.state(), JwtState::Valid(_)));
    assert!(!bench.due());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_lost_hastens_and_takes_nothing_away() {
    let (old, new) = (signer("old"), signer("new"));
    for judged_later in [false, true] {
        let mut bench = Bench::new(policy());
        if !judged_later {
            bench.learn(old.keys().into());
        }
        let question = bench.ask();
        bench.answer(question, Ok(old.token(start(), LIFE)));
        if judged_later {
            bench.learn(old.keys().into());
        }
        assert!(!bench.due());
        assert_eq!(bench.learn(new.keys().into()), ["jwt_keys_changed"]);
        assert!(matches!(bench.schedule.state(), JwtState::Valid(_)), "verifiers may not know yet");
        assert!(bench.due(), "at once, not when its time comes");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_asked_for_at_once_when_keys_come() {
    let (old, new) = (signer("old"), signer("new"));
    let mut bench = Bench::new(supervisor::Config { backoff: hours(), ..policy() });
    bench.learn(old.keys().into());
    let question = bench.ask();
    assert_eq!(bench.answer(question, Ok(new.token(start(), LIFE))), ["jwt_renewal_failed"]);
    assert!(!bench.due());
    bench.learn(new.keys().into());
    assert!(bench.due());
}

#[tokio::test(start_paused = true)]
async fn only_the_answer_to_the_last_question_counts() {
    let (a, b) = (signer("a"), signer("b"));
    let mut bench = Bench::new(policy());
    let former = bench.ask();
    let now = bench.now();
    bench.schedule.on_switch(Duration::ZERO, now);
    assert_eq!(bench.answer(former, Ok(a.token(start(), LIFE))), [""; 0], "of the former source");
    assert_eq!(*bench.schedule.state(), JwtState::Pending);
    let question = bench.ask();
    assert_eq!(bench.answer(former, Err(status(Code::Unavailable))), [""; 0]);
    assert_eq!(bench.answer(question, Ok(b.token(start(), LIFE))), ["jwt_renewed"]);
}

#[tokio::test(start_paused = true)]
async fn another_default_identity_gets_its_token_at_once() {
    let signer = signer("a");
    let mut bench = Bench::new(policy());
    let (web, api) = (SpiffeId::new(WEB).unwrap(), SpiffeId::new(API).unwrap());
    let now = bench.now();
    bench.schedule.on_subject(Some(web.clone()), Duration::ZERO, now);
    let question = bench.ask();
    assert_eq!(bench.schedule.question().1.subject, JwtSubject::Id(web.clone()), "for nobody else");
    bench.answer(question, Ok(signer.token(start(), LIFE)));
    for same in [Some(web), None] {
        bench.schedule.on_subject(same, Duration::ZERO, now);
        assert!(!bench.due());
    }
    bench.schedule.on_subject(Some(api.clone()), Duration::ZERO, now);
    assert!(bench.due() && matches!(bench.schedule.state(), JwtState::Valid(_)), "it stays until then");
    let question = bench.ask();
    assert_eq!(bench.schedule.question().1.subject, JwtSubject::Id(api.clone()));
    assert_eq!(bench.answer(question, Ok(signer.token(start(), LIFE))), ["jwt_renewal_failed"], "of the one before");
    bench.elapsed += Duration::from_secs(10);
    let question = bench.ask();
    assert_eq!(bench.answer(question, Ok(of(signer.token(start(), LIFE), API))), ["jwt_renewed"]);
    assert!(matches!(bench.schedule.state(), JwtState::Valid(svid) if svid.id == api));
}

#[tokio::test(start_paused = true)]
async fn a_question_for_all_identities_counts_if_its_answer_is_for_the_right_one() {
    let signer = signer("a");
    for (id, taken) in [(WEB, true), (API, false)] {
        let mut bench = Bench::new(policy());
        let question = bench.ask();
        assert_eq!(bench.schedule.question().1, request(), "nothing is known yet");
        let now = bench.now();
        bench.schedule.on_subject(Some(SpiffeId::new(WEB).unwrap()), Duration::ZERO, now);
        let events = bench.answer(question, Ok(of(signer.token(start(), LIFE), id)));
        assert_eq!(events.len(), usize::from(taken), "{id}");
        assert_eq!(bench.due(), !taken);
    }
}

fn hours() -> backoff::Config {
    backoff::Config { initial: Duration::from_secs(7200), max: Duration::from_secs(7200) }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_back_is_asked_at_once() {
    let signer = signer("a");
    let mut bench = Bench::new(supervisor::Config { backoff: hours(), ..policy() });
    let question = bench.ask();
    bench.answer(question, Err(status(Code::Unavailable)));
    assert!(!bench.due());
    let now = bench.now();
    bench.schedule.on_source_back(Duration::ZERO, now);
    let question = bench.ask();
    bench.answer(question, Ok(signer.token(start(), LIFE)));
    bench.schedule.on_source_back(Duration::ZERO, now);
    assert!(!bench.due(), "nothing is missing");
}

#[test]
fn there_is_a_try_before_the_end_however_long_the_backoff_is() {
    for code in [Code::Unavailable, Code::Unimplemented, Code::PermissionDenied] {
        let mut simulation = Simulation::new(2);
        let long = supervisor::Config { backoff: hours(), denied_grace: LIFE };
        simulation.schedule = Schedule::new(request(), long, fastrand::Rng::with_seed(2));
        let mut answers = 0;
        simulation.run(LIFE - AHEAD, |now| {
            answers += 1;
            if answers == 1 { Ok(svid("first", now, LIFE)) } else { Err(status(code)) }
        });
        let late = simulation.asked.iter().filter(|at| **at > LIFE * 3 / 4).count();
        assert!((3..40).contains(&late), "{code:?}: {:?}", simulation.asked);
    }
}

#[test]
fn one_that_worked_is_asked_again_in_seconds_even_if_it_refuses_the_request() {
    for (worked, waits) in [(true, 0..11), (false, 60..61)] {
        for code in [Code::Unimplemented, Code::InvalidArgument] {
            let mut bench = Bench::new(policy());
            if worked {
                let question = bench.ask();
                bench.answer(question, Ok(svid("first", start() - LIFE, LIFE * 2)));
                bench.elapsed += LIFE;
                let now = bench.now();
                bench.schedule.on_alarm(now);
            }
            let question = bench.ask();
            bench.answer(question, Err(status(code)));
            let (_, again) = bench.schedule.next_alarm();
            let wait = again.unwrap().duration_since(bench.now().steady);
            assert!(waits.contains(&wait.as_secs()), "{worked} {code:?}: {wait:?}");
        }
    }
}

#[test]
fn a_token_at_its_very_end_is_no_token() {
    for (early, taken) in [(Duration::ZERO, false), (Duration::from_nanos(1), true)] {
        let mut bench = Bench::new(policy());
        let question = bench.ask();
        let end = bench.now().wall + AHEAD + early;
        let token = svid("last", end - LIFE, LIFE);
        let expected = if taken { "jwt_renewed" } else { "jwt_renewal_failed" };
        assert_eq!(bench.answer(question, Ok(token)), [expected], "{early:?}");
        if taken {
            bench.elapsed += early;
            let events = bench.schedule.on_alarm(bench.now());
            assert_eq!(events.iter().map(RenewalEvent::name).collect::<Vec<_>>(), ["jwt_expired"]);
            assert!(matches!(bench.schedule.state(), JwtState::Gone(_)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn former_keys_are_shown_for_two_handovers() {
    let (old, new, handover) = (signer("old"), signer("new"), Duration::from_secs(20));
    let mut bench = Bench::new(policy());
    bench.learn(old.keys().into());
    bench.keys.switched(0);
    bench.elapsed += Duration::from_secs(100);
    bench.learn(new.keys().into());
    let shown = |bench: &mut Bench, after: Duration| {
        bench.elapsed = Duration::from_secs(100) + after;
        let now = bench.now();
        bench.keys.on_alarm(|_| false, now);
        bench.keys.shown().values().map(|bundle| bundle.keys().len()).sum::<usize>()
    };
    let moment = Duration::from_nanos(1);
    assert_eq!(shown(&mut bench, handover), 2);
    assert_eq!(shown(&mut bench, 2 * handover - moment), 2, "others switch later than we");
    assert_eq!(shown(&mut bench, 2 * handover), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_set_takes_nothing_from_anybody() {
    let signer = signer("a");
    let (own, other) = (TrustDomain::new("example.org").unwrap(), TrustDomain::new("partner.org").unwrap());
    let unusable =
        |domain: &TrustDomain, why| JwtKeys { unusable: [(domain.clone(), why)].into(), ..signer.keys().into() };
    let mut bench = Bench::new(policy());
    bench.learn(unusable(&other, JwksError::Empty));
    assert!(bench.keys.unreadable().is_empty(), "nothing at all promises nothing");
    bench.learn(unusable(&other, JwksError::NotASet));
    assert_eq!(bench.keys.unreadable().iter().collect::<Vec<_>>(), [&other]);
    assert!(bench.keys.shown().contains_key(&own));
    let bad = JwtKeys { unusable: [(own.clone(), JwksError::NotASet)].into(), ..JwtKeys::default() };
    assert_eq!(bench.learn(bad.clone()), [""; 0], "the last good keys stay");
    assert!(bench.keys.shown().contains_key(&own) && bench.keys.unreadable().is_empty());
    bench.keys.switched(0);
    bench.learn(bad);
    bench.elapsed += Duration::from_secs(1000);
    let now = bench.now();
    bench.keys.on_alarm(|_| false, now);
    assert!(bench.keys.shown().contains_key(&own), "whoever told them");
    assert_eq!(bench.learn(JwtKeys::default()), ["jwt_keys_changed"], "what is not there any more is withdrawn");
}
