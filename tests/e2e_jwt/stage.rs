//! Issuer, program, Envoy and verifier.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use spiffe_sds::{
    app::{App, AppError},
    config::{Config, File, Flag, Sources},
    dev::{
        self, DevIssuer, JwtConfig,
        envoy::{Envoy, EnvoyBinary, Load, admin::until, load::Running},
    },
    envoy::{Action, Address, Bootstrap, Inject, Listener, Sds, Upstream, Variant},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const BOUND: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) issuer: Arc<DevIssuer>,
    envoy: Envoy,
    egress: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    verifier: JoinHandle<()>,
    app: JoinHandle<Result<(), AppError>>,
    stop: CancellationToken,
    _directory: TempDir,
}

/// What the verifier has seen.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Every good token.
    pub(crate) tokens: BTreeSet<String>,
    /// What was wrong with the others.
    pub(crate) bad: Vec<String>,
    pub(crate) requests: u64,
}

impl Stage {
    pub(crate) async fn start(binary: &EnvoyBinary, variant: Variant, token: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = Endpoint::Unix(directory.path().join("agent.sock"));
        let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), agent)
            .identity(SpiffeId::new("spiffe://example.org/frontend").unwrap(), None);
        config.jwt = JwtConfig { ttl: Duration::from_secs(4), cached_percent: 45 };
        let issuer = Arc::new(DevIssuer::start(config).await.unwrap());

        let sds = directory.path().join("sds.sock");
        let flag = |key: &str, value: String| Flag { flag: "--set", key: key.to_owned(), value };
        let flags = vec![
            flag("source.workload_api.endpoint", issuer.endpoint().to_string()),
            flag("listeners", format!("unix://{}", sds.display())),
            flag("jwt.svids", "payments".to_owned()),
        ];
        let text = "source: {backoff: {initial: 50ms, max: 500ms}}".to_owned();
        let file = Some(File { path: "e2e.yaml".into(), text });
        let config = Config::new(&Sources { file, flags, ..Sources::default() }).unwrap();
        let (app, stop) = (App::bind(&config).await.unwrap(), CancellationToken::new());
        let app = tokio::spawn(app.run(stop.clone()));

        let seen = Arc::new(Mutex::new(Seen::default()));
        let (address, verifier) = verifier(issuer.clone(), seen.clone()).await;
        let egress = Listener::new("egress", loopback(), Action::forward("verifier")).inject(Inject::token(token));
        let bootstrap = Bootstrap::new("frontend", "e2e", Sds::new(variant, Address::Unix(sds)))
            .listener(egress)
            .upstream(Upstream::new("verifier", address));
        let envoy = Envoy::start(binary, directory.path(), bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
        envoy.wait_ready(BOUND).await.unwrap_or_else(|error| panic!("{error}"));
        let egress = envoy.wait_listener("egress", BOUND).await.unwrap();
        Self { issuer, envoy, egress, seen, verifier, app, stop, _directory: directory }
    }

    pub(crate) fn load(&self) -> Running {
        Load::new(self.egress).unwrap().workers(2).pause(Duration::from_millis(10)).timeout(BOUND).start()
    }

    /// Until a request is answered with this status.
    pub(crate) async fn until_status(&self, status: u16) {
        let wanted = status.to_string();
        until(BOUND, &format!("status {status}"), async || match self.status().await {
            found if found == wanted => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Whether request after request is refused by Envoy.
    pub(crate) async fn nobody_passes(&self) -> bool {
        let before = self.verified().requests;
        let report = Load::new(self.egress).unwrap().max_requests(20).start().finish().await;
        report.failures == 20 && self.verified().requests == before
    }

    pub(crate) fn verified(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.envoy.stop().await;
        self.stop.cancel();
        self.app.await.unwrap().unwrap();
        self.verifier.abort();
    }

    async fn status(&self) -> String {
        let report = Load::new(self.egress).unwrap().max_requests(1).start().finish().await;
        report.samples.first().map_or_else(|| "200".to_owned(), |it| it.detail.chars().take(3).collect())
    }
}

/// An upstream that looks at every request's token.
async fn verifier(issuer: Arc<DevIssuer>, seen: Arc<Mutex<Seen>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (issuer, seen) = (issuer.clone(), seen.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let verdict = verdict(&issuer, &request);
                let mut seen = seen.lock().unwrap();
                seen.requests += 1;
                match verdict {
                    Ok(token) => _ = seen.tokens.insert(token),
                    Err(why) => seen.bad.push(why),
                }
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from_static(b"ok")))))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    };
    (address, tokio::spawn(accept))
}

/// The token, if there is one that is signed, for us and not ended; no leeway.
fn verdict(issuer: &DevIssuer, request: &Request<Incoming>) -> Result<String, String> {
    let header = request.headers().get("authorization").ok_or("no token")?;
    let token = header.to_str().map_err(|error| error.to_string())?.strip_prefix("Bearer ").ok_or("no Bearer")?;
    // A retired key is no longer the issuer's; what it had signed may be on its way still.
    let claims = issuer.verify_jwt(token).or_else(|| unverified(token)).ok_or("not readable")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = Duration::from_secs(claims["exp"].as_u64().ok_or("no exp")?);
    if now >= end {
        return Err(format!("ended {:?} ago", now - end));
    }
    if claims["aud"][0] != "payments" {
        return Err("for another audience".to_owned());
    }
    Ok(token.to_owned())
}

fn unverified(token: &str) -> Option<serde_json::Value> {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&Base64UrlUnpadded::decode_vec(claims).ok()?).ok()
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
