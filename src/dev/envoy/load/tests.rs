use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// Answers every request on every connection with this; counts the connections.
async fn server(answer: &'static str) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BROKEN: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nno peers";

#[test]
fn only_this_machine_is_loaded() {
    for address in ["10.0.0.1:80", "0.0.0.0:80", "[2001:db8::1]:80", "192.168.1.1:80"] {
        assert!(Load::new(address.parse().unwrap()).is_err(), "{address}");
    }
    assert!(Load::new("[::1]:80".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn workers_keep_their_connections_unless_told_otherwise() {
    let (address, connections) = server(OK).await;
    let report = Load::new(address).unwrap().workers(3).max_requests(30).start().finish().await;
    assert_eq!((report.requests, report.failures), (30, 0), "{report:?}");
    assert!(connections.load(Ordering::SeqCst) <= 3);
    assert!(report.p50 > Duration::ZERO && report.p50 <= report.p99 && report.p99 <= report.max);

    let (address, connections) = server(OK).await;
    let load = Load::new(address).unwrap().workers(3).max_requests(30).connection_per_request();
    assert_eq!(load.start().finish().await.failures, 0);
    assert_eq!(connections.load(Ordering::SeqCst), 30);
}

#[tokio::test]
async fn failures_are_counted_and_told() {
    let (address, _) = server(BROKEN).await;
    let report = Load::new(address).unwrap().max_requests(12).start().finish().await;
    assert_eq!((report.requests, report.failures, report.samples.len()), (12, 12, 10));
    assert!(report.samples[0].detail.contains("503") && report.samples[0].detail.contains("no peers"), "{report:?}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let report = Load::new(closed).unwrap().max_requests(1).start().finish().await;
    assert_eq!(report.failures, 1);
    assert!(report.samples[0].detail.contains("refused"), "{report:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_failure() {
    let (address, _) = server("").await;
    let load = Load::new(address).unwrap().max_requests(1).timeout(Duration::from_millis(50));
    assert_eq!(load.start().finish().await.failures, 1);
}

#[tokio::test]
async fn it_stops_when_told_or_when_its_time_is_up() {
    let (address, _) = server(OK).await;
    let running = Load::new(address).unwrap().start();
    while running.snapshot().requests < 5 {
        tokio::task::yield_now().await;
    }
    let report = running.stop().await;
    assert!(report.requests >= 5 && report.failures == 0, "{report:?}");
    let report = Load::new(address).unwrap().max_duration(Duration::from_millis(20)).start().finish().await;
    assert!(report.requests > 0 && report.failures == 0, "{report:?}");
}
