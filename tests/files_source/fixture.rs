//! A supervisor on files, an issuer that never serves, and the ways in which others write its identities into files.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer as _,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64ct::{Base64, Encoding as _};
use pem_rfc7468::LineEnding;
use spiffe_sds::{
    dev::{self, DevIssuer, Issued, Rotation},
    identity::{
        Availability, Certificate, IdentitySnapshot, IdentityStore, SpiffeId, TrustBundle, TrustDomain, Workload,
    },
    source::{
        Endpoint, Files, RenewalEvent, Source, Supervisor, backoff, failover,
        files::{Config, Paths, SvidFiles},
        supervisor,
    },
};
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

const BOUND: Duration = Duration::from_secs(60);

/// An issuer whose socket nobody uses.
pub(crate) struct Ca {
    issuer: DevIssuer,
    id: SpiffeId,
    _directory: TempDir,
}

/// One identity and whom it may trust.
pub(crate) struct Held {
    pub(crate) issued: Issued,
    bundle: String,
}

impl Ca {
    pub(crate) async fn new(trust_domain: &str) -> Self {
        Self::start(trust_domain, false).await
    }

    pub(crate) async fn with_intermediate(trust_domain: &str) -> Self {
        Self::start(trust_domain, true).await
    }

    async fn start(trust_domain: &str, intermediate: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let id = SpiffeId::new(format!("spiffe://{trust_domain}/web")).unwrap();
        let socket = Endpoint::Unix(directory.path().join("agent.sock"));
        let mut config = dev::Config::new(TrustDomain::new(trust_domain).unwrap(), socket).identity(id.clone(), None);
        (config.rotation, config.intermediate) = (Rotation::Never, intermediate);
        Self { issuer: DevIssuer::start(config).await.unwrap(), id, _directory: directory }
    }

    /// A new leaf with a new key.
    pub(crate) fn rotate(&self) -> Held {
        self.issuer.rotate().unwrap();
        Held { issued: self.issuer.svid(&self.id).unwrap(), bundle: self.bundle_pem() }
    }

    fn bundle(&self) -> TrustBundle {
        self.issuer.bundle(self.id.trust_domain()).unwrap()
    }

    pub(crate) fn authorities(&self) -> Vec<Certificate> {
        self.bundle().authorities().to_vec()
    }

    pub(crate) fn bundle_pem(&self) -> String {
        certificates(self.bundle().authorities())
    }

    /// As SPIRE's bundle endpoint says it, with a key for tokens beside those for certificates.
    pub(crate) fn bundle_json(&self) -> String {
        let mut keys: Vec<_> = self
            .bundle()
            .authorities()
            .iter()
            .map(|authority| serde_json::json!({"use": "x509-svid", "kty": "EC", "x5c": [Base64::encode_string(authority.der())]}))
            .collect();
        keys.push(serde_json::json!({"use": "jwt-svid", "kid": "k", "kty": "EC"}));
        serde_json::json!({"spiffe_sequence": 1, "keys": keys}).to_string()
    }
}

impl Held {
    /// Chain, key and bundle under these names.
    pub(crate) fn files<'a>(&self, names: [&'a str; 3]) -> [(&'a str, String); 3] {
        let svid = &self.issued.svid;
        let chain = certificates(svid.chain.iter());
        let key = pem("PRIVATE KEY", svid.key.pkcs8_der());
        [(names[0], chain), (names[1], key), (names[2], self.bundle.clone())]
    }

    pub(crate) fn write(&self, directory: &Path, names: [&str; 3]) {
        for (name, text) in self.files(names) {
            write(&directory.join(name), &text);
        }
    }
}

/// A directory as the kubelet and CSI drivers write it: real files in a directory for each generation, `..data` a link
/// to the present one, and links through that in place of the files.
pub(crate) struct Volume {
    directory: TempDir,
    generation: AtomicUsize,
}

impl Volume {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), generation: AtomicUsize::new(0) }
    }

    pub(crate) fn config(&self) -> Config {
        let paths = Paths::Directory { directory: self.directory.path().to_owned(), bundle: None };
        Config { svids: vec![SvidFiles { paths, hint: String::new() }], bundles: BTreeMap::new() }
    }

    /// Replaces all files at once.
    pub(crate) fn swap(&self, files: &[(&str, String)]) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        let place = |name: &str| self.directory.path().join(name);
        let (data, before) = (format!("..2026_{generation}"), fs::read_link(place("..data")).ok());
        fs::create_dir(place(&data)).unwrap();
        for (name, text) in files {
            write(&place(&data).join(name), text);
        }
        symlink(&data, place("..data_tmp")).unwrap();
        fs::rename(place("..data_tmp"), place("..data")).unwrap();
        for (name, _) in files.iter().filter(|(name, _)| !place(name).is_symlink()) {
            symlink(Path::new("..data").join(name), place(name)).unwrap();
        }
        if let Some(before) = before {
            fs::remove_dir_all(self.directory.path().join(before)).unwrap();
        }
    }
}

/// A supervisor on files.
pub(crate) struct Client {
    events: broadcast::Receiver<RenewalEvent>,
    /// Of the events so far.
    pub(crate) names: Vec<&'static str>,
    state: watch::Receiver<Availability>,
    stop: CancellationToken,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Client {
    pub(crate) fn of(config: Config) -> Self {
        Self::of_several(vec![Arc::new(Files::new(config))])
    }

    pub(crate) fn of_several(sources: Vec<Arc<dyn Source>>) -> Self {
        let backoff = backoff::Config { initial: Duration::from_millis(10), max: Duration::from_millis(100) };
        let config = supervisor::Config { backoff, denied_grace: Duration::from_secs(60) };
        let failover = failover::Config { failback_after: Duration::from_millis(300), ..failover::Config::default() };
        let store = Arc::new(IdentityStore::new());
        let supervisor = Supervisor::of_several(sources, failover, Workload::Own, store.clone(), config);
        let (events, stop) = (supervisor.events(), CancellationToken::new());
        tokio::spawn(supervisor.run(stop.clone()));
        Self { events, names: Vec::new(), state: store.watch(&Workload::Own), stop }
    }

    pub(crate) fn state(&self) -> Availability {
        self.state.borrow().clone()
    }

    pub(crate) async fn ready(&mut self, wanted: impl Fn(&IdentitySnapshot) -> bool) -> Arc<IdentitySnapshot> {
        let ready = |state: &Availability| matches!(state, Availability::Ready(snapshot) if wanted(snapshot));
        let state = tokio::time::timeout(BOUND, self.state.wait_for(ready)).await;
        match state.unwrap_or_else(|_| panic!("nothing came in time")).unwrap().clone() {
            Availability::Ready(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn serves(&mut self, held: &Held) -> Arc<IdentitySnapshot> {
        self.ready(|snapshot| holds(snapshot, held)).await
    }

    pub(crate) fn is_serving(&self, held: &Held) -> bool {
        matches!(self.state(), Availability::Ready(snapshot) if holds(&snapshot, held))
    }

    /// The next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> RenewalEvent {
        loop {
            let event = tokio::time::timeout(BOUND, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("no {name} in time, but {:?}", self.names)).unwrap();
            self.names.push(event.name());
            if event.name() == name {
                return event;
            }
        }
    }

    /// How many events of this name there were so far.
    pub(crate) fn count(&mut self, name: &str) -> usize {
        while let Ok(event) = self.events.try_recv() {
            self.names.push(event.name());
        }
        self.names.iter().filter(|seen| **seen == name).count()
    }
}

fn holds(snapshot: &IdentitySnapshot, held: &Held) -> bool {
    snapshot.default_svid().is_some_and(|svid| {
        svid.chain == held.issued.svid.chain && svid.key.pkcs8_der() == held.issued.svid.key.pkcs8_der()
    })
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
}

fn certificates<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(|certificate| pem("CERTIFICATE", certificate.der())).collect()
}

/// The key as `openssl ec` writes it.
pub(crate) fn sec1(pkcs8: &[u8]) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).unwrap();
    key.private_key().as_der().unwrap().as_ref().to_vec()
}

pub(crate) fn public_key(pkcs8: &[u8]) -> Vec<u8> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8).unwrap();
    key.public_key().as_ref().to_vec()
}
