//! The whole program with its admin listener, and who asks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use spiffe_sds::{
    app::{App, AppError},
    config::{Config, Flag, Sources},
    dev::{self, DevIssuer, Rotation},
    identity::{JwtSnapshot, JwtState},
    listen::Bound,
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::support::{
    traces,
    world::{BOUND, DOMAIN, bounded, id, td, unix_channel},
};

/// An issuer and a program that follows it.
pub(crate) struct Site {
    pub(crate) issuer: Arc<DevIssuer>,
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) tokens: watch::Receiver<Arc<JwtSnapshot>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), AppError>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Site {
    /// `spiffe://domain.test/workload`, served and administered on Unix sockets and TCP. Not necessarily ready.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let (issuer, directory) = issuer().await;
        Self::beside(issuer, directory, settings).await
    }

    /// The same; says that it is ready.
    pub(crate) async fn ready(settings: &[(&str, &str)]) -> Self {
        let site = Self::start(settings).await;
        site.until("/ready", |answer| answer.status == 200).await;
        site
    }

    pub(crate) async fn beside(issuer: Arc<DevIssuer>, directory: TempDir, settings: &[(&str, &str)]) -> Self {
        let app = App::bind(&config(&issuer, &directory, settings)).await.unwrap();
        Self::of(app, issuer, directory)
    }

    /// A program that was bound with [`config`].
    pub(crate) fn of(app: App, issuer: Arc<DevIssuer>, directory: TempDir) -> Self {
        let address = app.admin_bound().into_iter().find_map(|bound| match bound {
            Bound::Tcp(address) => Some(address),
            Bound::Unix(_) => None,
        });
        let (stop, tokens) = (CancellationToken::new(), app.tokens());
        let running = tokio::spawn(app.run(stop.clone()));
        Self { issuer, directory, address: address.unwrap(), tokens, stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        bounded(self.running).await.unwrap().unwrap();
    }

    /// Whatever must never be shown: parts of the private key and of every token in service.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let key = self.issuer.svid(&id("workload")).unwrap().svid.key.pkcs8_der().to_vec();
        let tokens = self.tokens.borrow().clone();
        let tokens = tokens.svids.values().filter_map(|state| match state {
            JwtState::Valid(svid) => Some(traces::of_token(svid.token.compact())),
            JwtState::Pending | JwtState::Gone(_) => None,
        });
        tokens.flatten().chain(traces::of_key(&key)).collect()
    }

    /// A connection of Envoy's.
    pub(crate) async fn xds(&self) -> Channel {
        unix_channel(self.directory.path().join("sds.sock")).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    /// A GET over the Unix socket.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.unix(&format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")).await
    }

    /// Any bytes over the Unix socket, and what comes back until the other side hangs up.
    pub(crate) async fn unix(&self, request: &str) -> Answer {
        exchange(bounded(UnixStream::connect(self.socket())).await.unwrap(), request).await
    }

    /// Any bytes over TCP.
    pub(crate) async fn tcp(&self, request: &str) -> Answer {
        exchange(bounded(TcpStream::connect(self.address)).await.unwrap(), request).await
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, mut wanted: impl FnMut(&Answer) -> bool) -> Answer {
        let mut last = None;
        let asked = async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            loop {
                pace.tick().await;
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                last = Some(answer);
            }
        };
        match tokio::time::timeout(BOUND, asked).await {
            Ok(answer) => answer,
            Err(_) => panic!("{path} stayed at {last:?}"),
        }
    }

    /// The metrics, now.
    pub(crate) async fn scrape(&self) -> Samples {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, 200);
        Samples::parse(&answer.body)
    }

    /// The metrics, once this one has this value.
    pub(crate) async fn scraped(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Samples {
        let wanted = |answer: &Answer| (Samples::parse(&answer.body).sum(name, labels) - value).abs() < 1e-9;
        Samples::parse(&self.until("/metrics", wanted).await.body)
    }
}

/// An issuer of `spiffe://domain.test/workload`.
pub(crate) async fn issuer() -> (Arc<DevIssuer>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = dev::Config::new(td(DOMAIN), Endpoint::Unix(directory.path().join("api.sock")));
    config.rotation = Rotation::Never;
    let issuer = DevIssuer::start(config.identity(id("workload"), None)).await.unwrap();
    (Arc::new(issuer), directory)
}

/// Everything in `directory`, and settings on top.
pub(crate) fn config(issuer: &DevIssuer, directory: &TempDir, settings: &[(&str, &str)]) -> Config {
    let path = |name: &str| format!("unix://{}", directory.path().join(name).display());
    let defaults = [
        ("source.workload_api.endpoint", issuer.endpoint().to_string()),
        ("source.backoff.initial", "10ms".to_owned()),
        ("source.backoff.max", "100ms".to_owned()),
        ("listeners", path("sds.sock")),
        ("admin.listeners", format!("{},tcp://127.0.0.1:0", path("admin.sock"))),
    ];
    // One endpoint, unless there are several.
    let several = settings.iter().any(|(key, _)| *key == "source.workload_api.endpoints");
    let defaults = defaults.into_iter().skip(usize::from(several));
    let settings = settings.iter().map(|(key, value)| (*key, (*value).to_owned()));
    let flag = |(key, value): (&str, String)| Flag { flag: "--set", key: key.to_owned(), value };
    let flags = defaults.chain(settings).map(flag).collect();
    Config::new(&Sources { flags, ..Sources::default() }).unwrap_or_else(|problems| panic!("{problems}"))
}

async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    // Who is refused early may be hung up on while it still speaks.
    let _ = bounded(io.write_all(request.as_bytes())).await;
    let mut bytes = Vec::new();
    let _ = bounded(io.read_to_end(&mut bytes)).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// The samples of one scrape.
#[derive(Debug)]
pub(crate) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "cut off: {text}");
        Self(text.lines().filter(|line| !line.starts_with('#')).map(Sample::parse).collect())
    }

    /// The sum of the samples that have these labels (and maybe more).
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.contains(&((*key).into(), (*value).into())))
        };
        self.0.iter().filter(has).map(|sample| sample.value).sum()
    }

    /// Every value of a label.
    pub(crate) fn values(&self, label: &str) -> std::collections::BTreeSet<&str> {
        let labels = self.0.iter().flat_map(|sample| &sample.labels);
        labels.filter(|(key, _)| key == label).map(|(_, value)| value.as_str()).collect()
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('"').to_owned())
        });
        Self { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
    }
}
