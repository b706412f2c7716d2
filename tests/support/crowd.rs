//! Many streams of one client on one connection, which take whatever they are sent and tell when it came. Also used by
//! the benchmarks.
#![allow(dead_code, unreachable_pub, reason = "each of its users is its own crate and uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::{
    config::core::v3::{Extension, Node},
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};
use h2::{RecvStream, SendStream};
use prost::Message as _;
use tokio::{net::UnixStream, sync::Notify, time::timeout};

pub const WINDOW: u32 = 16 << 20;
/// No wait is longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The streams.
pub struct Crowd {
    sender: h2::client::SendRequest<Bytes>,
    epoch: Instant,
    /// When the messages that are awaited were caused, in microseconds since the epoch.
    caused: AtomicU64,
    missing: AtomicUsize,
    all: Notify,
    latencies: Mutex<Vec<u64>>,
}

impl Crowd {
    /// Connects as soon as there is a server.
    pub async fn connect(socket: &Path) -> Arc<Self> {
        let begun = Instant::now();
        let io = loop {
            match UnixStream::connect(socket).await {
                Ok(io) => break io,
                Err(error) if begun.elapsed() > Duration::from_secs(30) => panic!("no server: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(WINDOW).initial_max_send_streams(100_000);
        let (sender, connection) = builder.handshake(io).await.unwrap();
        tokio::spawn(connection);
        Arc::new(Self {
            sender,
            epoch: Instant::now(),
            caused: AtomicU64::new(0),
            missing: AtomicUsize::new(0),
            all: Notify::new(),
            latencies: Mutex::default(),
        })
    }

    /// Opens streams that want `default`, and waits until each has its first answer. Their first request carries 60 KB
    /// of node as Envoy's does.
    pub async fn open(self: &Arc<Self>, count: usize) {
        let extension = Extension { name: "x".repeat(110), ..Default::default() };
        let node = Node { id: "crowd".into(), extensions: vec![extension; 516], ..Default::default() };
        let first = DiscoveryRequest { node: Some(node), resource_names: vec!["default".into()], ..Default::default() };
        let first = framed(&first);
        self.expect(count);
        for _ in 0..count {
            let mut sender = self.sender.clone().ready().await.unwrap();
            let uri = "http://localhost/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
            let call = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
            let (response, mut requests) = sender.send_request(call.body(()).unwrap(), false).unwrap();
            requests.send_data(first.clone(), false).unwrap();
            let crowd = self.clone();
            tokio::spawn(async move { crowd.read(response.await.unwrap().into_body(), requests).await });
        }
        self.told_all().await;
    }

    /// Causes something that each of `streams` is told once; how long that took each, in microseconds.
    pub async fn told(&self, streams: usize, cause: impl FnOnce()) -> Vec<u64> {
        self.expect(streams);
        cause();
        self.told_all().await
    }

    fn expect(&self, messages: usize) {
        self.missing.store(messages, Ordering::SeqCst);
        self.caused.store(self.epoch.elapsed().as_micros() as u64, Ordering::SeqCst);
    }

    async fn told_all(&self) -> Vec<u64> {
        let waited = timeout(PATIENCE, self.all.notified()).await;
        assert!(waited.is_ok(), "{} streams were not told", self.missing.load(Ordering::SeqCst));
        std::mem::take(&mut *self.latencies.lock().unwrap())
    }

    async fn read(&self, mut responses: RecvStream, mut requests: SendStream<Bytes>) {
        let mut buffer = BytesMut::new();
        while let Some(Ok(data)) = responses.data().await {
            let _ = responses.flow_control().release_capacity(data.len());
            buffer.extend_from_slice(&data);
            while let Some(length) = buffer.get(1..5).map(|it| u32::from_be_bytes(it.try_into().unwrap()) as usize) {
                if buffer.len() < 5 + length {
                    break;
                }
                let message = buffer.split_to(5 + length);
                let response = DiscoveryResponse::decode(&message[5..]).unwrap();
                let ack = DiscoveryRequest {
                    version_info: response.version_info,
                    response_nonce: response.nonce,
                    resource_names: vec!["default".into()],
                    ..Default::default()
                };
                let _ = requests.send_data(framed(&ack), false);
                let latency = self.epoch.elapsed().as_micros() as u64 - self.caused.load(Ordering::SeqCst);
                self.latencies.lock().unwrap().push(latency);
                if self.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.all.notify_one();
                }
            }
        }
    }
}

fn framed(message: &impl prost::Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame.into()
}
