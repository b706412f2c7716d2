//! A server on a socket, and the development issuer that it follows.

use std::{path::PathBuf, sync::Arc};

use spiffe_sds::{
    dev::{self, DevIssuer, Rotation},
    identity::{IdentityStore, SpiffeId, TrustDomain, Workload},
    listen, secret,
    server::{self, Server, StreamEvent},
    source::{Endpoint, Supervisor, WorkloadApi, supervisor, workload_api},
};
use tempfile::TempDir;
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use super::envoy::BOUND;

/// An issuer and a server with one identity, `spiffe://example.org/workload`.
pub struct Serving {
    pub issuer: DevIssuer,
    pub directory: TempDir,
    events: broadcast::Receiver<StreamEvent>,
    stop: CancellationToken,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Serving {
    /// Starts both.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(directory.path().join("agent.sock"));
        let mut issuer = dev::Config::new(TrustDomain::new("example.org").unwrap(), endpoint.clone());
        issuer.rotation = Rotation::Never;
        let issuer = issuer.identity(SpiffeId::new("spiffe://example.org/workload").unwrap(), None);
        let issuer = DevIssuer::start(issuer).await.unwrap();
        let store = Arc::new(IdentityStore::new());
        let source = WorkloadApi::new(workload_api::Config { endpoint, trust_domain: None });
        let supervisor = Supervisor::new(source, Workload::Own, store.clone(), supervisor::Config::default());
        let path = directory.path().join("sds.sock");
        let unix = listen::UnixConfig { path, mode: 0o600, owner: None, group: None };
        let config = server::Config { listeners: vec![listen::Config::Unix(unix)], ..server::Config::default() };
        let server = Server::bind(config, secret::Config::default()).await.unwrap();
        let (events, stop) = (server.events(), CancellationToken::new());
        tokio::spawn(server.run(store.watch(&Workload::Own), stop.clone()));
        tokio::spawn(supervisor.run(stop.clone()));
        Self { directory, events, issuer, stop }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sds.sock")
    }

    /// Waits until a client has taken each of these resources.
    pub async fn acked(&mut self, names: &[&str]) {
        let mut missing: Vec<_> = names.to_vec();
        let all = async {
            while !missing.is_empty() {
                match self.events.recv().await.unwrap() {
                    StreamEvent::Acked { name, .. } => missing.retain(|wanted| *wanted != name.as_str()),
                    StreamEvent::Nacked { name, detail, .. } => panic!("{name:?} was refused: {detail}"),
                    _ => {}
                }
            }
        };
        timeout(BOUND, all).await.unwrap_or_else(|_| panic!("not acknowledged: {names:?}"));
    }
}
