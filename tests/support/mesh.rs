//! Two Envoys in mTLS with each other, their secrets from the whole program, its identities from the development issuer.
//!
//! ```text
//!   Load --http--> client Envoy ==mTLS==> server Envoy      a new connection, hence a full handshake, for each request
//!                       \____ SDS ____  ____/
//!                                     App --Workload API--> DevIssuer
//! ```
//!
//! Issuer and program run in the test's process and are driven by their own setters; the Envoys are real.

mod program;

use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

use spiffe_sds::{
    dev::{
        self, CaStep, DevIssuer, Rotation,
        envoy::{Envoy, EnvoyBinary, Load, admin::until, load::LoadReport},
    },
    envoy::{Action, Address, Bootstrap, Listener, Sds, Tls, Upstream, Variant},
    identity::{SpiffeId, TrustDomain},
    server::StreamEvent,
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::runtime;

pub use program::Program;

use super::envoy::{latest, oldest};

pub const SERVER: &str = "spiffe://example.org/server";
pub const CLIENT: &str = "spiffe://example.org/client";

/// For waits that end well. A dozen Envoys may be starting at the same moment.
pub const BOUND: Duration = Duration::from_secs(60);

/// The socket of the issuer that stands by.
pub const STANDBY: &str = "standby.sock";

/// What a mesh is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub binary: EnvoyBinary,
    pub variant: Variant,
    /// Whether the issuer has identities from the start.
    pub issued: bool,
    /// Trust domains that the issuer federates with, each with a CA of its own in it.
    pub federated: Vec<TrustDomain>,
    pub server_tls: Tls,
    pub client_tls: Tls,
    /// Listeners of the server Envoy beside `mtls`.
    pub more: Vec<Listener>,
    /// How long an Envoy waits for a secret before it opens without.
    pub patience: Duration,
    /// Whether a second issuer, with a CA of its own in the same trust domain, stands by for the first.
    pub standby: bool,
}

/// A running one.
pub struct Mesh {
    pub plan: Plan,
    pub issuer: DevIssuer,
    /// The other one, where the plan has it.
    pub standby: Option<DevIssuer>,
    pub server: Envoy,
    pub client: Envoy,
    /// The client Envoy's plain-text port.
    pub entry: SocketAddr,
    /// The server Envoy's mTLS port.
    pub mtls: SocketAddr,
    program: Program,
    dir: TempDir,
}

impl Plan {
    /// Both identities issued; the server validates with `ALL` and the client with `ROOTCA`; each wants the other.
    pub fn new(binary: &EnvoyBinary, variant: Variant) -> Self {
        Self {
            binary: binary.clone(),
            variant,
            issued: true,
            federated: Vec::new(),
            server_tls: Tls::new("default", "ALL").peer(CLIENT).no_resumption(),
            client_tls: Tls::new(CLIENT, "ROOTCA").peer(SERVER).no_resumption(),
            more: Vec::new(),
            patience: Duration::from_secs(120),
            standby: false,
        }
    }

    /// How the Envoys reach the program.
    fn sds(&self, socket: PathBuf) -> Sds {
        let retry = (Duration::from_millis(100), Duration::from_millis(500));
        Sds::new(self.variant, Address::Unix(socket)).initial_fetch_timeout(self.patience).retry(retry.0, retry.1)
    }

    /// The server Envoy's main listener.
    pub fn mtls(&self) -> Listener {
        Listener::new("mtls", loopback(), Action::respond("hello from behind mTLS\n")).tls(self.server_tls.clone())
    }

    /// Starts everything; the Envoys may still wait for secrets.
    pub async fn start(self) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        let standby = if self.standby { Some(issuer(&self, dir.path().join(STANDBY)).await) } else { None };
        let issuer = issuer(&self, dir.path().join("agent.sock")).await;
        let program = Program::start(&dir, self.standby).await;
        let sds = self.sds(dir.path().join("sds.sock"));
        let mut server = Bootstrap::new("server", "e2e", sds.clone()).listener(self.mtls());
        server.listeners.extend(self.more.clone());
        let server = server.listeners_from(dir.path().join("listeners.yaml"));
        let server = Envoy::start(&self.binary, dir.path(), server).await.unwrap_or_else(|error| panic!("{error}"));
        let mtls = server.wait_listener("mtls", BOUND).await.unwrap();
        let client = Bootstrap::new("client", "e2e", sds)
            .listener(Listener::new("entry", loopback(), Action::forward("server")))
            .upstream(Upstream::new("server", mtls).tls(self.client_tls.clone()).connection_per_request());
        let client = Envoy::start(&self.binary, dir.path(), client).await.unwrap_or_else(|error| panic!("{error}"));
        let entry = client.wait_listener("entry", BOUND).await.unwrap();
        Mesh { plan: self, issuer, standby, server, client, entry, mtls, program, dir }
    }

    /// Starts everything and waits until requests go through.
    pub async fn serving(self) -> Mesh {
        let mesh = self.start().await;
        mesh.wait_serving().await;
        mesh
    }
}

impl Mesh {
    /// Waits until both Envoys have their secrets and a request goes through them.
    pub async fn wait_serving(&self) {
        self.server.wait_ready(BOUND).await.unwrap_or_else(|error| panic!("{error}"));
        self.client.wait_ready(BOUND).await.unwrap_or_else(|error| panic!("{error}"));
        self.eventually("a request that goes through", async || match self.request().await {
            report if report.failures == 0 => Ok(()),
            report => Err(format!("{:?}", report.samples)),
        })
        .await;
    }

    /// One request through both Envoys.
    pub async fn request(&self) -> LoadReport {
        Load::new(self.entry).unwrap().connection_per_request().max_requests(1).start().finish().await
    }

    /// Requests through both Envoys until stopped. Enough of them that a window of a few milliseconds in which the two
    /// do not match is hit, and few enough that a dozen meshes fit on a small machine.
    pub fn load(&self) -> dev::envoy::load::Running {
        let load = Load::new(self.entry).unwrap().connection_per_request().workers(2);
        load.pause(Duration::from_millis(15)).timeout(Duration::from_secs(20)).start()
    }

    /// Ends a load of which no request may have failed.
    pub async fn expect_no_failure(&self, load: dev::envoy::load::Running) -> LoadReport {
        let report = load.stop().await;
        assert_eq!(report.failures, 0, "{}: {report:#?}", self.label());
        assert!(report.requests >= 10 * report.elapsed.as_secs(), "{}: hardly any load: {report:?}", self.label());
        report
    }

    /// For messages.
    pub fn label(&self) -> String {
        format!("{} on envoy {}", self.plan.variant, self.plan.binary.version())
    }

    /// The serial of an identity's present leaf.
    pub fn serial(&self, spiffe_id: &str) -> String {
        self.issuer.svid(&id(spiffe_id)).unwrap().serial
    }

    /// Waits until both Envoys use the leaves that the issuer has now.
    pub async fn wait_leaves(&self) {
        self.wait_leaf(&self.server, SERVER).await;
        self.wait_leaf(&self.client, CLIENT).await;
    }

    /// Waits until the client Envoy uses the leaf that the issuer has now.
    pub async fn wait_client_leaf(&self) {
        self.wait_leaf(&self.client, CLIENT).await;
    }

    async fn wait_leaf(&self, envoy: &Envoy, id: &str) {
        let wanted = self.serial(id);
        self.eventually(&format!("the leaf {wanted} of {id}"), async || {
            let found = envoy.admin().cert_serials().await.map_err(|error| error.to_string())?;
            if found.contains(&wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// Waits until both Envoys have, for the own trust domain, the issuer's authorities and no others. (`/certs` shows
    /// one authority a trust domain only.)
    pub async fn wait_authorities(&self) {
        let pem = self.issuer.bundle_pem(&td("example.org")).unwrap();
        let wanted = format!("\"{}\"", base64(pem.as_bytes()));
        for (envoy, tls) in [(&self.server, &self.plan.server_tls), (&self.client, &self.plan.client_tls)] {
            self.eventually(&format!("the authorities in {}", tls.validation), async || {
                let secrets = envoy.admin().config_dump("dynamic_active_secrets").await;
                let mut secrets = secrets.map_err(|error| error.to_string())?;
                secrets.retain(|secret| secret.get("name").is_some_and(|name| *name == *tls.validation));
                let there = secrets.iter().any(|secret| secret.to_string().contains(&wanted));
                if there { Ok(()) } else { Err(format!("{secrets:?}")) }
            })
            .await;
        }
    }

    /// A bounded wait that says which mesh it was.
    pub async fn eventually<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
        until(BOUND, what, probe).await.unwrap_or_else(|error| panic!("{}: {error}", self.label()))
    }

    /// Rolls the issuer's CA over in one message with the new root alone and the leaves under it.
    pub fn roll_at_once(&self) {
        // Who hangs says nothing; who recovers says only the newest.
        self.issuer.hang();
        self.issuer.prepare_ca().unwrap();
        self.issuer.activate_ca().unwrap();
        self.issuer.retire_ca().unwrap();
        self.issuer.recover();
    }

    /// Rolls the issuer's CA over in three messages with `pause` between them.
    pub async fn roll_in_steps(&self, pause: Duration) {
        let mut clock = tokio::time::interval(pause);
        for step in [CaStep::Prepare, CaStep::Activate, CaStep::Retire] {
            clock.tick().await;
            self.issuer.ca_step(&td("example.org"), step).unwrap();
        }
    }

    /// Replaces all listeners of the server Envoy; each may have settings of its own for its secrets.
    pub fn replace_listeners(&self, listeners: &[(&Bootstrap, &Listener)]) {
        let mut file = self.server.bootstrap().listener_file("again", &[]).unwrap();
        if !listeners.is_empty() {
            file = "version_info: again\nresources:\n".to_owned();
        }
        for (bootstrap, listener) in listeners {
            let one = bootstrap.listener_file("again", &[(*listener).clone()]).unwrap();
            file += one.split_once("resources:\n").unwrap().1;
        }
        let path = self.server.bootstrap().listeners_from.as_ref().unwrap();
        fs::write(path.with_extension("new"), file).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// Stops the program as SIGTERM does and waits until it is gone.
    pub async fn stop_program(&mut self) {
        self.program.stop().await;
    }

    /// Starts it again on the same socket; it has seen nothing yet.
    pub async fn start_program(&mut self) {
        self.program = Program::start(&self.dir, self.plan.standby).await;
    }

    /// Kills the issuer: its socket goes, its connections break.
    pub async fn replace_issuer(&mut self, while_down: impl AsyncFnOnce(&Self)) {
        // A stand-in on another socket: the old issuer has to be gone before the new one can take its place.
        let stand_in = issuer(&self.plan, self.dir.path().join("stand-in.sock")).await;
        std::mem::replace(&mut self.issuer, stand_in).shutdown().await;
        while_down(self).await;
        self.issuer = issuer(&self.plan, self.dir.path().join("agent.sock")).await;
    }

    /// From now on the other issuer is the one that the Envoys are held against.
    pub fn look_at_the_other_issuer(&mut self) {
        std::mem::swap(&mut self.issuer, self.standby.as_mut().expect("a plan with a standby"));
    }

    /// Kills the issuer that is not looked at and starts one without a memory on the first one's socket.
    pub async fn restart_first_issuer(&mut self, while_down: impl AsyncFnOnce(&mut Self)) {
        self.standby.take().expect("a plan with a standby").shutdown().await;
        while_down(self).await;
        self.standby = Some(issuer(&self.plan, self.dir.path().join("agent.sock")).await);
    }

    /// Waits until the source with this socket is the one in service.
    pub async fn wait_in_service(&self, socket: &str) {
        let mut source = self.program.source();
        let active = source.wait_for(|status| status.active.as_ref().is_some_and(|name| name.ends_with(socket)));
        tokio::time::timeout(BOUND, active).await.unwrap_or_else(|_| panic!("{}: {socket}", self.label())).unwrap();
    }

    /// The running program, with what it has told since its start.
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// Waits until so many streams have been opened since the program's start.
    pub async fn wait_opened(&self, wanted: usize) {
        self.eventually(&format!("{wanted} opened streams"), async || {
            let opened = |event: &StreamEvent| matches!(event, StreamEvent::Opened { .. });
            match self.program.stream_events().iter().filter(|event| opened(event)).count() {
                count if count >= wanted => Ok(()),
                count => Err(format!("{count}")),
            }
        })
        .await;
    }

    /// Streams of both Envoys together: one an Envoy if aggregated, otherwise one a secret.
    pub fn streams(&self) -> usize {
        if self.plan.variant.is_aggregated() { 2 } else { 4 }
    }
}

/// On failure, what there is to know.
impl Drop for Mesh {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        println!("--- {} failed; the program's last events:", self.label());
        self.program.print_last_events();
        for envoy in [&self.server, &self.client] {
            let log = fs::read_to_string(envoy.log()).unwrap_or_default();
            println!("--- the end of the {} envoy's log:", envoy.bootstrap().node_id);
            let lines: Vec<_> = log.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(15)).for_each(|line| println!("{line:.240}"));
        }
    }
}

/// Runs `story` on a mesh for each variant, all at once, and fails if one of them does.
pub fn each(binary: &EnvoyBinary, variants: &[Variant], story: impl AsyncFn(Plan) + Sync) {
    let run = &|variant| {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(story(Plan::new(binary, variant)));
    };
    let failed: Vec<_> = thread::scope(|scope| {
        let stories: Vec<_> = variants.iter().map(|&variant| (variant, scope.spawn(move || run(variant)))).collect();
        stories.into_iter().filter_map(|(variant, story)| story.join().err().map(|_| variant)).collect()
    });
    assert!(failed.is_empty(), "{failed:?} failed on envoy {}, see above", binary.version());
}

/// Runs `story` on every variant of the latest Envoy and on those of the oldest that differ: its delta client repeats the
/// node in every message, its SotW client does not.
pub fn everywhere(story: impl AsyncFn(Plan) + Sync) {
    let story = &story;
    thread::scope(|scope| {
        let run = |binary: EnvoyBinary, variants: &'static [Variant]| move || each(&binary, variants, story);
        let runs = [
            scope.spawn(run(latest(), &Variant::ALL)),
            scope.spawn(run(oldest(), &[Variant::Delta, Variant::AdsDelta])),
        ];
        let failed = runs.into_iter().filter_map(|run| run.join().err()).count();
        assert_eq!(failed, 0, "see above");
    });
}

async fn issuer(plan: &Plan, socket: PathBuf) -> DevIssuer {
    let mut config = dev::Config::new(td("example.org"), Endpoint::Unix(socket));
    config.rotation = Rotation::Never;
    config.federated.clone_from(&plan.federated);
    if plan.issued {
        config = config.identity(id(SERVER), None).identity(id(CLIENT), None);
    }
    DevIssuer::start(config).await.unwrap()
}

/// As in the JSON of protobuf bytes.
fn base64(bytes: &[u8]) -> String {
    let pem = pem_rfc7468::encode_string("BYTES", pem_rfc7468::LineEnding::LF, bytes).unwrap();
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

pub fn td(text: &str) -> TrustDomain {
    TrustDomain::new(text).unwrap()
}

/// A port of the kernel's choice.
pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
