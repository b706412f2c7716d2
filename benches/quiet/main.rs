//! What troubles beside the data path cost a push: from the update of the source to the bytes at each streaming client,
//! with each trouble and without any, in one run.
//!
//! ```sh
//! cargo bench --bench quiet                    # 200 and 1,000 streams, 30 rotations of each kind
//! cargo bench --bench quiet -- 12 5000         # rotations, streams
//! ```
//!
//! The troubles are those of `tests/quiet.rs`, which holds them to a bound and asserts what an operator sees of them.
//! Each has a program of its own beside one that has none; rotations of the two take turns, five in a row. Two floods
//! are of at least 10,000 requests. Only ratios mean something, and on a machine with few processors whoever floods takes
//! them from everybody.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark that cannot go on should stop"
)]

#[path = "../../tests/support/crowd.rs"]
mod crowd;
#[path = "../../tests/quiet/garbage.rs"]
mod garbage;
#[path = "../../tests/quiet/stage.rs"]
mod stage;
#[path = "../../tests/quiet/trouble.rs"]
mod trouble;

use std::{env, sync::Arc, time::Duration};

use stage::Stage;
use trouble::{Trouble, Work};

/// Rotations in a row, with trouble or without.
const TURN: usize = 5;
/// What a flood has at least.
const REQUESTS: f64 = 10_000.0;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let numbers: Vec<usize> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (rotations, crowds) = numbers.split_first().map_or((30, &[200, 1_000][..]), |(first, rest)| (*first, rest));
    for streams in if crowds.is_empty() { &[200, 1_000] } else { crowds } {
        compare(*streams, rotations).await;
    }
}

async fn compare(streams: usize, rotations: usize) {
    println!("{streams} streams, {rotations} rotations; update of the source to bytes at a client, ms");
    println!("{:<28} {:>8} {:>8} {:>6} {:>8} {:>8} {:>6}", "", "p50", "without", "ratio", "p99", "without", "ratio");
    let calm = Stage::open(&Trouble::none(), streams).await;
    for trouble in Trouble::all() {
        let stage = Arc::new(Stage::open(&trouble, streams).await);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let mut turns = 0;
        while turns * TURN < rotations || !flooded(&trouble, &stage).await {
            turns += 1;
            for _ in 0..TURN {
                without.extend(calm.rotate().await);
            }
            let tasks = trouble.begin(&stage);
            for _ in 0..TURN {
                // A trouble needs a moment to be one.
                tokio::time::sleep(Duration::from_millis(20)).await;
                with.extend(stage.rotate().await);
            }
            drop(tasks);
        }
        let unnoticed = trouble.unnoticed(&stage).await;
        assert!(unnoticed.is_empty(), "{unnoticed:?}");
        with.sort_unstable();
        without.sort_unstable();
        let quantile = |of: &[u64], q: f64| of[(of.len() as f64 * q) as usize] as f64 / 1e3;
        let cells = [0.5, 0.99].map(|q| {
            let (with, without) = (quantile(&with, q), quantile(&without, q));
            format!("{with:>8.2} {without:>8.2} {:>5.1}x", with / without)
        });
        println!("{:<28} {} {}", trouble.name, cells[0], cells[1]);
    }
}

/// Whether a flood has had its requests.
async fn flooded(trouble: &Trouble, stage: &Stage) -> bool {
    if !matches!(trouble.work, Work::Flood(_)) {
        return true;
    }
    let mut sum = 0.0;
    for class in ["2xx", "4xx", "broken"] {
        let sample = format!("spiffe_sds_http_requests_total{{endpoint=\"admin\",class=\"{class}\"}}");
        sum += stage.sample(&sample).await.unwrap_or_default();
    }
    sum >= REQUESTS
}
