use std::{collections::HashSet, sync::Arc};

use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::Availability,
    listen::Peer,
    telemetry::traces::{
        Cause,
        fixture::{Keeper, Kept, shown},
    },
    xds::{Content, Origin, Rank, SECRET_TYPE_URL, Service, Variant},
};

fn client() -> Client {
    let peer = Peer::Process { pid: 7, uid: 8, gid: 9 };
    let (node, cluster) = ("envoy-1".into(), String::new());
    Client { peer, node, cluster, variant: Variant::Delta, service: Service::Secrets }
}

fn resource(name: &str, version: &str) -> Arc<Resource> {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    let content = Content::new(Version::claimed(version), Rank::Credential, Zeroizing::new(vec![1, 2]));
    Arc::new(Resource::new(name.into(), true, Arc::new(content), origin))
}

fn outgoing(resource: &Arc<Resource>) -> Outgoing {
    let (version_info, nonce) = (resource.version().clone(), "nonce".into());
    let update = Update::Resource { resource: resource.clone(), version_info, nonce };
    Outgoing { frame: update.frame(Variant::Delta, resource.origin()), update: Some(update) }
}

/// The number of a step of a rotation of its own that brings these versions.
fn step(traces: &Traces, versions: &[&str]) -> u64 {
    let state = Availability::Ready(Arc::default());
    let cause = || Cause { trigger: "message", source: None, received: SystemTime::now() };
    traces.publishing(&state, cause, || true);
    traces.step(&traces.claim(&state).unwrap(), versions.iter().map(|it| Version::claimed(it)).collect::<HashSet<_>>())
}

fn pushes(kept: &Kept) -> Vec<(String, String)> {
    let pushes = kept.children.iter().filter(|child| child.name == "push");
    pushes.map(|push| (shown(push, "name"), shown(push, "answer"))).collect()
}

#[test]
fn a_push_is_in_the_trace_of_the_rotation_that_brought_its_content() {
    let (keeper, traces) = Keeper::traces();
    let mut trail = Trail::of(&traces);
    let (certificate, token) = (resource("default", "v1"), resource("jwt:a", "t1"));
    step(&traces, &["v1"]);
    let last = step(&traces, &["t1"]);
    trail.looks_at(last);
    trail.sent(&client(), &outgoing(&certificate));
    trail.sent(&client(), &outgoing(&token));
    trail.settles();
    assert!(keeper.take().is_empty(), "both wait for their answers");
    trail.answered(token.name(), token.version(), Verdict::Acked);
    trail.answered(certificate.name(), certificate.version(), Verdict::Rejected("no"));
    let kept = keeper.take();
    assert_eq!(
        kept.iter().map(pushes).collect::<Vec<_>>(),
        [[("jwt:a".to_owned(), "ack".to_owned())], [("default".to_owned(), "nack".to_owned())]]
    );
    let push = kept[0].children.iter().find(|child| child.name == "push").unwrap();
    let described = ["peer", "node", "service", "variant", "type_url", "version", "nonce"];
    assert_eq!(
        described.map(|name| shown(push, name)),
        ["pid:7 uid:8", "envoy-1", "sds", "delta", SECRET_TYPE_URL, "t1", "nonce"]
    );
}

#[test]
fn a_push_that_completes_several_rotations_is_in_the_newest_and_linked_to_the_others() {
    let (keeper, traces) = Keeper::traces();
    let mut trail = Trail::of(&traces);
    step(&traces, &["v1", "v2"]);
    let last = step(&traces, &["v2"]);
    trail.looks_at(last);
    let newest = resource("default", "v2");
    trail.sent(&client(), &outgoing(&newest));
    trail.settles();
    assert!(keeper.take().is_empty());
    trail.answered(newest.name(), newest.version(), Verdict::Acked);
    let kept = keeper.take();
    let (with, without): (Vec<_>, Vec<_>) = kept.iter().partition(|kept| !pushes(kept).is_empty());
    let push = with[0].children.iter().find(|child| child.name == "push").unwrap();
    assert_eq!(push.links, [without[0].context]);
    assert_eq!(without[0].root.end, with[0].root.end, "the older one was complete at the same moment");
}

#[test]
fn a_stream_that_wants_nothing_of_it_is_waited_for_until_it_has_looked() {
    let (keeper, traces) = Keeper::traces();
    let mut trail = Trail::of(&traces);
    let last = step(&traces, &["v1"]);
    trail.settles();
    assert!(keeper.take().is_empty(), "it has not looked");
    trail.looks_at(last);
    trail.settles();
    assert_eq!(keeper.take()[0].root("pushes"), "0");
}

#[test]
fn a_step_that_is_told_before_it_is_seen_is_kept() {
    let (keeper, traces) = Keeper::traces();
    let mut trail = Trail::of(&traces);
    let last = step(&traces, &["v1"]);
    // Still the resources of before, though the step has been told already.
    trail.looks_at(last - 1);
    trail.settles();
    assert!(keeper.take().is_empty());
    trail.looks_at(last);
    trail.sent(&client(), &outgoing(&resource("default", "v1")));
    trail.settles();
    drop(trail);
    let kept = keeper.take();
    assert_eq!(pushes(&kept[0]), [("default".to_owned(), "none".to_owned())]);
    assert_eq!(kept[0].root("outcome"), "unanswered");
}

#[test]
fn what_nobody_looks_at_costs_no_memory() {
    let (_, traces) = Keeper::traces();
    let mut off = Trail::default();
    off.sent(&client(), &outgoing(&resource("default", "v1")));
    assert!(off.pushes.is_empty() && off.follower.is_none());
    let mut on = Trail::of(&traces);
    on.sent(&client(), &outgoing(&resource("default", "v1")));
    assert!(on.pushes.is_empty(), "no rotation caused it");
}
