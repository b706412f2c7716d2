//! Clients that want too much, take nothing, or say nothing.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tonic::Code;

use super::{Neighbour, STREAM, raw};
use crate::support::{
    secrets::{certificate, content, decode},
    world::{World, bounded, unix_channel},
    xds::{Sotw, framed, request},
};

/// The windows of HTTP/2 hold a few frames back; what happened beyond them is not owed.
#[tokio::test]
async fn a_client_that_never_reads_gets_the_newest_and_not_a_queue() {
    const ROTATIONS: usize = 200;
    const WINDOW: u32 = 4096;
    let world = World::start().await;
    let mut neighbour = Neighbour::of(&world).await;
    let io = UnixStream::connect(world.socket()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (mut sender, connection) = bounded(builder.initial_window_size(WINDOW).handshake(io)).await.unwrap();
    let mut connection = Box::pin(connection);
    let call = http::Request::post(format!("http://localhost{STREAM}")).body(()).unwrap();
    let (response, mut requests) = sender.send_request(call, false).unwrap();
    requests.send_data(framed(&request(&["default"])), false).unwrap();
    let mut responses = tokio::select! {
        _ = &mut connection => panic!("the connection ended"),
        response = bounded(response) => response.unwrap().into_body(),
    };
    // From here on nobody reads from the socket.
    for _ in 0..ROTATIONS {
        neighbour.follows_rotation(&world).await;
    }
    tokio::spawn(connection);
    let newest = certificate(&world.svid("workload"));
    let (mut buffer, mut seen, mut largest) = (Vec::new(), 0, 0);
    loop {
        let data = bounded(responses.data()).await.unwrap().unwrap();
        responses.flow_control().release_capacity(data.len()).unwrap();
        buffer.extend_from_slice(&data);
        let Some(length) = buffer.get(1..5).map(|it| u32::from_be_bytes(it.try_into().unwrap()) as usize) else {
            continue;
        };
        if buffer.len() < 5 + length {
            continue;
        }
        let message: Vec<u8> = buffer.drain(..5 + length).skip(5).collect();
        largest = largest.max(message.len());
        seen += 1;
        let response = DiscoveryResponse::decode(message.as_slice()).unwrap();
        if content(&decode(&response.resources[0])) == newest {
            break;
        }
    }
    let in_window = (WINDOW as usize).div_ceil(largest);
    assert!(seen <= in_window + 2, "{seen} responses came, {in_window} fit the window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_on_one_connection_are_all_served_and_rotated() {
    const STREAMS: usize = 10_000;
    let world = World::start().await;
    let mut connection = raw(&world).await;
    let first = framed(&request(&["default"]));
    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        let mut call = connection.open(STREAM).await;
        call.send(first.clone());
        calls.push(call);
    }
    for round in 0..2 {
        let newest = certificate(&world.svid("workload"));
        let mut versions = std::collections::BTreeSet::new();
        for (at, call) in calls.iter_mut().enumerate() {
            let message = call.message().await.expect("the stream ended");
            let response = DiscoveryResponse::decode(message.as_slice()).unwrap();
            if at == 0 {
                assert_eq!(content(&decode(&response.resources[0])), newest);
            }
            let ack = DiscoveryRequest {
                version_info: response.version_info.clone(),
                response_nonce: response.nonce,
                ..request(&["default"])
            };
            call.send(framed(&ack));
            versions.insert(response.version_info);
        }
        assert_eq!(versions.len(), 1);
        if round == 0 {
            world.issuer.rotate().unwrap();
        }
    }
    assert!(connection.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_a_hundred_thousand_streams_is_refused() {
    let world = World::with(|setup| setup.server.limits.streams_per_connection = 1000).await;
    let mut neighbour = Neighbour::of(&world).await;
    let (mut reader, mut writer) = UnixStream::connect(world.socket()).await.unwrap().into_split();
    let flood = tokio::spawn(async move {
        // No library would: a hundred thousand HEADERS frames without a look at the answers.
        let _ = writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let mut block = vec![0x83, 0x86, 0x04, u8::try_from(STREAM.len()).unwrap()];
        block.extend(STREAM.as_bytes());
        block.extend(b"\x01\x09localhost\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
        for at in 0..100_000_u32 {
            let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4];
            frame.extend((2 * at + 1).to_be_bytes());
            frame.extend(&block);
            if writer.write_all(&frame).await.is_err() {
                break;
            }
        }
        writer
    });
    let answers = tokio::spawn(async move {
        let mut all = Vec::new();
        // The server hangs up on it, with or without a reset of the socket.
        let _ = reader.read_to_end(&mut all).await;
        all
    });
    neighbour.is_unaffected(&world).await;
    let answers = bounded(answers).await.unwrap();
    drop(bounded(flood).await.unwrap());
    let kinds = frame_kinds(&answers);
    assert!(kinds.iter().filter(|kind| **kind == RST_STREAM).count() > 100, "refused one by one");
    assert_eq!(kinds.last(), Some(&GOAWAY), "and then altogether");
    neighbour.is_unaffected(&world).await;
}

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// The types of all complete frames.
fn frame_kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(rest) = bytes.get(9 + length..) else { break };
        kinds.push(*kind);
        bytes = rest;
    }
    kinds
}

#[tokio::test]
async fn a_peer_has_a_share_of_streams_and_gives_them_back() {
    let world = World::with(|setup| setup.server.limits.streams_per_peer = 3).await;
    let mut events = world.events();
    let channels = [world.unix().await, world.unix().await];
    let mut clients = Vec::new();
    for at in 0..3 {
        let mut client = Sotw::secrets(&channels[at % 2]).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
        clients.push(client);
    }
    let mut connection = raw(&world).await;
    assert_eq!(connection.open(STREAM).await.status().await, Code::ResourceExhausted);
    // Others have a share of their own.
    let mut other = Sotw::secrets(&world.tcp().await).await;
    other.subscribe(["default"]).await;
    other.expect(["default"]).await;
    drop(clients.pop());
    events.closed().await;
    let mut fourth = connection.open(STREAM).await;
    fourth.send(framed(&request(&["default"])));
    assert!(fourth.message().await.is_some());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let world = World::with(|setup| setup.server.limits.connections = 2).await;
    let mut first = Neighbour::of(&world).await;
    let mut over_tcp = Sotw::secrets(&world.tcp().await).await;
    over_tcp.subscribe(["default"]).await;
    over_tcp.expect(["default"]).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let socket = world.socket();
            tokio::spawn(async move {
                let mut client = Sotw::secrets(&unix_channel(socket).await).await;
                client.subscribe(["default"]).await;
                client.expect(["default"]).await;
            })
        })
        .collect();
    first.is_unaffected(&world).await;
    assert!(waiting.iter().all(|client| !client.is_finished()));
    drop((first, over_tcp));
    for client in waiting {
        bounded(client).await.unwrap();
    }
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_do_not() {
    let world = World::with(|setup| setup.server.limits.connections = 4).await;
    let mut neighbour = Neighbour::of(&world).await;
    let mut idle = Vec::new();
    // Each takes the place of the one before it that has been idle for longest.
    for _ in 0..40 {
        let mut io = UnixStream::connect(world.socket()).await.unwrap();
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // The server's settings: it has taken this connection in.
        bounded(io.read_exact(&mut [0; 9])).await.unwrap();
        idle.push(io);
    }
    let mut newcomer = Sotw::secrets(&world.tcp().await).await;
    newcomer.subscribe(["default"]).await;
    newcomer.expect(["default"]).await;
    neighbour.is_unaffected(&world).await;
    // Those that had to go were hung up on.
    for mut gone in idle.into_iter().take(36) {
        let _ = bounded(gone.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn a_peer_has_a_share_of_connections() {
    let world = World::with(|setup| setup.server.limits.connections_per_peer = 2).await;
    let (mut first, _second) = (Neighbour::of(&world).await, Neighbour::of(&world).await);
    let third = tokio::spawn({
        let socket = world.socket();
        async move {
            let mut client = Sotw::secrets(&unix_channel(socket).await).await;
            client.subscribe(["default"]).await;
            client.expect(["default"]).await;
        }
    });
    // Another peer is let in at once.
    let mut over_tcp = Sotw::secrets(&world.tcp().await).await;
    over_tcp.subscribe(["default"]).await;
    over_tcp.expect(["default"]).await;
    first.is_unaffected(&world).await;
    assert!(!third.is_finished());
    drop(first);
    bounded(third).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_its_answers_unread_is_hung_up_on() {
    let world = World::start().await;
    let mut io = UnixStream::connect(world.socket()).await.unwrap();
    let request = "POST /v3/discovery:secrets HTTP/1.1\r\nhost: sds\r\ncontent-length: 0\r\n\r\n";
    // Until the answers, of which not one is read, fill every buffer on the way, and then no longer.
    let flood = async {
        loop {
            if let Err(error) = io.write_all(request.as_bytes()).await {
                return error;
            }
        }
    };
    tokio::time::pause();
    tokio::time::timeout(Duration::from_secs(60), flood).await.expect("it keeps its place");
    tokio::time::resume();
    Neighbour::of(&world).await.is_unaffected(&world).await;
}

/// Paused time passes as soon as nobody has anything to do.
#[tokio::test]
async fn a_client_that_never_speaks_is_shown_the_door() {
    let world = World::with(|setup| setup.server.limits.connections = 2).await;
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut stuttering = UnixStream::connect(world.socket()).await.unwrap();
    stuttering.write_all(b"PRI * HT").await.unwrap();
    tokio::time::pause();
    // Half a minute passes at most; the server has ten seconds of patience.
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        assert_eq!(silent.read(&mut [0; 100]).await.unwrap_or_default(), 0);
        assert_eq!(stuttering.read(&mut [0; 100]).await.unwrap_or_default(), 0);
    });
    ended.await.expect("silent clients keep their places");
    tokio::time::resume();
    Neighbour::of(&world).await.is_unaffected(&world).await;
}

/// Each listener waits for clients, and none of them keeps a place while it does.
#[tokio::test]
async fn one_place_is_enough_for_two_listeners() {
    let world = World::with(|setup| setup.server.limits.connections = 1).await;
    for channel in [world.unix(), world.unix()] {
        let mut client = Sotw::secrets(&channel.await).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
    }
    let mut client = Sotw::secrets(&world.tcp().await).await;
    client.subscribe(["default"]).await;
    client.expect(["default"]).await;
}

#[tokio::test]
async fn what_is_not_http_2_is_hung_up_on() {
    let world = World::start().await;
    let mut neighbour = Neighbour::of(&world).await;
    let noise: [&[u8]; 3] =
        [b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3], &[0xff; 4096]];
    for bytes in noise {
        let mut unix = UnixStream::connect(world.socket()).await.unwrap();
        unix.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = bounded(unix.read_to_end(&mut answer)).await;
        let mut tcp = TcpStream::connect(world.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let _ = bounded(tcp.read_to_end(&mut answer)).await;
    }
    // Frames of no kind and for no stream, after a good start.
    let mut unix = UnixStream::connect(world.socket()).await.unwrap();
    unix.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    unix.write_all(&[0x5a; 4096]).await.unwrap();
    let mut answer = Vec::new();
    let _ = bounded(unix.read_to_end(&mut answer)).await;
    neighbour.is_unaffected(&world).await;
}
