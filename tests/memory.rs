//! What clients can make the program hold, as the kernel counts it: bounded while they try, and given back when they go.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{fs, future::poll_fn, process::Stdio};

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use support::{
    app::Place,
    world::{bounded, eventually, unix_channel},
    xds::{Call, Raw, Sotw, framed},
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};
use tonic::Code;

const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const MIB: u64 = 1 << 20;
/// What a small container has.
const CONTAINER: u64 = 256 * MIB;

struct Program {
    place: Place,
    child: Child,
}

impl Program {
    async fn start(more: &str) -> Self {
        let place = Place::new().await;
        fs::write(place.at("sds.yaml"), place.yaml(more)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_spiffe-sds"))
            .env_clear()
            .kill_on_drop(true)
            .args(["serve", "--config"])
            .arg(place.at("sds.yaml"))
            .args(["--log-level", "error"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { place, child };
        eventually("it listens", || program.place.at("sds.sock").exists()).await;
        program.serves().await;
        program
    }

    /// A client that comes now is served.
    async fn serves(&self) {
        let mut client = Sotw::secrets(&unix_channel(self.place.at("sds.sock")).await).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
        client.ack().await;
    }

    async fn connect(&self) -> Raw {
        Raw::connect(UnixStream::connect(self.place.at("sds.sock")).await.unwrap()).await
    }

    /// A line of `/proc/PID/status`, in bytes: `VmRSS` is what is resident, `VmHWM` the most there ever was.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// Sends as much as the server takes before it ends the call.
async fn push(call: &mut Call, mut bytes: Bytes) {
    while !bytes.is_empty() {
        call.requests.reserve_capacity(bytes.len());
        let Some(Ok(room)) = bounded(poll_fn(|cx| call.requests.poll_capacity(cx))).await else { return };
        if call.requests.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
            return;
        }
    }
}

fn names(count: usize, length: usize, stream: usize) -> Vec<String> {
    (0..count).map(|at| format!("{stream:08}-{at:08}-{}", "x".repeat(length - 18))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_do_not_fill_a_container() {
    let program = Program::start("").await;
    let request = framed(&DiscoveryRequest { resource_names: names(255, 4096, 0), ..Default::default() });
    assert!(request.len() as u64 > MIB * 9 / 10);
    let mut connection = program.connect().await;
    let mut calls = Vec::new();
    for _ in 0..256 {
        let mut call = connection.open(STREAM).await;
        push(&mut call, request.slice(..request.len() - 1)).await;
        calls.push(call);
    }
    let refused = calls.split_off(200);
    for mut call in refused {
        assert_eq!(call.status().await, Code::ResourceExhausted);
    }
    let most = program.memory("VmHWM");
    assert!(most < CONTAINER * 3 / 4, "{} MiB", most / MIB);
    drop((calls, connection));
    program.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_cost_nothing() {
    let program = Program::start("").await;
    let mut connection = program.connect().await;
    let mut calls = Vec::new();
    let before = program.memory("VmRSS");
    for _ in 0..500 {
        let mut call = connection.open(STREAM).await;
        // A megabyte is announced, and six bytes come.
        call.send(Bytes::from_static(&[0, 0, 0x10, 0, 0, 0x1a]));
        calls.push(call);
    }
    program.serves().await;
    let grown = program.memory("VmHWM").saturating_sub(before);
    assert!(grown < 64 * MIB, "{} MiB for 3 KB", grown / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_times_streams_do_not_fill_a_container() {
    let program = Program::start("").await;
    let mut connection = program.connect().await;
    let mut calls = Vec::new();
    let mut refused = 0;
    for stream in 0..100 {
        let mut call = connection.open(STREAM).await;
        let resource_names = names(1000, 1000, stream);
        push(&mut call, framed(&DiscoveryRequest { resource_names, ..Default::default() })).await;
        calls.push(call);
    }
    for call in &mut calls[50..] {
        refused += usize::from(call.status().await == Code::ResourceExhausted);
    }
    assert_eq!(refused, 50);
    let most = program.memory("VmHWM");
    assert!(most < CONTAINER, "{} MiB", most / MIB);
    drop((calls, connection));
    program.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_comes_back_when_clients_go() {
    let program = Program::start("").await;
    let idle = program.memory("VmRSS");
    let requests = (0..48).map(|stream| {
        let resource_names = names(1000, 1000, stream);
        framed(&DiscoveryRequest { resource_names, ..Default::default() })
    });
    let requests: Vec<_> = requests.collect();
    let mut first = 0;
    for storm in 0..20 {
        let mut connection = program.connect().await;
        let mut calls = Vec::new();
        for request in &requests {
            let mut call = connection.open(STREAM).await;
            push(&mut call, request.clone()).await;
            calls.push(call);
        }
        program.serves().await;
        if storm == 0 {
            first = program.memory("VmHWM");
            assert!(first > idle + 24 * MIB, "a storm is one: {} MiB, then {}", idle / MIB, first / MIB);
        }
    }
    let most = program.memory("VmHWM");
    assert!(most * 10 < first * 13, "{} MiB with the first, {} with the last", first / MIB, most / MIB);
    // Of what came on top of an idle program, less than half stays.
    let enough = idle + (most - idle) / 2;
    eventually("memory comes back", || program.memory("VmRSS") < enough).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_health_and_reflection_are_bounded_too() {
    let program = Program::start("limits: { request_timeout: 1s }\n").await;
    let mut connection = program.connect().await;
    let (health, reflection) =
        ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    // A megabyte is announced; a message is begun. Reflection ends such calls without an error.
    for (bytes, code) in
        [(&[0, 0, 0x10, 0, 0, 0x1a], Code::ResourceExhausted), (&[0, 0, 0, 0, 9, 0x1a], Code::DeadlineExceeded)]
    {
        for (path, code) in [(health, code), (reflection, Code::Ok)] {
            let mut call = connection.open(path).await;
            call.send(Bytes::from_static(bytes));
            assert_eq!(call.status().await, code, "{path}");
        }
    }
    program.serves().await;
}
