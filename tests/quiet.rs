//! Whatever goes wrong beside the data path, or is a lot: proxies do not notice it, and operators do.
//!
//! Each trouble has a program of its own next to one that has none. Rotations of the two take turns, and the medians of
//! what they take to the last client are compared, generously: a machine that is busy with something else makes both
//! slow, while a push that waits for any of this takes seconds.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/crowd.rs"]
mod crowd;
#[path = "quiet/garbage.rs"]
mod garbage;
#[path = "quiet/stage.rs"]
mod stage;
#[path = "quiet/trouble.rs"]
mod trouble;

use std::{fs, sync::Arc, time::Duration};

use stage::{Stage, tcp};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};
use trouble::Trouble;

const STREAMS: usize = 50;
/// Rotations in a row, with trouble or without.
const TURN: usize = 3;
const TURNS: usize = 4;
/// A push may take this many times as long.
const TIMES: u32 = 10;
/// It may take this long whatever it takes else.
const FLOOR: Duration = Duration::from_millis(250);

/// How long the middle one of some rotations took to reach everybody.
fn median(mut rounds: Vec<Duration>) -> Duration {
    rounds.sort_unstable();
    rounds[rounds.len() / 2]
}

async fn rotations(stage: &Stage) -> Vec<Duration> {
    let mut rounds = Vec::new();
    for _ in 0..TURN {
        rounds.push(Duration::from_micros(stage.rotate().await.into_iter().max().unwrap()));
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_do_not_notice_and_operators_do() {
    let calm = Stage::open(&Trouble::none(), STREAMS).await;
    let mut wrong = Vec::new();
    for trouble in Trouble::all() {
        let stage = Arc::new(Stage::open(&trouble, STREAMS).await);
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let mut unnoticed = Vec::new();
        for turn in 1..=TURNS {
            without.extend(rotations(&calm).await);
            let mut tasks = trouble.begin(&stage);
            with.extend(rotations(&stage).await);
            if turn == TURNS {
                unnoticed = trouble.unnoticed(&stage).await;
            }
            if let Some(ended) = tasks.try_join_next() {
                wrong.push(format!("{}: {ended:?}", trouble.name));
            }
        }
        let (without, with) = (median(without), median(with));
        println!("{:<28} {without:>10.1?} {with:>10.1?}", trouble.name);
        if with > (without * TIMES).max(FLOOR) {
            wrong.push(format!("{}: {with:?} in place of {without:?}", trouble.name));
        }
        wrong.extend(unnoticed);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the program has at hand.
#[derive(Clone, Copy, Debug)]
struct Use {
    resident_kib: u64,
    files: usize,
}

impl Use {
    fn of(stage: &Stage) -> Self {
        let process = format!("/proc/{}", stage.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let resident_kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        Self { resident_kib, files: fs::read_dir(format!("{process}/fd")).unwrap().count() }
    }
}

/// Sends what `request` makes of the numbers from `from` to `to`, some at a time.
async fn flood(address: &str, request: fn(usize) -> Vec<u8>, from: usize, to: usize) {
    const AT_A_TIME: usize = 16;
    let mut tasks = JoinSet::new();
    for first in from..from + AT_A_TIME {
        let address = address.to_owned();
        tasks.spawn(async move {
            for number in (first..to).step_by(AT_A_TIME) {
                tcp(&address, &request(number)).await;
            }
        });
    }
    while tasks.join_next().await.is_some_and(|ended| ended.is_ok()) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_leave_nothing_behind() {
    let stage = Arc::new(Stage::open(&Trouble::none(), 1).await);
    let address = stage.address().await;
    for (request, what) in [(garbage::rude as fn(usize) -> Vec<u8>, "garbage"), (garbage::polite, "pages")] {
        // What the first ones allocate is kept for the next ones.
        flood(&address, request, 0, 500).await;
        let before = Use::of(&stage);
        let flooding = tokio::spawn({
            let address = address.clone();
            async move { flood(&address, request, 500, 10_500).await }
        });
        let (mut most, mut longest, mut asked) = (before, Duration::ZERO, 0);
        while !flooding.is_finished() {
            let started = Instant::now();
            assert!(stage.get("/ready").await.starts_with("HTTP/1.1 200"), "not ready under {what}");
            longest = longest.max(started.elapsed());
            stage.rotate().await;
            let now = Use::of(&stage);
            most.resident_kib = most.resident_kib.max(now.resident_kib);
            most.files = most.files.max(now.files);
            asked += 1;
            sleep(Duration::from_millis(50)).await;
        }
        flooding.await.unwrap();
        println!("{what}: {before:?}, at most {most:?}; /ready {asked} times, {longest:?} at most");
        assert!(asked > 3, "the flood was over before anybody looked");
        assert!(most.files < before.files + 70, "{what}: {most:?} and before {before:?}");
        assert!(most.resident_kib < before.resident_kib + (16 << 10), "{what}: {most:?} and before {before:?}");
    }
    let sum = async |class: &str| {
        let sample = format!("spiffe_sds_http_requests_total{{endpoint=\"admin\",class=\"{class}\"}}");
        stage.sample(&sample).await.unwrap()
    };
    let (good, bad) = (sum("2xx").await, sum("4xx").await + sum("broken").await);
    assert!(good >= 10_500.0 && bad >= 10_000.0, "{good} good, {bad} bad");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slow_do_not_keep_others_away() {
    let stage = Arc::new(Stage::open(&Trouble::none(), 1).await);
    let address = stage.address().await;
    let before = Use::of(&stage);
    let mut slow = JoinSet::new();
    for number in 0..300 {
        let mut io = TcpStream::connect(&address).await.unwrap();
        slow.spawn(async move {
            let head = format!("GET /{} HTTP/1.1\r\n", "x".repeat(10_000));
            // Some say nothing at all.
            for byte in head.bytes().skip(if number % 3 == 0 { usize::MAX } else { 0 }) {
                if io.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
            std::future::pending::<()>().await;
        });
    }
    // All places of the TCP listener are taken. Those of the Unix socket are not.
    assert!(stage.logs("as many connections as there may be, idle ones are closed for new ones").await);
    let started = Instant::now();
    assert!(stage.get("/ready").await.starts_with("HTTP/1.1 200"));
    stage.rotate().await;
    assert!(Use::of(&stage).files < before.files + 70);
    // And soon it is the turn of those who wait behind the slow ones.
    let answer = tcp(&address, b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "after {:?}: {answer:?}", started.elapsed());
    println!("over TCP after {:?}", started.elapsed());
    drop(slow);
    let broken = "spiffe_sds_http_requests_total{endpoint=\"admin\",class=\"broken\"}";
    assert!(stage.counts(broken).await);
}
