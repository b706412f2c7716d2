//! What a stream costs, and how fast a rotation reaches all of them: this server against the usual way to write one
//! (a generated handler, a task and a channel a stream, every response encoded anew), in one run.
//!
//! ```sh
//! cargo bench --bench streams                 # 2,000 streams on one connection, 20 rotations
//! cargo bench --bench streams -- 10000 10     # streams, rotations
//! TRACES=unix:///no/one cargo bench --features otlp --bench streams   # ours traces each rotation
//! ```
//!
//! Each server runs in a process of its own, follows the same development issuer, and answers the same client, whose
//! first request on each stream carries 60 KB of node as Envoy's does. Ours is also measured while its metrics are
//! scraped each 10 ms, which must make no difference to the time that a rotation takes. Reported for the server's process: resident
//! memory an idle stream, CPU a push to all, and the time from rotation to a stream's client. Only ratios mean something
//! on a shared machine.
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
mod usual;

use std::{
    env, fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crowd::{Crowd, WINDOW};
use spiffe_sds::{
    app::App,
    config::{Config, Flag, Sources},
    dev::{self, DevIssuer, Rotation},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::Command,
};
use tokio_util::sync::CancellationToken;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", "ours", socket, endpoint] => ours(socket, endpoint).await,
        ["serve", "usual", socket, endpoint] => usual::serve(Path::new(socket), endpoint).await,
        numbers => {
            let number = |at: usize, default| numbers.get(at).map_or(default, |text| text.parse().unwrap());
            compare(number(0, 2_000), number(1, 20)).await;
        }
    }
}

async fn ours(socket: &str, endpoint: &str) {
    let set = |key: &str, value: String| Flag { flag: "bench", key: key.to_owned(), value };
    let mut flags = vec![
        set("source.workload_api.endpoint", endpoint.to_owned()),
        set("listeners", format!("unix://{socket}")),
        set("admin.listeners", format!("unix://{socket}.admin")),
    ];
    flags.extend(env::var("TRACES").ok().map(|endpoint| set("telemetry.traces.endpoint", endpoint)));
    let config = Config::new(&Sources { flags, ..Sources::default() }).unwrap();
    App::bind(&config).await.unwrap().run(CancellationToken::new()).await.unwrap();
}

/// What one server cost.
struct Cost {
    stream_kib: f64,
    cpu_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    scrapes: usize,
}

async fn compare(streams: usize, rotations: usize) {
    println!("{streams} streams on one connection, {rotations} rotations");
    let usual = measure("usual", streams, rotations, false).await;
    let ours = measure("ours", streams, rotations, false).await;
    let scraped = measure("ours", streams, rotations, true).await;
    println!("{:<32} {:>10} {:>10} {:>8} {:>10}", "", "usual", "ours", "ratio", "scraped");
    let row = |what, pick: fn(&Cost) -> f64| {
        let (usual, ours, scraped) = (pick(&usual), pick(&ours), pick(&scraped));
        println!("{what:<32} {usual:>10.1} {ours:>10.1} {:>7.1}x {scraped:>10.1}", usual / ours);
    };
    row("resident KiB an idle stream", |cost| cost.stream_kib);
    row("CPU ms a push to all", |cost| cost.cpu_ms);
    row("rotation to client, p50 ms", |cost| cost.p50_ms);
    row("rotation to client, p99 ms", |cost| cost.p99_ms);
    println!("{} scrapes", scraped.scrapes);
}

async fn measure(kind: &str, streams: usize, rotations: usize, scraped: bool) -> Cost {
    let directory = tempfile::tempdir().unwrap();
    let td = TrustDomain::new("example.org").unwrap();
    let listen = Endpoint::Unix(directory.path().join("agent.sock"));
    let mut config = dev::Config::new(td, listen).identity(SpiffeId::new("spiffe://example.org/w").unwrap(), None);
    config.rotation = Rotation::Never;
    let issuer = DevIssuer::start(config).await.unwrap();
    let socket = directory.path().join("sds.sock");
    let mut server = Command::new(env::current_exe().unwrap())
        .args(["serve", kind, socket.to_str().unwrap(), &issuer.endpoint().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = server.id().unwrap();

    let crowd = Crowd::connect(&socket).await;
    crowd.open(1).await;
    let before = resident_kib(pid);
    crowd.open(streams - 1).await;
    let stream_kib = (resident_kib(pid) - before) as f64 / (streams - 1) as f64;

    let scrapes = Arc::new(AtomicUsize::new(0));
    let scraper = scraped.then(|| tokio::spawn(scrape(format!("{}.admin", socket.display()), scrapes.clone())));
    let cpu = cpu_ticks(pid);
    let mut latencies = Vec::new();
    for _ in 0..rotations {
        latencies.extend(crowd.told(streams, || issuer.rotate().unwrap()).await);
    }
    let cpu_ms = (cpu_ticks(pid) - cpu) as f64 * 10.0 / rotations as f64;
    if let Some(scraper) = scraper {
        scraper.abort();
    }
    server.kill().await.unwrap();
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[(latencies.len() as f64 * q) as usize] as f64 / 1e3;
    Cost { stream_kib, cpu_ms, p50_ms: quantile(0.5), p99_ms: quantile(0.99), scrapes: scrapes.load(Ordering::Relaxed) }
}

/// Asks for the metrics each 10 ms.
async fn scrape(socket: String, count: Arc<AtomicUsize>) {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    loop {
        pace.tick().await;
        let mut io = UnixStream::connect(&socket).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
        io.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"# EOF\n"), "cut off");
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn resident_kib(pid: u32) -> i64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// User and system time in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
