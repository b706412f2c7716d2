use std::{sync::Arc, time::Instant};

use zeroize::Zeroizing;

use super::*;
use crate::{
    listen::Peer,
    xds::{Content, Origin, Rank, Resource, Service, Variant},
};

fn client(node: &str) -> Arc<Client> {
    let peer = Peer::Process { pid: 7, uid: 1, gid: 1 };
    let (node, cluster) = (node.to_owned(), "edge".to_owned());
    Arc::new(Client { peer, node, cluster, variant: Variant::Sotw, service: Service::Secrets })
}

fn version(text: &str) -> Version {
    Version::claimed(text)
}

fn set(versions: &[(&str, &str)]) -> Arc<ResourceSet> {
    let origin = Arc::new(Origin { type_url: "t", control_plane: "c".into() });
    let resources = versions.iter().map(|(name, text)| {
        let content = Arc::new(Content::new(version(text), Rank::Trust, Zeroizing::new(Vec::new())));
        Arc::new(Resource::new((*name).into(), true, content, origin.clone()))
    });
    Arc::new(ResourceSet::new(resources, [], Arc::new(|_| true)))
}

fn states(streams: &Streams) -> Vec<State> {
    streams.all().iter().flat_map(|stream| stream.names.iter().map(|name| name.state)).collect()
}

#[test]
fn a_name_goes_through_the_states() {
    let streams = Streams::default();
    let seat = streams.open(client("a"));
    let name = ResourceName::new("default");
    seat.sees(&set(&[("default", "1")]));
    seat.sent(&name, &version("1"));
    assert_eq!(states(&streams), [State::Stale]);
    seat.acked(&name, &version("1"));
    assert_eq!(states(&streams), [State::Synced]);
    seat.sees(&set(&[("default", "2")]));
    assert_eq!(states(&streams), [State::Stale]);
    seat.sent(&name, &version("2"));
    seat.nacked(&name, &version("2"), "bad");
    assert_eq!(states(&streams), [State::Error]);
    drop(seat);
    assert!(streams.is_empty());
}

#[test]
fn an_error_stays_until_other_content_is_taken() {
    let streams = Streams::default();
    let seat = streams.open(client("a"));
    let name = ResourceName::new("default");
    seat.sent(&name, &version("1"));
    seat.nacked(&name, &version("1"), "bad");
    seat.sent(&name, &version("1"));
    seat.acked(&name, &version("1"));
    assert_eq!(states(&streams), [State::Error]);
    seat.sent(&name, &version("2"));
    assert_eq!(states(&streams), [State::Error]);
    seat.acked(&name, &version("2"));
    assert_eq!(states(&streams), [State::Synced]);
}

#[test]
fn who_has_a_version_is_counted_a_stream() {
    let streams = Streams::default();
    let (a, b) = (streams.open(client("a")), streams.open(client("b")));
    for name in ["default", "spiffe://example.org/w"] {
        a.sent(&name.into(), &version("1"));
    }
    b.sent(&"default".into(), &version("1"));
    assert_eq!(streams.holders(&version("1")), 2);
    b.sent(&"default".into(), &version("2"));
    assert_eq!((streams.holders(&version("1")), streams.holders(&version("2"))), (1, 1));
    drop(a);
    assert_eq!(streams.holders(&version("1")), 0);
}

/// So many streams, each of a client of its own with three names; one in a hundred refuses its certificate. They are live
/// as long as what comes with them.
pub(crate) fn crowd(count: usize) -> (Streams, impl Sized) {
    let streams = Streams::default();
    let names = ["default", "ROOTCA", "spiffe://partner.example"];
    let now = set(&names.map(|name| (name, "7f3a")));
    let seat = |number: usize| {
        let seat = streams.open(client(&format!("envoy-{number:05}")));
        seat.sees(&now);
        for name in names.map(ResourceName::new) {
            seat.sent(&name, &version("7f3a"));
            if number.is_multiple_of(100) && name.as_str() == "default" {
                seat.nacked(&name, &version("7f3a"), "Failed to load certificate chain from <inline>");
            } else {
                seat.acked(&name, &version("7f3a"));
            }
        }
        seat
    };
    let seats: Vec<_> = (0..count).map(seat).collect();
    (streams, seats)
}

#[test]
fn ten_thousand_streams_are_searched_and_paged() {
    let (streams, seats) = crowd(10_000);
    let query = |text: &str| Query { text: text.into(), limit: 50, ..Query::default() };
    let started = Instant::now();
    let found = streams.find(&Query { offset: 60, ..query("ENVOY-012") });
    // Unoptimised and on a busy machine; the bound is about the order of growth.
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    let nodes: Vec<_> = found.streams.iter().map(|stream| stream.client.node.as_str()).collect();
    assert_eq!((found.matched, nodes.len(), nodes[0], nodes[39]), (100, 40, "envoy-01260", "envoy-01299"));
    assert_eq!((found.counts.streams, found.counts.names), (10_000, [29_900, 0, 0, 0, 100]));
    assert_eq!(streams.find(&query("Failed TO load")).matched, 100);
    assert_eq!(streams.find(&query("pid:7 ")).matched, 10_000);
    assert_eq!(streams.find(&query("nobody")).matched, 0);
    let refused = streams.find(&Query { state: Some(State::Error), text: "-09".into(), limit: 50, offset: 0 });
    assert_eq!((refused.matched, refused.streams.len()), (10, 10));
    drop(seats);
    assert!(streams.is_empty());
}

#[test]
fn the_streams_of_one_client_stand_together() {
    let streams = Streams::default();
    let _seats: Vec<_> = ["b", "a", "b", "a"].map(|node| streams.open(client(node))).into();
    let found = streams.find(&Query { limit: 10, ..Query::default() });
    let order: Vec<_> = found.streams.iter().map(|stream| (stream.client.node.as_str(), stream.id)).collect();
    assert_eq!(order, [("a", 2), ("a", 4), ("b", 1), ("b", 3)]);
}

#[test]
fn a_resend_concerns_the_named_and_wakes_them() {
    let streams = Streams::default();
    let (a, b) = (streams.open(client("a")), streams.open(client("b")));
    a.sent(&"default".into(), &version("1"));
    b.sent(&"ROOTCA".into(), &version("1"));
    let cx = Context::from_waker(std::task::Waker::noop());
    assert_eq!(streams.resend(Some("nobody"), None), 0);
    assert_eq!(streams.resend(None, Some("default")), 1);
    assert_eq!((a.asked(&cx), b.asked(&cx)), (Some(Resend::Name("default".into())), None));
    assert_eq!(streams.resend(Some("b"), None), 1);
    assert_eq!((a.asked(&cx), b.asked(&cx)), (None, Some(Resend::Everything)));
    assert_eq!(b.asked(&cx), None);
}
