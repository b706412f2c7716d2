//! From one real Envoy to another: tokens that one injects and the other verifies, all of it by the same program.
//!
//! ```text
//!   Load --http--> Envoy (credential_injector) --http--> Envoy (jwt_authn) --> 200
//!                       \___ SDS ___  ___ JWK Set over HTTP ___/
//!                                   App --Workload API--> DevIssuer, and one that stands by
//! ```

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use spiffe_sds::{
    app::{App, AppError},
    config::{Config, File, Sources},
    dev::{
        self, DevIssuer, JwtConfig,
        envoy::{Envoy, EnvoyBinary, Load, admin::until, load::Running},
    },
    envoy::{Action, Address, Bootstrap, Inject, JwtVerifier, Listener, Sds, Upstream, Variant},
    identity::{JwtSnapshot, JwtState, SpiffeId, TrustDomain},
    source::{Endpoint, SourceStatus},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::stage::loopback;

const BOUND: Duration = Duration::from_secs(60);
const AGENT: &str = "agent.sock";
const STANDBY: &str = "standby.sock";

/// Everything, running.
pub(crate) struct Chain {
    /// First the preferred one.
    pub(crate) issuers: Vec<DevIssuer>,
    tokens: watch::Receiver<Arc<JwtSnapshot>>,
    source: watch::Receiver<SourceStatus>,
    label: String,
    injector: Envoy,
    verifier: Envoy,
    app: JoinHandle<Result<(), AppError>>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Chain {
    pub(crate) async fn start(binary: &EnvoyBinary, variant: Variant, issuers: usize, ttl: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sockets = [AGENT, STANDBY].map(|name| directory.path().join(name));
        let sockets = &sockets[..issuers];
        let mut started = Vec::new();
        for socket in sockets {
            let mut config = dev::Config::new(domain(), Endpoint::Unix(socket.clone()))
                .identity(SpiffeId::new("spiffe://example.org/frontend").unwrap(), None);
            config.jwt = JwtConfig { ttl, cached_percent: 45 };
            started.push(DevIssuer::start(config).await.unwrap());
        }
        let [sds, bundles] = ["sds.sock", "bundles.sock"].map(|name| directory.path().join(name));
        let agents: Vec<_> = sockets.iter().map(|socket| format!("'unix://{}'", socket.display())).collect();
        let app = App::bind(&program(&agents.join(", "), &sds, &bundles)).await.unwrap();
        let (stop, tokens, source) = (CancellationToken::new(), app.tokens(), app.source());
        let app = tokio::spawn(app.run(stop.clone()));

        // Keys are half as old as the program was told that verifiers let them become.
        let jwt = JwtVerifier::new("example.org", "payments").refresh(Duration::from_millis(500));
        let server = Bootstrap::new("verifier", "e2e", Sds::new(Variant::Delta, Address::Unix(sds.clone())))
            .bundles(Address::Unix(bundles))
            .listener(Listener::new("api", loopback(), Action::respond("in")).jwt(jwt));
        let verifier = start(binary, directory.path(), server).await;
        let api = verifier.wait_listener("api", BOUND).await.unwrap();
        let egress = Listener::new("egress", loopback(), Action::forward("api"));
        let client = Bootstrap::new("injector", "e2e", Sds::new(variant, Address::Unix(sds)))
            .listener(egress.inject(Inject::token("jwt-bearer:payments")))
            .upstream(Upstream::new("api", api));
        let injector = start(binary, directory.path(), client).await;
        let label = format!("{variant} on envoy {}", binary.version());
        let _directory = directory;
        Self { issuers: started, tokens, source, label, injector, verifier, app, stop, _directory }
    }

    /// Requests through both Envoys, once one has passed.
    pub(crate) async fn load(&self) -> Running {
        let egress = self.injector.wait_listener("egress", BOUND).await.unwrap();
        let load = || Load::new(egress).unwrap().pause(Duration::from_millis(10)).timeout(BOUND);
        until(BOUND, "a request that passes", async || {
            let report = load().max_requests(1).start().finish().await;
            if report.failures == 0 { Ok(()) } else { Err(format!("{:?}", report.samples)) }
        })
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", self.label));
        load().workers(2).start()
    }

    /// Ends a load of which no request may have failed: Envoy answers 401 if there is no token, and if there is no key.
    pub(crate) async fn expect_no_failure(&self, load: Running) {
        let report = load.stop().await;
        assert_eq!(report.failures, 0, "{}: {report:#?}", self.label);
        assert!(report.requests >= 10 * report.elapsed.as_secs(), "{}: hardly any load: {report:?}", self.label);
    }

    /// Until this issuer's X.509-SVIDs are in service; tells how long its token took from there.
    pub(crate) async fn switched_to(&mut self, index: usize) -> Duration {
        let socket = [AGENT, STANDBY][index];
        let active = |status: &SourceStatus| status.active.as_ref().is_some_and(|name| name.ends_with(socket));
        tokio::time::timeout(BOUND, self.source.wait_for(active)).await.expect(&self.label).unwrap();
        let since = Instant::now();
        self.token_of(index).await;
        since.elapsed()
    }

    /// Until the token in service is one that this issuer signed.
    pub(crate) async fn token_of(&mut self, index: usize) {
        let issuer = &self.issuers[index];
        let signed =
            |state: &JwtState| matches!(state, JwtState::Valid(it) if issuer.verify_jwt(it.token.compact()).is_some());
        let all = |snapshot: &Arc<JwtSnapshot>| snapshot.svids.values().all(signed);
        tokio::time::timeout(BOUND, self.tokens.wait_for(all)).await.expect(&self.label).unwrap();
    }

    /// Until so many keys are shown.
    pub(crate) async fn shows(&mut self, count: usize) {
        let keys = |snapshot: &Arc<JwtSnapshot>| snapshot.bundles.values().map(|it| it.keys().len()).sum::<usize>();
        let wait = self.tokens.wait_for(|snapshot| keys(snapshot) == count);
        tokio::time::timeout(BOUND, wait).await.expect(&self.label).unwrap();
    }

    pub(crate) async fn stop(self) {
        self.injector.stop().await;
        self.verifier.stop().await;
        self.stop.cancel();
        self.app.await.unwrap().unwrap();
    }
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

async fn start(binary: &EnvoyBinary, directory: &Path, bootstrap: Bootstrap) -> Envoy {
    let envoy = Envoy::start(binary, directory, bootstrap).await.unwrap_or_else(|error| panic!("{error}"));
    envoy.wait_ready(BOUND).await.unwrap_or_else(|error| panic!("{error}"));
    envoy
}

fn program(agents: &str, sds: &Path, bundles: &Path) -> Config {
    let text = format!(
        "source:\n  workload_api: {{ endpoints: [{agents}] }}\n  backoff: {{ initial: 50ms, max: 500ms }}\n  \
         failover: {{ lost_after: 200ms, failback_after: 1s }}\n\
         listeners: [{{ unix: {{ path: '{}' }} }}]\njwt: {{ svids: [{{ audience: [payments] }}] }}\n\
         bundle_endpoint: {{ refresh_hint: 1s, listeners: [{{ unix: {{ path: '{}' }} }}] }}\n",
        sds.display(),
        bundles.display()
    );
    let file = Some(File { path: "e2e.yaml".into(), text });
    Config::new(&Sources { file, ..Sources::default() }).unwrap_or_else(|problems| panic!("{problems}"))
}
