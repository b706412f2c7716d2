//! A bundle endpoint on a store that the test writes, signers whose keys it publishes, and a small HTTP client.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use spiffe_sds::{
    identity::{
        Availability, IdentitySnapshot, IdentityStore, JwtBundle, JwtSnapshot, TrustBundle, TrustDomain, Workload,
    },
    lifecycle::PartError,
    listen::{self, Bound, UnixConfig},
    server::{BundleEndpoint, bundles::Config},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// No wait is longer.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// A running endpoint on a Unix socket and a TCP port.
pub(crate) struct Served {
    pub(crate) dir: TempDir,
    pub(crate) store: IdentityStore,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<Result<(), PartError>>,
    bound: Vec<Bound>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::draining(Duration::from_secs(5)).await
    }

    /// One that gives its clients so much time at its end.
    pub(crate) async fn draining(deadline: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundles.sock");
        let unix = listen::Config::Unix(UnixConfig { path, mode: 0o600, owner: None, group: None });
        let tcp = listen::Config::Tcp(([127, 0, 0, 1], 0).into());
        let config = Config { listeners: vec![unix, tcp], ..Config::default() };
        let endpoint = BundleEndpoint::bind(config, deadline).await.unwrap();
        let (store, stop, bound) = (IdentityStore::new(), CancellationToken::new(), endpoint.bound());
        let (x509, jwt) = (store.watch(&Workload::Own), store.watch_jwt(&Workload::Own));
        let running = tokio::spawn(endpoint.run(x509, jwt, stop.clone()));
        Self { dir, store, stop, running, bound }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.bound
            .iter()
            .find_map(|bound| if let Bound::Unix(path) = bound { Some(path.clone()) } else { None })
            .unwrap()
    }

    pub(crate) async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        let address = self.bound.iter().find_map(|bound| if let Bound::Tcp(at) = bound { Some(*at) } else { None });
        TcpStream::connect(address.unwrap()).await.unwrap()
    }

    /// Publishes the keys of these signers, each for its trust domain; `empty` domains have none.
    pub(crate) fn publish(&self, signers: &[&Signer], empty: &[&str]) {
        let mut keys: BTreeMap<TrustDomain, Vec<Value>> = empty.iter().map(|name| (td(name), Vec::new())).collect();
        for signer in signers {
            keys.entry(td(&signer.trust_domain)).or_default().push(signer.jwk());
        }
        let bundles = keys.into_iter().map(|(td, keys)| (td.clone(), Arc::new(JwtBundle::new(td, keys))));
        self.store.publish_jwt(&Workload::Own, JwtSnapshot { bundles: bundles.collect(), ..JwtSnapshot::default() });
    }

    /// Publishes an X.509 state with these trust domains; the first one is our own.
    pub(crate) fn publish_x509(&self, domains: &[&str]) {
        let bundles = domains.iter().map(|name| (td(name), Arc::new(TrustBundle::new(td(name), Vec::new()))));
        let (bundles, trust_domain) = (bundles.collect(), domains.first().map(|name| td(name)));
        let snapshot = IdentitySnapshot { bundles, trust_domain, ..IdentitySnapshot::default() };
        self.store.publish(&Workload::Own, Availability::Ready(Arc::new(snapshot)));
    }

    /// Asks over HTTP/1.1 on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Response<Bytes> {
        http1(self.unix().await, "GET", path, None).await
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Response<Bytes>) -> bool) -> Response<Bytes> {
        bounded(async {
            loop {
                let response = self.get(path).await;
                if wanted(&response) {
                    break response;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// An authority that signs JWT-SVIDs of one trust domain.
pub(crate) struct Signer {
    trust_domain: String,
    kid: String,
    key: EcdsaKeyPair,
}

impl Signer {
    pub(crate) fn new(trust_domain: &str, kid: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { trust_domain: trust_domain.to_owned(), kid: kid.to_owned(), key }
    }

    fn jwk(&self) -> Value {
        // Uncompressed point: 4, x, y.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let url = Base64UrlUnpadded::encode_string;
        json!({"kty": "EC", "kid": self.kid, "use": "jwt-svid", "crv": "P-256", "x": url(x), "y": url(y)})
    }

    /// A token for `audience` that expires in an hour.
    pub(crate) fn token(&self, subject: &str, audience: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.sign(&json!({"sub": subject, "aud": [audience], "iat": now, "exp": now + 3600}))
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(signature.as_ref()))
    }
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) async fn bounded<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, waiting).await.expect("nothing came in time")
}

fn request(method: &str, path: &str, header: Option<(&str, &str)>) -> Request<Empty<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    request.body(Empty::new()).unwrap()
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// One request over HTTP/1.1.
pub(crate) async fn http1<I>(io: I, method: &str, path: &str, header: Option<(&str, &str)>) -> Response<Bytes>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    bounded(async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        let driver = tokio::spawn(connection);
        let response = whole(sender.send_request(request(method, path, header)).await.unwrap()).await;
        driver.abort();
        response
    })
    .await
}

/// The same over HTTP/2 with prior knowledge.
pub(crate) async fn http2<I>(io: I, method: &str, path: &str) -> Response<Bytes>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    bounded(async {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io));
        let (mut sender, connection) = handshake.await.unwrap();
        let driver = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let response = whole(response).await;
        driver.abort();
        response
    })
    .await
}

/// Writes bytes and reads what comes back until the other side closes.
pub(crate) async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    bounded(async {
        // The other side may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}
