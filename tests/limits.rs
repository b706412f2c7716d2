//! Bad input and greedy clients: a clean status where the protocol has one, bounded memory, everyone else unaffected.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "limits/clients.rs"]
mod clients;
mod support;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message as _;
use support::{
    secrets::{certificate, content},
    world::World,
    xds::{Delta, Raw, SECRET, Sotw, framed, request},
};
use tokio::net::UnixStream;
use tonic::Code;

const STREAM: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const FETCH: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";

/// A client that must not notice what others do.
struct Neighbour(Sotw);

impl Neighbour {
    async fn of(world: &World) -> Self {
        let mut client = Sotw::secrets(&world.unix().await).await;
        client.subscribe(["default"]).await;
        client.expect(["default"]).await;
        client.ack().await;
        Self(client)
    }

    /// What is new comes.
    async fn follows_rotation(&mut self, world: &World) {
        world.issuer.rotate().unwrap();
        let secret = self.0.expect(["default"]).await;
        assert_eq!(content(&secret[0]), certificate(&world.svid("workload")));
        self.0.ack().await;
    }

    /// Nothing came, and what is new does.
    async fn is_unaffected(&mut self, world: &World) {
        self.0.expect_silence().await;
        self.follows_rotation(world).await;
    }
}

async fn raw(world: &World) -> Raw {
    Raw::connect(UnixStream::connect(world.socket()).await.unwrap()).await
}

#[tokio::test]
async fn a_hundred_thousand_names_are_refused() {
    let world = World::start().await;
    let mut neighbour = Neighbour::of(&world).await;
    let channel = world.unix().await;
    let names: Vec<String> = (0..100_000).map(|at| format!("n{at}")).collect();
    for type_url in [SECRET, "type.googleapis.com/envoy.config.cluster.v3.Cluster"] {
        let resource_names = names.clone();
        let sotw = Sotw::aggregated(&channel).await;
        sotw.send(DiscoveryRequest { resource_names, type_url: type_url.into(), ..Default::default() });
        assert_eq!(sotw.end().await.unwrap_err().code(), Code::ResourceExhausted);
        let resource_names_subscribe = names.clone();
        let delta = Delta::aggregated(&channel).await;
        delta.send(DeltaDiscoveryRequest { resource_names_subscribe, type_url: type_url.into(), ..Default::default() });
        assert_eq!(delta.end().await.unwrap_err().code(), Code::ResourceExhausted);
    }
    // The same name again and again is one name.
    let mut same = Delta::secrets(&channel).await;
    let resource_names_subscribe = vec!["default".to_owned(); 50_000];
    same.send(DeltaDiscoveryRequest { resource_names_subscribe, type_url: SECRET.into(), ..Default::default() });
    same.expect(["default"]).await;
    same.expect_silence().await;
    neighbour.is_unaffected(&world).await;
}

#[tokio::test]
async fn names_add_up_over_requests() {
    let world = World::with(|setup| setup.server.limits.names_per_stream = 10).await;
    let mut client = Delta::secrets(&world.unix().await).await;
    client.subscribe(["default", "spiffe://domain.test/1", "spiffe://domain.test/2", "spiffe://domain.test/3"]).await;
    client.expect(["default"]).await;
    client.ack().await;
    // Names that are there already do not count again, and those that go make room.
    client.subscribe(["default", "spiffe://domain.test/1", "spiffe://domain.test/2", "spiffe://domain.test/3"]).await;
    client.expect(["default"]).await;
    client.unsubscribe(["spiffe://domain.test/1", "spiffe://domain.test/2", "spiffe://domain.test/3"]).await;
    client.ack().await;
    client.expect_silence().await;
    let more: Vec<String> = (0..10).map(|at| format!("spiffe://domain.test/more-{at}")).collect();
    client.send(DeltaDiscoveryRequest { resource_names_subscribe: more, ..Default::default() });
    assert_eq!(client.end().await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn what_is_no_request_is_a_status() {
    let world = World::start().await;
    let mut neighbour = Neighbour::of(&world).await;
    let mut connection = raw(&world).await;
    let garbage: [(&'static [u8], Code); 4] = [
        (&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff], Code::InvalidArgument),
        (&[1, 0, 0, 0, 0], Code::Unimplemented),
        (&[0xff; 64], Code::Unimplemented),
        // Two gigabytes are announced; the announcement is enough.
        (&[0, 0x7f, 0xff, 0xff, 0xff], Code::ResourceExhausted),
    ];
    for path in [STREAM, FETCH, "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"] {
        for (bytes, code) in garbage {
            let mut call = connection.open(path).await;
            call.send(Bytes::from_static(bytes));
            assert_eq!(call.status().await, code, "{path} {bytes:?}");
        }
        let mut cut = connection.open(path).await;
        cut.requests.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true).unwrap();
        assert_eq!(cut.status().await, Code::Internal, "{path}");
    }
    for path in ["/envoy.service.secret.v3.SecretDiscoveryService/Nothing", "/nothing", "/"] {
        assert_eq!(connection.open(path).await.status().await, Code::Unimplemented, "{path}");
    }
    // The connection and its other streams live on.
    let mut call = connection.open(STREAM).await;
    call.send(framed(&request(&["default"])));
    assert!(call.message().await.is_some());
    assert!(connection.is_open());
    neighbour.is_unaffected(&world).await;
}

/// What is asked for is not there, so that no answer gives the stream another turn.
#[tokio::test]
async fn requests_that_come_in_one_piece_are_all_heard() {
    let world = World::start().await;
    let mut connection = raw(&world).await;
    let mut call = connection.open(STREAM).await;
    let mut all = Vec::new();
    for at in 0..120 {
        all.extend_from_slice(&framed(&request(&[&format!("spiffe://domain.test/{at}")])));
    }
    all.extend_from_slice(&framed(&request(&["default"])));
    assert!(all.len() < 16 << 10, "one frame");
    call.send(all);
    assert!(call.message().await.is_some());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_one_that_just_fits_is_not() {
    let world = World::start().await;
    let mut connection = raw(&world).await;
    let limit = world.setup.server.limits.request_bytes as usize;
    let sized = |bytes: usize| {
        let mut request = request(&["default"]);
        let rest = bytes - request.encoded_len();
        request.version_info = "v".repeat(rest - 4);
        assert_eq!(request.encoded_len(), bytes);
        framed(&request)
    };
    let mut fits = connection.open(STREAM).await;
    fits.send_all(sized(limit)).await;
    assert!(fits.message().await.is_some());
    let mut large = connection.open(STREAM).await;
    large.send(sized(limit + 1).slice(..100));
    assert_eq!(large.status().await, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_foreign_type_ends_its_stream_only() {
    let world = World::start().await;
    let channel = world.unix().await;
    let mut good = Sotw::secrets(&channel).await;
    good.subscribe(["default"]).await;
    good.expect(["default"]).await;
    good.ack().await;
    let wrong = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let sotw = Sotw::secrets(&channel).await;
    sotw.send(DiscoveryRequest { type_url: wrong.into(), ..request(&["default"]) });
    assert_eq!(sotw.end().await.unwrap_err().code(), Code::InvalidArgument);
    let delta = Delta::secrets(&channel).await;
    delta.send(DeltaDiscoveryRequest { type_url: wrong.into(), ..Default::default() });
    assert_eq!(delta.end().await.unwrap_err().code(), Code::InvalidArgument);
    good.expect_silence().await;
}

#[tokio::test]
async fn garbage_nonces_are_no_answers() {
    let world = World::start().await;
    let mut sotw = Sotw::aggregated(&world.unix().await).await;
    sotw.subscribe(["default"]).await;
    sotw.expect(["default"]).await;
    let mut delta = Delta::aggregated(&world.unix().await).await;
    delta.subscribe(["default"]).await;
    delta.expect(["default"]).await;
    for at in 0..1000 {
        let nonce = match at % 3 {
            0 => format!("{at}"),
            1 => "\u{0}\n\u{1b}[31m".repeat(at),
            _ => format!("{}x", sotw.nonce),
        };
        let version_info = nonce.clone();
        sotw.send(DiscoveryRequest { response_nonce: nonce.clone(), version_info, ..request(&["default"]) });
        delta.send(DeltaDiscoveryRequest { response_nonce: nonce, type_url: SECRET.into(), ..Default::default() });
    }
    sotw.expect_silence().await;
    delta.expect_silence().await;
    world.issuer.rotate().unwrap();
    sotw.expect(["default"]).await;
    delta.expect(["default"]).await;
}

#[tokio::test]
async fn nobody_has_to_say_who_they_are() {
    let world = World::start().await;
    let channel = world.unix().await;
    let mut sotw = Sotw::secrets(&channel).await.node(None);
    sotw.subscribe(["default"]).await;
    sotw.expect(["default"]).await;
    let mut delta = Delta::secrets(&channel).await.node(None);
    delta.subscribe(["default"]).await;
    delta.expect(["default"]).await;
}

#[test]
fn envoy_fits_the_default_limits() {
    let limits = spiffe_sds::server::Limits::default();
    assert!(limits.streams_per_connection >= 10_000 && limits.streams_per_peer >= 10_000);
    assert!(limits.request_bytes >= 128 << 10);
}
