//! A development issuer, the program that follows it, and a crowd of clients.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use spiffe_sds::{
    dev::{self, DevIssuer, Rotation},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UnixListener, UnixStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{crowd::Crowd, trouble::Trouble};

/// No wait is longer.
const BOUND: Duration = Duration::from_secs(30);
/// What the program is told beside the trouble. Nothing holds back a rotation.
const USUAL: &str = "secrets: {rollout_hold: 0s}\nsource: {workload_api: {endpoint: 'unix://$/api.sock'}}\n\
                     listeners: [{unix: {path: '$/sds.sock', mode: '0600'}}]\n\
                     admin: {listeners: [{unix: {path: '$/admin.sock'}}, {tcp: {address: '127.0.0.1:0'}}]}\n";

/// The stage. The program is one of its own, so that only what it does counts, and ends with it.
pub(crate) struct Stage {
    issuer: DevIssuer,
    directory: TempDir,
    program: Child,
    log: Arc<Mutex<Vec<String>>>,
    crowd: Arc<Crowd>,
    streams: usize,
    /// Whoever connects to it waits for ever.
    _mute: UnixListener,
}

impl Stage {
    /// Starts everything; each of `streams` has its first answer then.
    pub(crate) async fn open(trouble: &Trouble, streams: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(directory.path().join("api.sock"));
        let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), endpoint);
        config.rotation = Rotation::Never;
        let issuer = DevIssuer::start(config.identity(SpiffeId::new("spiffe://example.org/w").unwrap(), None)).await;
        let mute = UnixListener::bind(directory.path().join("mute.sock")).unwrap();
        let place = |text: &str| text.replace("$/", &format!("{}/", directory.path().display()));
        std::fs::write(directory.path().join("sds.yaml"), place(&format!("{USUAL}{}", trouble.yaml))).unwrap();
        let mut program = Command::new("/bin/sh")
            .args(["-c", &format!("{}exec \"$0\" serve --config \"$1\"", trouble.shell)])
            .arg(env!("CARGO_BIN_EXE_spiffe-sds"))
            .arg(directory.path().join("sds.yaml"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        tokio::spawn(read(program.stderr.take().unwrap(), log.clone()));
        let crowd = Crowd::connect(&directory.path().join("sds.sock")).await;
        crowd.open(streams).await;
        Self { issuer: issuer.unwrap(), directory, program, log, crowd, streams, _mute: mute }
    }

    /// A rotation; how long it took to each client, in microseconds.
    pub(crate) async fn rotate(&self) -> Vec<u64> {
        self.crowd.told(self.streams, || self.issuer.rotate().unwrap()).await
    }

    /// A path in the directory.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.id().expect("the program ended")
    }

    /// Writes a configuration, and says so by SIGHUP.
    pub(crate) fn reload(&self, yaml: &str) {
        let text = format!("{USUAL}{yaml}").replace("$/", &format!("{}/", self.directory.path().display()));
        // At once: whoever reads half a file has another configuration.
        std::fs::write(self.at("next.yaml"), text).unwrap();
        std::fs::rename(self.at("next.yaml"), self.at("sds.yaml")).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    /// The address of the admin listener over TCP.
    pub(crate) async fn address(&self) -> String {
        let said = |log: &[String]| {
            let line = log.iter().find(|line| line.contains("serving the admin pages") && line.contains("tcp://"))?;
            Some(line.split_once("tcp://")?.1.chars().take_while(|c| *c != '"').collect::<String>())
        };
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(address) = said(&self.log()) {
                return address;
            }
            assert!(Instant::now() < deadline, "the program does not say where its admin pages are");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// GET over the Unix socket: head and body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let io = UnixStream::connect(self.at("admin.sock")).await.expect("no admin socket");
        String::from_utf8(exchange(io, request.as_bytes()).await).expect("no text")
    }

    /// Until the log has a line with this text.
    pub(crate) async fn logs(&self, text: &str) -> bool {
        let deadline = Instant::now() + BOUND;
        while Instant::now() < deadline {
            if self.log().iter().any(|line| line.contains(text)) {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Until the sample that begins so is more than zero.
    pub(crate) async fn counts(&self, sample: &str) -> bool {
        let deadline = Instant::now() + BOUND;
        while Instant::now() < deadline {
            if self.sample(sample).await.is_some_and(|value| value > 0.0) {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// The value of the sample that begins so.
    pub(crate) async fn sample(&self, sample: &str) -> Option<f64> {
        let sample = sample.replace("$/", &format!("{}/", self.directory.path().display()));
        let text = self.get("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(&sample))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends bytes, and reads until the other side hangs up. Whoever is refused early may be hung up on while it speaks.
pub(crate) async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let talk = async {
        let _ = io.write_all(request).await;
        let _ = io.read_to_end(&mut answer).await;
    };
    let _ = timeout(BOUND, talk).await;
    answer
}

/// Any bytes over TCP.
pub(crate) async fn tcp(address: &str, request: &[u8]) -> Vec<u8> {
    match TcpStream::connect(address).await {
        Ok(io) => exchange(io, request).await,
        Err(_) => Vec::new(),
    }
}

async fn read(stderr: impl AsyncRead + Unpin, log: Arc<Mutex<Vec<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log at its loudest is not kept whole.
        if log.len() < 50_000 {
            log.push(line);
        }
    }
}
