//! The rules of the schedule on made-up clocks, and the loop on a paused one.

mod handover;
mod rules;
mod running;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
    time::Instant as StdInstant,
};

use tokio::sync::watch;
use tonic::Code;
use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::{JwtBundle, JwtState, JwtSubject, SpiffeId, Token, TrustDomain, Validity},
    source::{
        ErrorKind, backoff,
        decode::jwt::{JwtBundles, JwtError},
    },
};

const LIFE: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(1_800_000_000);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + START
}

fn request() -> JwtRequest {
    JwtRequest { subject: JwtSubject::Default, audience: ["a".to_owned()].into() }
}

fn svid(token: &str, issued: SystemTime, life: Duration) -> JwtSvid {
    JwtSvid {
        id: SpiffeId::new("spiffe://example.org/web").unwrap(),
        audience: request().audience,
        validity: Validity { not_before: issued, not_after: issued + life },
        hint: None,
        token: Token::new(Zeroizing::new(token.to_owned())),
    }
}

fn status(code: Code) -> SourceError {
    SourceError::Status { endpoint: "unix:///a.sock".parse().unwrap(), code, reason: "because".to_owned() }
}

fn policy() -> supervisor::Config {
    supervisor::Config { backoff: backoff::Config::default(), denied_grace: Duration::from_secs(60) }
}

/// Both clocks of a simulation, which jumps from alarm to alarm.
struct Simulation {
    schedule: Schedule,
    keys: Keys,
    zero: StdInstant,
    elapsed: Duration,
    events: Vec<RenewalEvent>,
    asked: Vec<Duration>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let schedule = Schedule::new(request(), policy(), fastrand::Rng::with_seed(seed));
        let keys = Keys::new(policy().denied_grace, Duration::ZERO);
        Self { schedule, keys, zero: StdInstant::now(), elapsed: Duration::ZERO, events: Vec::new(), asked: Vec::new() }
    }

    fn now(&self) -> Moment {
        Moment { wall: start() + self.elapsed, steady: self.zero + self.elapsed }
    }

    /// Asks `source` whenever that is due, until `end`.
    fn run(&mut self, end: Duration, mut source: impl FnMut(SystemTime) -> Result<JwtSvid, SourceError>) {
        for _ in 0..10_000 {
            let now = self.now();
            self.events.extend(self.schedule.on_alarm(now));
            if self.schedule.start(now) {
                self.asked.push(self.elapsed);
                let (question, _) = self.schedule.question();
                self.events.extend(self.schedule.on_fetched(question, source(now.wall), &self.keys, now));
            }
            let (wall, steady) = self.schedule.next_alarm();
            let wall = wall.map(|at| at.duration_since(start()).unwrap_or_default());
            let steady = steady.map(|at| at.duration_since(self.zero));
            let next = wall.into_iter().chain(steady).min().unwrap_or(end);
            if next >= end {
                self.elapsed = end;
                return;
            }
            self.elapsed = next.max(self.elapsed);
        }
        panic!("a spin: {:?}", self.asked.len());
    }

    fn names(&self) -> Vec<&'static str> {
        self.events.iter().map(RenewalEvent::name).collect()
    }
}

#[test]
fn a_token_is_renewed_at_sixty_to_sixty_seven_percent_of_its_life() {
    let mut delays = Vec::new();
    for seed in 0..100 {
        let mut simulation = Simulation::new(seed);
        simulation.run(LIFE, |now| Ok(svid(&format!("{now:?}"), now, LIFE)));
        let [first, second, ..] = simulation.asked[..] else { panic!("{:?}", simulation.asked) };
        assert_eq!(first, Duration::ZERO);
        assert!(second >= LIFE * 60 / 100 && second <= LIFE * 67 / 100, "{second:?}");
        assert!(simulation.names().iter().all(|name| *name == "jwt_renewed"));
        delays.push(second);
    }
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 90, "without jitter all clients ask at once");
}

#[test]
fn a_token_received_late_in_its_life_is_renewed_by_its_age() {
    let mut simulation = Simulation::new(1);
    // Other clients have it for half of its life already.
    simulation.run(LIFE, |_| Ok(svid("cached", start() - LIFE / 2, LIFE)));
    assert!((LIFE / 10..LIFE * 17 / 100).contains(&simulation.asked[1]), "{:?}", simulation.asked);
}

#[test]
fn the_same_token_again_is_asked_for_in_few_steps_and_ends() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(seed);
        simulation.run(LIFE, |_| Ok(svid("always", start(), LIFE)));
        assert_eq!(*simulation.schedule.state(), JwtState::Gone(start() + LIFE));
        let before_the_end = simulation.asked.iter().filter(|at| **at < LIFE - schedule::AHEAD).count();
        assert!((4..40).contains(&before_the_end), "{before_the_end}");
        let gaps = simulation.asked.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.clone().all(|gap| gap >= Duration::from_millis(90)), "{:?}", gaps.min());
        assert_eq!(simulation.names()[..3], ["jwt_renewed", "jwt_expiring", "jwt_expired"]);
    }
}

#[test]
fn failures_are_retried_in_time_and_the_end_is_empty() {
    let mut simulation = Simulation::new(7);
    let mut answers = 0;
    let end = LIFE + Duration::from_secs(60);
    simulation.run(end, |now| {
        answers += 1;
        if answers == 1 { Ok(svid("first", now, LIFE)) } else { Err(status(Code::Unavailable)) }
    });
    assert_eq!(*simulation.schedule.state(), JwtState::Gone(start() + LIFE));
    let last_seconds = simulation.asked.iter().filter(|at| (LIFE - Duration::from_secs(1)..LIFE).contains(*at)).count();
    assert!((1..20).contains(&last_seconds), "{last_seconds} tries in the last second");
    let expired = simulation.events.iter().filter(|event| matches!(event, RenewalEvent::JwtExpired { .. })).count();
    assert_eq!(expired, 1);
    assert!(simulation.asked.iter().any(|at| *at > LIFE + Duration::from_secs(20)), "it is asked for ever");
    simulation.run(end + LIFE / 4, |now| Ok(svid("back", now, LIFE)));
    assert!(matches!(simulation.schedule.state(), JwtState::Valid(_)));
}

#[test]
fn a_token_goes_a_moment_before_its_end() {
    let mut simulation = Simulation::new(3);
    simulation.run(LIFE - schedule::AHEAD - Duration::from_millis(1), |_| Ok(svid("always", start(), LIFE)));
    assert!(matches!(simulation.schedule.state(), JwtState::Valid(_)));
    simulation.run(LIFE - schedule::AHEAD + Duration::from_millis(1), |_| Ok(svid("always", start(), LIFE)));
    assert!(matches!(simulation.schedule.state(), JwtState::Gone(_)));
}

#[test]
fn a_denied_token_stays_for_the_grace_time() {
    let grace = policy().denied_grace;
    let mut simulation = Simulation::new(5);
    let mut answers = 0;
    let mut denied = None;
    simulation.run(LIFE * 2 / 3 + grace + Duration::from_secs(1), |now| {
        answers += 1;
        if answers == 1 {
            return Ok(svid("first", now, LIFE));
        }
        denied.get_or_insert(now);
        Err(JwtError::NoToken.into())
    });
    let JwtState::Gone(at) = *simulation.schedule.state() else { panic!("{:?}", simulation.schedule.state()) };
    assert_eq!(at, denied.unwrap() + grace);
    assert_eq!(*simulation.names().last().unwrap(), "jwt_renewal_failed", "and it is asked again");
    assert!(simulation.names().contains(&"jwt_withdrawn"));
    let kind =
        |event: &RenewalEvent| matches!(event, RenewalEvent::JwtRenewalFailed { kind: ErrorKind::NotEntitled, .. });
    assert!(simulation.events.iter().any(kind));
}

#[test]
fn one_that_never_came_stays_pending_whatever_the_source_says() {
    for code in [Code::Unavailable, Code::PermissionDenied, Code::InvalidArgument] {
        let mut simulation = Simulation::new(5);
        simulation.run(LIFE, |_| Err(status(code)));
        assert_eq!(*simulation.schedule.state(), JwtState::Pending, "{code:?}");
        let asked = simulation.asked.len();
        let expected = if code == Code::InvalidArgument { 5..6 } else { 30..80 };
        assert!(expected.contains(&asked), "{code:?}: {asked}");
    }
}

#[test]
fn a_token_of_no_time_is_a_failure() {
    let mut simulation = Simulation::new(5);
    simulation.run(Duration::from_secs(5), |now| Ok(svid("late", now - LIFE, LIFE + Duration::from_millis(50))));
    assert_eq!(*simulation.schedule.state(), JwtState::Pending);
    assert!(simulation.asked.len() < 20);
}

/// A source that counts, on the paused clock.
struct Counting {
    fetches: Mutex<BTreeMap<JwtRequest, u32>>,
    keys: Mutex<VecDeque<Result<JwtKeys, SourceError>>>,
    zero: Instant,
}

impl JwtSource for Counting {
    fn fetch(
        &self,
        _: &Workload,
        request: &JwtRequest,
        _: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        let mut fetches = self.fetches.lock().unwrap();
        let count = fetches.entry(request.clone()).or_default();
        *count += 1;
        let fresh = svid(&format!("{request:?} {count}"), start() + self.zero.elapsed(), LIFE);
        std::future::ready(Ok(fresh)).boxed()
    }

    fn watch_keys(&self, _: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        let next = self.keys.lock().unwrap().pop_front();
        match next {
            Some(news) => futures_util::stream::iter([news]).chain(futures_util::stream::pending()).boxed(),
            None => futures_util::stream::pending().boxed(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_fetch_a_token_and_period() {
    let audiences = ["a", "b", "c"];
    let wanted =
        |audience: &&str| JwtRequest { subject: JwtSubject::Default, audience: [(*audience).to_owned()].into() };
    let config = Config { svids: audiences.iter().map(wanted).collect(), ..Config::default() };
    let td = TrustDomain::new("partner.org").unwrap();
    let bundles: JwtBundles = [(td.clone(), Arc::new(JwtBundle::new(td, Vec::new())))].into();
    let zero = Instant::now();
    let keys = Mutex::new(VecDeque::from([Err(status(Code::Unavailable)), Ok(bundles.into())]));
    let source = Arc::new(Counting { fetches: Mutex::default(), keys, zero });
    let store = Arc::new(IdentityStore::new());
    let supervisor = JwtSupervisor::new(source.clone(), Workload::Own, store.clone(), &config, policy())
        .with_clock(move || start() + zero.elapsed());
    let mut watch = store.watch_jwt(&Workload::Own);
    assert!(watch.borrow().svids.values().all(|state| *state == JwtState::Pending) && watch.borrow().svids.len() == 3);
    let (stop, mut events) = (CancellationToken::new(), supervisor.events());
    let running = tokio::spawn(supervisor.run(stop.clone()));
    let valid = |state: &JwtState| matches!(state, JwtState::Valid(_));
    watch.wait_for(|snapshot| snapshot.svids.values().all(valid) && snapshot.bundles.len() == 1).await.unwrap();
    let mut names = BTreeMap::new();
    while zero.elapsed() < 10 * LIFE {
        *names.entry(events.recv().await.unwrap().name()).or_insert(0) += 1;
    }
    for (request, count) in source.fetches.lock().unwrap().iter() {
        assert!((15..=21).contains(count), "{request:?} was fetched {count} times in ten lives");
    }
    assert_eq!(names["jwt_keys_failed"], 1);
    assert_eq!(names["jwt_keys_changed"], 1);
    assert!(
        names.keys().all(|name| ["jwt_renewed", "jwt_keys_failed", "jwt_keys_changed"].contains(name)),
        "{names:?}"
    );
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_wish_nobody_is_asked() {
    let source = Arc::new(Counting { fetches: Mutex::default(), keys: Mutex::default(), zero: Instant::now() });
    let store = Arc::new(IdentityStore::new());
    let supervisor = JwtSupervisor::new(source.clone(), Workload::Own, store, &Config::default(), policy());
    let stop = CancellationToken::new();
    let running = tokio::spawn(supervisor.run(stop.clone()));
    tokio::time::sleep(LIFE).await;
    assert!(source.fetches.lock().unwrap().is_empty());
    stop.cancel();
    running.await.unwrap();
}
