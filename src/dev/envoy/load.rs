//! Requests in a closed loop, over loopback only, bounded in number and time.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::http::Connection;
use crate::telemetry::logs;

/// A load to put on a listener: each worker sends a request, reads the whole answer, and sends the next.
#[derive(Clone, Debug)]
pub struct Load {
    address: SocketAddr,
    path: String,
    workers: usize,
    connection_per_request: bool,
    pause: Duration,
    timeout: Duration,
    max_requests: u64,
    max_duration: Duration,
}

/// A load that is being put. The workers end when this is dropped.
#[derive(Debug)]
pub struct Running {
    counts: Arc<Mutex<Counts>>,
    begun: Instant,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// All requests that have an outcome.
    pub requests: u64,
    /// Those without a 200.
    pub failures: u64,
    /// The first few failures.
    pub samples: Vec<Failure>,
    /// Since the start, to the end or to now.
    pub elapsed: Duration,
    /// Median time from request (with its connection, if it made one) to whole answer; zero without a success.
    pub p50: Duration,
    /// 99th percentile of the same.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// One request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Since the start of the load.
    pub at: Duration,
    /// The status and body, or the error with its causes.
    pub detail: String,
}

/// Why there is no load.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This is no tool to load other people's machines with.
    #[error("{0} is not a loopback address: load is only put on this machine")]
    NotLoopback(SocketAddr),
}

#[derive(Debug)]
struct Counts {
    requests: u64,
    failures: u64,
    samples: Vec<Failure>,
    /// Microseconds. None if the library refuses our bounds, which it does not.
    latency: Option<Histogram<u64>>,
    left: u64,
    end: Option<Instant>,
}

impl Load {
    /// Failures kept in full.
    const SAMPLES: usize = 10;
    /// A worker rests this long after a failure, or it would spin on a port that is closed.
    const REST: Duration = Duration::from_millis(10);

    /// `GET /` by one worker on a connection it keeps, for at most ten minutes and ten million requests, each of at
    /// most five seconds.
    ///
    /// # Errors
    /// When the address is not a loopback one.
    pub fn new(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        Ok(Self {
            address,
            path: "/".to_owned(),
            workers: 1,
            connection_per_request: false,
            pause: Duration::ZERO,
            timeout: Duration::from_secs(5),
            max_requests: 10_000_000,
            max_duration: Duration::from_secs(600),
        })
    }

    /// Requests this path.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// With so many workers at once.
    #[must_use]
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// A new connection for each request.
    #[must_use]
    pub const fn connection_per_request(mut self) -> Self {
        self.connection_per_request = true;
        self
    }

    /// Each worker rests so long after each request.
    #[must_use]
    pub const fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// A request that takes longer has failed.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Ends after so many requests.
    #[must_use]
    pub const fn max_requests(mut self, requests: u64) -> Self {
        self.max_requests = requests;
        self
    }

    /// Ends after so long.
    #[must_use]
    pub const fn max_duration(mut self, duration: Duration) -> Self {
        self.max_duration = duration;
        self
    }

    /// Starts the workers on the current runtime.
    pub fn start(self) -> Running {
        let counts = Counts {
            requests: 0,
            failures: 0,
            samples: Vec::new(),
            latency: Histogram::new_with_bounds(1, 60_000_000, 2).ok(),
            left: self.max_requests,
            end: None,
        };
        let (counts, begun, stop) = (Arc::new(Mutex::new(counts)), Instant::now(), CancellationToken::new());
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            workers.spawn(work(self.clone(), counts.clone(), begun, stop.clone()));
        }
        Running { counts, begun, stop, workers }
    }
}

impl Running {
    /// The counts so far.
    pub fn snapshot(&self) -> LoadReport {
        let counts = lock(&self.counts);
        let quantile = |q| Duration::from_micros(counts.latency.as_ref().map_or(0, |times| times.value_at_quantile(q)));
        LoadReport {
            requests: counts.requests,
            failures: counts.failures,
            samples: counts.samples.clone(),
            elapsed: counts.end.unwrap_or_else(Instant::now).duration_since(self.begun),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: quantile(1.0),
        }
    }

    /// Lets requests under way finish, sends no more.
    pub async fn stop(self) -> LoadReport {
        self.stop.cancel();
        self.finish().await
    }

    /// Waits for the bounds of the load.
    pub async fn finish(mut self) -> LoadReport {
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                // A worker that dies unseen would look like a load without failures.
                let at = self.begun.elapsed();
                lock(&self.counts).fail(Failure { at, detail: format!("a worker died: {error}") });
            }
        }
        lock(&self.counts).end = Some(Instant::now());
        self.snapshot()
    }
}

impl Counts {
    /// Takes one request from those left.
    fn take(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    fn succeed(&mut self, time: Duration) {
        self.requests += 1;
        if let Some(times) = &mut self.latency {
            times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.requests += 1;
        self.failures += 1;
        if self.samples.len() < Load::SAMPLES {
            self.samples.push(failure);
        }
    }
}

async fn work(load: Load, counts: Arc<Mutex<Counts>>, begun: Instant, stop: CancellationToken) {
    let mut kept = None;
    while !stop.is_cancelled() && begun.elapsed() < load.max_duration && lock(&counts).take() {
        let sent = Instant::now();
        let outcome = tokio::time::timeout(load.timeout, one(&load, &mut kept)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {:?}", load.timeout)));
        let rest = match outcome {
            Ok(()) => {
                lock(&counts).succeed(sent.elapsed());
                load.pause
            }
            Err(detail) => {
                lock(&counts).fail(Failure { at: begun.elapsed(), detail });
                kept = None;
                load.pause.max(Load::REST)
            }
        };
        if !rest.is_zero() {
            let _ = tokio::time::timeout(rest, stop.cancelled()).await;
        }
    }
}

/// One request, on the connection kept or on a new one.
async fn one(load: &Load, kept: &mut Option<Connection>) -> Result<(), String> {
    // A kept one that the server closed in between has lost no request.
    let mut open = kept.take();
    if let Some(connection) = &mut open
        && !connection.is_open().await
    {
        open = None;
    }
    let mut connection = match open {
        Some(connection) => connection,
        None => Connection::open(load.address).await.map_err(|error| logs::chain(&error))?,
    };
    let answer = connection.send("GET", &load.path).await.map_err(|error| logs::chain(&error))?;
    if answer.status() != ::http::StatusCode::OK {
        let body: String = String::from_utf8_lossy(answer.body()).chars().take(200).collect();
        return Err(format!("{}: {body}", answer.status()));
    }
    let closed = answer.headers().get(::http::header::CONNECTION).is_some_and(|value| value == "close");
    if !load.connection_per_request && !closed {
        *kept = Some(connection);
    }
    Ok(())
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // Counters are whole even if somebody panicked with the lock.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
