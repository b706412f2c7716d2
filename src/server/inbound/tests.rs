use std::task::Waker;

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use prost::Message as _;

use super::*;
use crate::{
    listen::Peer,
    server::budget::{Budgets, tests::budgets},
    xds::WireSotw,
};

const MIB: usize = 1 << 20;

fn message(names: usize) -> Vec<u8> {
    let wire = WireSotw { resource_names: vec!["name".into(); names], ..WireSotw::default() };
    let mut framed = vec![0, 0, 0, 0, 0];
    framed.extend(wire.encode_to_vec());
    let length = u32::try_from(framed.len() - PREFIX).unwrap();
    framed[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    framed
}

fn poll(inbound: &mut Inbound<WireSotw>) -> Poll<Option<Result<WireSotw, Status>>> {
    inbound.poll_message(&mut Context::from_waker(Waker::noop()))
}

fn next(inbound: &mut Inbound<WireSotw>) -> Option<Result<WireSotw, Status>> {
    match poll(inbound) {
        Poll::Ready(next) => next,
        Poll::Pending => panic!("nothing to wait for"),
    }
}

fn inbound(body: Body, bytes: usize, budgets: &Budgets) -> Inbound<WireSotw> {
    let peer = Peer::Process { pid: 1, uid: 1, gid: 1 };
    let bounds = Bounds { bytes, patience: Duration::from_secs(30) };
    Inbound::new(body, bounds, budgets.open(peer))
}

/// A body in pieces; one that `hangs` does not end.
fn chunked(bytes: &[u8], size: usize, hangs: bool) -> Body {
    let chunks: Vec<_> = bytes
        .chunks(size)
        .map(|chunk| Ok::<_, Status>(http_body::Frame::data(Bytes::copy_from_slice(chunk))))
        .collect();
    let end = if hangs { 1 } else { 0 };
    let chunks = futures_util::stream::iter(chunks);
    let rest = futures_util::stream::iter(0..end).then(|_| std::future::pending());
    Body::new(StreamBody::new(chunks.chain(rest)))
}

#[test]
fn messages_may_be_split_and_joined_anywhere() {
    let budgets = budgets(MIB as u64, MIB as u64);
    let both = [message(3), message(70)].concat();
    for size in [1, 2, 4, 5, 6, 7, 100, both.len()] {
        let mut inbound = inbound(chunked(&both, size, false), MIB, &budgets);
        assert_eq!(next(&mut inbound).unwrap().unwrap().resource_names.len(), 3);
        assert_eq!(next(&mut inbound).unwrap().unwrap().resource_names.len(), 70);
        assert_eq!((inbound.sieve.weight(), inbound.chunk.len()), (0, 0), "all is given back");
        assert_eq!(budgets.used(), 0);
        assert!(next(&mut inbound).is_none());
    }
}

#[test]
fn garbage_is_a_status() {
    let budgets = budgets(MIB as u64, MIB as u64);
    let status = |bytes: Vec<u8>| {
        let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {});
        next(&mut inbound(Body::new(body), 1000, &budgets)).unwrap().unwrap_err().code()
    };
    assert_eq!(status(vec![1, 0, 0, 0, 0]), tonic::Code::Unimplemented);
    assert_eq!(status(vec![0, 255, 255, 255, 255]), tonic::Code::ResourceExhausted);
    assert_eq!(status(vec![0, 0, 0, 0, 2, 0xff, 0xff]), tonic::Code::InvalidArgument);
    assert_eq!(status(vec![0, 0, 0, 0, 9, 1]), tonic::Code::Internal);
}

#[tokio::test]
async fn a_promise_costs_nothing_and_what_comes_is_charged() {
    let budgets = budgets(MIB as u64, MIB as u64);
    let mut promised = inbound(chunked(&[0, 0, 0x10, 0, 0, 0x1a], 9, true), 2 * MIB, &budgets);
    assert!(poll(&mut promised).is_pending());
    assert!(budgets.used() <= 1024, "{} bytes for six", budgets.used());
    let large = message(4000);
    let mut partial = inbound(chunked(&large[..large.len() - 1], 1000, true), MIB, &budgets);
    assert!(poll(&mut partial).is_pending());
    assert!(budgets.used() >= large.len(), "{} bytes for {}", budgets.used(), large.len());
    drop((promised, partial));
    assert_eq!(budgets.used(), 0);
}

#[test]
fn what_is_over_the_budget_is_refused_and_its_neighbour_is_not() {
    let budgets = budgets(64 << 10, MIB as u64);
    let large = message(20_000);
    let mut greedy = inbound(chunked(&large[..large.len() - 1], 1000, true), MIB, &budgets);
    let mut modest = inbound(chunked(&message(3), 1000, true), MIB, &budgets);
    let status = next(&mut greedy).unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("limits.memory_per_peer"), "{status}");
    drop(greedy);
    assert_eq!(next(&mut modest).unwrap().unwrap().resource_names.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_finished_ends_in_time_and_silence_between_messages_does_not() {
    let budgets = budgets(MIB as u64, MIB as u64);
    let whole = message(3);
    let hour = Duration::from_secs(3600);
    for begun in [1, 4, 5, whole.len() - 1] {
        let mut inbound = inbound(chunked(&whole[..begun], 3, true), MIB, &budgets);
        let answer = tokio::time::timeout(hour, std::future::poll_fn(|cx| inbound.poll_message(cx))).await;
        assert_eq!(answer.unwrap().unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded, "{begun}");
    }
    let mut inbound = inbound(chunked(&whole, 3, true), MIB, &budgets);
    assert!(next(&mut inbound).unwrap().is_ok());
    let idle = tokio::time::timeout(hour, std::future::poll_fn(|cx| inbound.poll_message(cx))).await;
    assert!(idle.is_err(), "silence is no fault");
}
