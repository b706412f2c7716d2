//! Two Envoys, an issuer, the real program as a child, and a parent that holds its socket.

use std::{
    collections::BTreeMap,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use spiffe_sds::{
    dev::{
        self, DevIssuer, Rotation,
        envoy::{
            Envoy, Load,
            admin::until,
            load::{LoadReport, Running},
        },
    },
    envoy::{Action, Address, Bootstrap, Listener, Sds, Upstream},
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::support::mesh::{BOUND, CLIENT, Plan, SERVER, id, loopback, td};

/// All of it, running.
pub(super) struct Stage {
    plan: Plan,
    issuer: DevIssuer,
    server: Envoy,
    client: Envoy,
    entry: std::net::SocketAddr,
    program: Program,
    listener: UnixListener,
    dir: TempDir,
}

/// One life of the program, and its log.
struct Program {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Stage {
    /// Serving, with every stream open.
    pub(super) async fn start(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = dev::Config::new(td("example.org"), Endpoint::Unix(dir.path().join("agent.sock")));
        config.rotation = Rotation::Never;
        let issuer = DevIssuer::start(config.identity(id(SERVER), None).identity(id(CLIENT), None)).await.unwrap();
        let listener = UnixListener::bind(dir.path().join("sds.sock")).unwrap();
        let program = Program::start(&dir, &listener);
        // As `spiffe-sds bootstrap` prints it, but for the patience at the start of a busy machine.
        let sds = Sds::new(plan.variant, Address::Unix(dir.path().join("sds.sock"))).initial_fetch_timeout(2 * BOUND);
        let server = Bootstrap::new("server", "e2e", sds.clone()).listener(plan.mtls());
        let server = Envoy::start(&plan.binary, dir.path(), server).await.unwrap();
        let mtls = server.wait_listener("mtls", BOUND).await.unwrap();
        let client = Bootstrap::new("client", "e2e", sds)
            .listener(Listener::new("entry", loopback(), Action::forward("server")))
            .upstream(Upstream::new("server", mtls).tls(plan.client_tls.clone()).connection_per_request());
        let client = Envoy::start(&plan.binary, dir.path(), client).await.unwrap();
        let entry = client.wait_listener("entry", BOUND).await.unwrap();
        let stage = Self { plan, issuer, server, client, entry, program, listener, dir };
        stage.server.wait_ready(BOUND).await.unwrap();
        stage.client.wait_ready(BOUND).await.unwrap();
        stage.opened(Duration::ZERO).await;
        stage
    }

    /// Requests through both Envoys, each on a connection of its own.
    pub(super) fn load(&self) -> Running {
        let load = Load::new(self.entry).unwrap().connection_per_request().workers(2);
        load.pause(Duration::from_millis(15)).timeout(Duration::from_secs(20)).start()
    }

    /// Ends the program and starts it again; waits until the last stream is open again.
    pub(super) async fn restart(&mut self, signal: Signal) {
        let begun = Instant::now();
        self.program.end(signal).await;
        let down = begun.elapsed();
        self.program = Program::start(&self.dir, &self.listener);
        self.opened(down).await;
    }

    /// Until every stream is open on this life of the program.
    async fn opened(&self, down: Duration) {
        // One an Envoy if aggregated, otherwise one a secret.
        let wanted = if self.plan.variant.is_aggregated() { 2 } else { 4 };
        self.eventually("open streams", async || match self.program.count("stream opened") {
            count if count >= wanted => Ok(()),
            count => Err(format!("{count} of {wanted}, {down:?} down, {:?}", self.program.last())),
        })
        .await;
    }

    /// The secrets that this life of the program has sent.
    pub(super) fn sent(&self) -> Vec<String> {
        let log = self.program.log.lock().unwrap();
        let sent = log.iter().filter(|line| line["message"] == "resource sent");
        sent.map(|line| format!("{} {}", line["client"], line["name"])).collect()
    }

    /// Waits until so many more requests have been made, none of which may fail.
    pub(super) async fn served(&self, load: &Running, requests: u64) {
        let wanted = load.snapshot().requests + requests;
        self.eventually("requests without failure", async || match load.snapshot() {
            LoadReport { failures, samples, .. } if failures > 0 => panic!("{}: {samples:?}", self.label()),
            report if report.requests >= wanted => Ok(()),
            report => Err(format!("{report:?}")),
        })
        .await;
    }

    /// What both Envoys have counted of each secret, and which version they hold.
    pub(super) async fn secrets(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for envoy in [&self.server, &self.client] {
            let stats = envoy.admin().stats(r"^sds\..*\.(update_success|update_rejected|version_text)$").await.unwrap();
            let node = &envoy.bootstrap().node_id;
            all.extend(stats.into_iter().map(|(name, value)| (format!("{node} {name}"), value)));
        }
        assert!(all.len() >= 8, "{}: {all:?}", self.label());
        all
    }

    /// Rotates both certificates and waits until they are in use.
    pub(super) async fn rotate(&self) {
        self.issuer.rotate().unwrap();
        for (envoy, spiffe_id) in [(&self.server, SERVER), (&self.client, CLIENT)] {
            let serial = self.issuer.svid(&id(spiffe_id)).unwrap().serial;
            envoy.admin().wait_serial(&serial, BOUND).await.unwrap_or_else(|error| panic!("{}: {error}", self.label()));
        }
    }

    pub(super) fn label(&self) -> String {
        format!("{} on envoy {}", self.plan.variant, self.plan.binary.version())
    }

    async fn eventually(&self, what: &str, probe: impl AsyncFnMut() -> Result<(), String>) {
        until(BOUND, what, probe).await.unwrap_or_else(|error| panic!("{}: {error}", self.label()));
    }
}

impl Program {
    /// As systemd does it: the socket as descriptor 3, and `LISTEN_PID` once the process is there.
    fn start(dir: &TempDir, listener: &UnixListener) -> Self {
        let script = "export LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null";
        let listeners = format!("listeners=[{{unix: {{path: {}}}}}]", dir.path().join("sds.sock").display());
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_spiffe-sds"), "serve", "--endpoint"]);
        command.arg(format!("unix://{}", dir.path().join("agent.sock").display()));
        command.args(["--log-format", "json", "--log-level", "info,spiffe_sds::server=debug", "--set", &listeners]);
        command.env_clear().env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "spiffe-sds.socket");
        command.stdin(OwnedFd::from(listener.try_clone().unwrap())).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                    log.lock().unwrap().push(line);
                }
            }
        });
        Self { child, log }
    }

    async fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
        let status = tokio::time::timeout(BOUND, self.child.wait()).await.expect("it ends").unwrap();
        assert_eq!(status.success(), signal == Signal::SIGTERM, "{status}: {:?}", self.last());
    }

    fn count(&self, message: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line["message"] == message).count()
    }

    fn last(&self) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter().rev().take(5).cloned().collect()
    }
}
