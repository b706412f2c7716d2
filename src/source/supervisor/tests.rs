//! The loop on a paused clock, against a source that follows a script.

use std::{collections::VecDeque, sync::Mutex};

use futures_util::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::Code;
use zeroize::Zeroizing;

use super::*;
use crate::identity::{
    Availability, Certificate, CertificateChain, IdentitySnapshot, PrivateKey, SpiffeId, Svid, Validity,
};

type Item = Result<IdentitySnapshot, SourceError>;

/// One session: what comes after which pause. When the script is over, sessions never say anything.
type Session = Vec<(Duration, Item)>;

struct Scripted {
    sessions: Mutex<VecDeque<Session>>,
    opened: watch::Sender<Vec<Instant>>,
}

impl Source for Scripted {
    fn watch(&self, _: &Workload) -> BoxStream<'static, Item> {
        self.opened.send_modify(|opened| opened.push(Instant::now()));
        match self.sessions.lock().unwrap().pop_front() {
            Some(session) => stream::iter(session)
                .then(|(pause, item)| async move {
                    tokio::time::sleep(pause).await;
                    item
                })
                .boxed(),
            None => stream::pending().boxed(),
        }
    }
}

struct Running {
    opened: watch::Receiver<Vec<Instant>>,
    events: tokio::sync::broadcast::Receiver<RenewalEvent>,
    status: watch::Receiver<SourceStatus>,
    state: watch::Receiver<Availability>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), SourceError>>,
    start: Instant,
}

/// Runs the script. The wall clock follows the paused one.
fn run(sessions: impl IntoIterator<Item = Session>) -> Running {
    let (opened, watch_opened) = watch::channel(Vec::new());
    let source = Scripted { sessions: Mutex::new(sessions.into_iter().collect()), opened };
    let store = Arc::new(IdentityStore::new());
    let start = Instant::now();
    let supervisor = Supervisor::new(source, Workload::Own, store.clone(), Config::default())
        .with_rng(fastrand::Rng::with_seed(7))
        .with_clock(move || epoch() + start.elapsed());
    let (events, status) = (supervisor.events(), supervisor.status());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(supervisor.run(shutdown.clone()));
    Running { opened: watch_opened, events, status, state: store.watch(&Workload::Own), shutdown, task, start }
}

impl Running {
    /// When the `n`th session (from 1) began, from the start.
    async fn session(&mut self, n: usize) -> Duration {
        bounded(self.opened.wait_for(|opened| opened.len() >= n)).await.unwrap()[n - 1] - self.start
    }

    async fn event(&mut self) -> &'static str {
        bounded(self.events.recv()).await.unwrap().name()
    }
}

/// A paused clock would otherwise run ahead for ever.
async fn bounded<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(secs(100_000), wait).await.expect("happens within a day")
}

fn epoch() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(1_800_000_000)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn svid(certificate: &str, life: u64) -> Item {
    let svid = Svid {
        id: SpiffeId::new("spiffe://example.org/web").unwrap(),
        chain: CertificateChain::new(Certificate::from_der(certificate.as_bytes()), vec![]),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
        hint: None,
        validity: Validity { not_before: epoch(), not_after: epoch() + secs(life) },
    };
    Ok(IdentitySnapshot { svids: vec![Arc::new(svid)], ..IdentitySnapshot::default() })
}

fn fails(code: Code) -> Item {
    let endpoint = "unix:///agent.sock".parse().unwrap();
    Err(SourceError::Status { endpoint, code, reason: String::new() })
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_reopened_at_once_then_with_growing_delays() {
    let failed = || vec![(secs(0), fails(Code::Unavailable))];
    let mut run =
        run([vec![(secs(0), svid("a", 9000)), (secs(100), fails(Code::Unavailable))], failed(), failed(), failed()]);
    assert_eq!(run.session(2).await, secs(100), "at once");
    let mut last = secs(100);
    for (n, ceiling) in [(3, 400), (4, 800), (5, 1600)] {
        let began = run.session(n).await;
        let (delay, ceiling) = (began - last, Duration::from_millis(ceiling));
        assert!(delay >= ceiling / 2 && delay <= ceiling + Duration::from_millis(2), "{n}: {delay:?}");
        last = began;
    }
    assert!(matches!(*run.state.borrow(), Availability::Ready(_)), "the last good state stays");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_flaps_is_not_hammered() {
    let flap = || vec![(secs(0), svid("a", 9000)), (secs(0), Err(SourceError::Closed))];
    let mut run = run((0..20).map(|_| flap()));
    assert!(run.session(20).await > secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_hung_for_longer_than_the_delay_is_followed_at_once() {
    let hung = || vec![(secs(10), fails(Code::DeadlineExceeded))];
    let mut run = run((0..10).map(|_| hung()));
    assert_eq!(run.session(11).await, secs(100));
}

#[tokio::test(start_paused = true)]
async fn misconfiguration_at_boot_ends_the_run_and_later_is_retried_soon() {
    let boot = run([vec![(secs(0), Err(SourceError::Closed))], vec![(secs(0), fails(Code::Unimplemented))]]);
    let error = boot.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);

    for code in [Code::InvalidArgument, Code::Unimplemented] {
        let refused = || vec![(secs(0), fails(code))];
        let mut later = run([vec![(secs(0), svid("a", 9000)), (secs(1), fails(code))], refused(), refused()]);
        assert!(later.session(4).await < secs(5), "an agent that restarts is not waited for a minute");
        assert!(!later.task.is_finished() && matches!(*later.state.borrow(), Availability::Ready(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_several_that_never_delivered_is_asked_each_minute() {
    let (opened, mut watch_opened) = watch::channel(Vec::new());
    let refused = || vec![(secs(0), fails(Code::Unimplemented))];
    let refusing = Scripted { sessions: Mutex::new((0..9).map(|_| refused()).collect()), opened };
    let session = vec![(secs(0), svid("a", 9000)), (secs(9999), Err(SourceError::Closed))];
    let serving = Scripted { sessions: Mutex::new([session].into()), opened: watch::Sender::default() };
    let sources: Vec<Arc<dyn Source>> = vec![Arc::new(refusing), Arc::new(serving)];
    let (store, start) = (Arc::new(IdentityStore::new()), Instant::now());
    let supervisor =
        Supervisor::of_several(sources, failover::Config::default(), Workload::Own, store, Config::default())
            .with_clock(move || epoch() + start.elapsed());
    tokio::spawn(supervisor.run(CancellationToken::new()));
    let opened = bounded(watch_opened.wait_for(|opened| opened.len() == 3)).await.unwrap().clone();
    assert_eq!((opened[1] - start, opened[2] - start), (secs(60), secs(120)));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_is_noticed() {
    let quiet = || -> Scripted {
        let session = vec![(secs(0), svid("a", 9000)), (secs(99_999), Err(SourceError::Closed))];
        Scripted { sessions: Mutex::new([session].into()), opened: watch::Sender::default() }
    };
    // Whether the system says so, and how long it then takes.
    for (told, within) in [(true, secs(1)), (false, LONGEST_NAP + secs(1))] {
        let (ahead, clock) = (Arc::new(Mutex::new(secs(0))), Instant::now());
        let (changed, changes) = tokio::sync::mpsc::unbounded_channel();
        let changes = stream::unfold(changes, |mut it| async { Some((it.recv().await?, it)) }).boxed();
        let set = ahead.clone();
        let supervisor = Supervisor::new(quiet(), Workload::Own, Arc::new(IdentityStore::new()), Config::default())
            .with_clock(move || epoch() + clock.elapsed() + *set.lock().unwrap())
            .with_clock_changes(changes);
        let (mut events, mut status) = (supervisor.events(), supervisor.status());
        let shutdown = CancellationToken::new();
        tokio::spawn(supervisor.run(shutdown.clone()));
        bounded(status.wait_for(|status| status.connected)).await.unwrap();
        *ahead.lock().unwrap() = secs(6000);
        let since = Instant::now();
        if told {
            changed.send(()).unwrap();
        }
        while bounded(events.recv()).await.unwrap().name() != "svid_expiring" {}
        assert!(since.elapsed() <= within, "{told}: {:?}", since.elapsed());
        shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_withdraws_on_time_while_sessions_come_and_go() {
    let denied = || vec![(secs(0), fails(Code::PermissionDenied))];
    let first = vec![(secs(0), svid("a", 9000)), (secs(5), fails(Code::PermissionDenied))];
    let mut run = run(std::iter::once(first).chain((0..99).map(|_| denied())));
    bounded(run.state.wait_for(|state| matches!(state, Availability::Denied(_)))).await.unwrap();
    let took = run.start.elapsed();
    assert!(took >= secs(65) && took < secs(66), "{took:?}");
    for expected in ["source_up", "svid_renewed", "identity_denied", "identity_withdrawn"] {
        assert_eq!(run.event().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn expiry_is_announced_from_timers_in_and_between_sessions() {
    let lost = || vec![(secs(0), Err(SourceError::Closed))];
    let quiet = vec![vec![(secs(0), svid("a", 9000)), (secs(99_999), Err(SourceError::Closed))]];
    let down = vec![(secs(0), svid("a", 9000)), (secs(1), Err(SourceError::Closed))];
    for sessions in [quiet, std::iter::once(down).chain((0..9999).map(|_| lost())).collect()] {
        let mut run = run(sessions);
        for (name, at) in [("svid_expiring", secs(6000)), ("svid_expired", secs(9000))] {
            while run.event().await != name {}
            let elapsed = run.start.elapsed();
            assert!(elapsed >= at && elapsed < at + secs(1), "{name} {elapsed:?}");
        }
        assert!(matches!(*run.state.borrow(), Availability::Ready(_)));
        run.shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_update_is_refused_and_the_source_asked_again() {
    let mut run = run([
        vec![(secs(0), svid("a", 100)), (secs(200), svid("b", 150))],
        vec![(secs(0), svid("c", 900)), (secs(9999), Err(SourceError::Closed))],
    ]);
    for expected in ["source_up", "svid_renewed", "svid_expiring", "svid_expired"] {
        assert_eq!(run.event().await, expected);
    }
    match bounded(run.events.recv()).await.unwrap() {
        RenewalEvent::RenewalFailed { error, failures: 1 } => assert!(error.contains("already expired"), "{error}"),
        other => panic!("{other:?}"),
    }
    for expected in ["source_up", "svid_renewed"] {
        assert_eq!(run.event().await, expected);
    }
    assert!(run.session(2).await >= secs(200));
    bounded(run.status.wait_for(|status| status.connected && status.last_error.is_none())).await.unwrap();
    assert_eq!(run.status.borrow().consecutive_failures, 0);
    assert!(run.status.borrow().last_update.unwrap() >= epoch() + secs(200));
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_run_in_and_between_sessions() {
    let mut open = run([vec![(secs(0), svid("a", 9000)), (secs(9999), Err(SourceError::Closed))]]);
    bounded(open.status.wait_for(|status| status.connected)).await.unwrap();
    open.shutdown.cancel();
    assert!(open.task.await.unwrap().is_ok());

    let mut between = run([vec![(secs(0), svid("a", 9000)), (secs(0), fails(Code::Unimplemented))]]);
    bounded(between.status.wait_for(|status| status.last_error.is_some())).await.unwrap();
    between.shutdown.cancel();
    assert!(between.task.await.unwrap().is_ok());
    assert!(between.opened.borrow().len() == 1 && between.opened.changed().now_or_never().is_some());
}

/// A machine that is busy lets time pass between a decision and the plan for the next one: here ten seconds with each
/// look at the wall clock. Whatever the source does before, some renewal falls due right then.
#[tokio::test(start_paused = true)]
async fn a_decision_that_falls_due_while_the_next_is_planned_is_not_late() {
    for (overdue, messages) in [900, 910, 920].into_iter().flat_map(|at| (20..35).map(move |count| (at, count))) {
        let source = |session: Session| -> Arc<dyn Source> {
            let sessions = Mutex::new(VecDeque::from([session]));
            Arc::new(Scripted { sessions, opened: watch::Sender::default() })
        };
        let silence = || (secs(99_999), Err(SourceError::Closed));
        let late = (0..messages).map(|_| (secs(0), svid("a", 2 * overdue))).chain([silence()]).collect();
        let fresh = vec![(secs(0), svid("b", 90_000)), silence()];
        let (start, looks) = (Instant::now(), Arc::new(std::sync::atomic::AtomicU64::new(0)));
        let wall = move |looks: u64| epoch() + start.elapsed() + secs(10 * looks);
        let counted = looks.clone();
        let clock = move || wall(counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let config = failover::Config { stale_percent: 50, ..failover::Config::default() };
        let store = Arc::new(IdentityStore::new());
        let sources = vec![source(late), source(fresh)];
        let supervisor = Supervisor::of_several(sources, config, Workload::Own, store, Config::default());
        let supervisor = supervisor.with_clock(clock);
        let (mut active, stop) = (supervisor.active(), CancellationToken::new());
        let task = tokio::spawn(supervisor.run(stop.clone()));
        bounded(active.wait_for(|active| *active == Some(1))).await.unwrap();
        let took = wall(looks.load(std::sync::atomic::Ordering::SeqCst)).duration_since(epoch()).unwrap();
        assert!(took < secs(overdue + 250), "{took:?} in place of {overdue} s after {messages} messages");
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_all_must_refuse_the_request_to_end_the_run() {
    let refusing = || -> Arc<dyn Source> {
        let sessions = Mutex::new(VecDeque::from([vec![(secs(0), fails(Code::Unimplemented))]]));
        Arc::new(Scripted { sessions, opened: watch::Sender::default() })
    };
    let serving = || -> Arc<dyn Source> {
        let sessions =
            Mutex::new(VecDeque::from([vec![(secs(5), svid("a", 9000)), (secs(9999), Err(SourceError::Closed))]]));
        Arc::new(Scripted { sessions, opened: watch::Sender::default() })
    };
    let run = |sources: Vec<Arc<dyn Source>>| {
        let (store, start) = (Arc::new(IdentityStore::new()), Instant::now());
        let state = store.watch(&Workload::Own);
        let supervisor =
            Supervisor::of_several(sources, failover::Config::default(), Workload::Own, store, Config::default())
                .with_clock(move || epoch() + start.elapsed());
        (tokio::spawn(supervisor.run(CancellationToken::new())), state)
    };
    let (hopeless, _) = run(vec![refusing(), refusing()]);
    assert_eq!(bounded(hopeless).await.unwrap().unwrap_err().kind(), ErrorKind::Misconfigured);
    let (task, mut state) = run(vec![refusing(), serving()]);
    bounded(state.wait_for(|state| matches!(state, Availability::Ready(_)))).await.unwrap();
    assert!(!task.is_finished());
}
