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

use std::{sync::Arc, time::Duration};

use stage::Stage;
use trouble::Trouble;

const STREAMS: usize = 50;
/// Rotations in a row, with trouble or without.
const TURN: usize = 3;
const TURNS: usize = 4;
/// A push may take this many times as long.
const TIMES: u32 = 10;
/// It may take this long whatever it takes else.
const FLOOR: Duration = Duration::from_millis(50);

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
