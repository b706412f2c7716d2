use std::{sync::Arc, time::Instant};

use zeroize::Zeroizing;

use super::*;
use crate::{
    server::Peer,
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
fn ten_thousand_streams_are_searched_in_no_time() {
    let streams = Streams::default();
    let seats: Vec<_> = (0..10_000).map(|number| streams.open(client(&format!("envoy-{number}")))).collect();
    for seat in &seats {
        seat.sent(&"default".into(), &version("1"));
    }
    let started = Instant::now();
    let found = streams.find(&Query { text: "ENVOY-12".into(), offset: 10, limit: 50, ..Query::default() });
    // Unoptimised and on a busy machine; the bound is about the order of growth.
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    assert_eq!((found.matched, found.streams.len(), found.counts.streams), (111, 50, 10_000));
    assert_eq!(found.counts.of(State::Stale), 10_000);
    let none = streams.find(&Query { state: Some(State::Error), limit: 50, ..Query::default() });
    assert_eq!(none.matched, 0);
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
