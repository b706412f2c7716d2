//! What a whole stream does with requests as they come off the wire, and what its frames say to Envoy.

use envoy_types::pb::envoy::{
    config::core::v3::Node as EnvoyNode,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
};
use prost::Message as _;

use super::*;
use crate::xds::{
    WireDelta, WireSotw,
    subscription::tests::{resource, set},
};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

fn stream(variant: Variant, service: Service) -> StreamState {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    StreamState::new(variant, service, Limits { names: 4, name_bytes: 4 << 20 }, false, origin)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A request as Envoy writes it.
fn sotw(type_url: &str, nonce: &str, names: &[&str]) -> WireSotw {
    let request = DiscoveryRequest {
        type_url: type_url.into(),
        response_nonce: nonce.into(),
        resource_names: strings(names),
        ..DiscoveryRequest::default()
    };
    WireSotw::decode(request.encode_to_vec().as_slice()).unwrap()
}

/// A request as Envoy writes it.
fn delta(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> WireDelta {
    let request = DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    };
    WireDelta::decode(request.encode_to_vec().as_slice()).unwrap()
}

fn decode<M: prost::Message + Default>(frame: &Frame) -> M {
    let all = [frame.head.as_ref(), frame.tail.as_deref().unwrap_or_default()].concat();
    M::decode(&all[5..]).unwrap()
}

impl StreamState {
    fn hears(&mut self, wire: impl Wire) -> Event {
        self.on_request(wire, Duration::ZERO).unwrap()
    }

    /// Everything the stream says, as `type: content`; short type names.
    fn says(&mut self, now: &ResourceSet) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(outgoing) = self.poll(now, Duration::ZERO) {
            said.push(match self.variant {
                Variant::Sotw => {
                    let response: DiscoveryResponse = decode(&outgoing.frame);
                    let bodies = response.resources.iter().map(|any| {
                        // Name first, in one length-prefixed field of a short name; then the content.
                        let content = any.value.get(2 + usize::from(any.value[1])..).unwrap_or_default();
                        String::from_utf8_lossy(content).into_owned()
                    });
                    line(&response.type_url, bodies)
                }
                Variant::Delta => {
                    let response: DeltaDiscoveryResponse = decode(&outgoing.frame);
                    let bodies = response.resources.iter().map(|r| format!("{}@{}", r.name, r.version));
                    line(&response.type_url, bodies.chain(response.removed_resources.iter().map(|r| format!("-{r}"))))
                }
            });
        }
        said
    }
}

fn line(type_url: &str, content: impl Iterator<Item = String>) -> String {
    let short = type_url.rsplit('.').next().unwrap_or_default();
    format!("{short}: {}", content.collect::<Vec<_>>().join(" "))
}

#[test]
fn the_secret_service_refuses_other_types_and_assumes_its_own() {
    let mut state = stream(Variant::Sotw, Service::Secrets);
    state.hears(sotw("", "", &["a"]));
    state.hears(sotw(SECRET_TYPE_URL, "", &["a"]));
    assert_eq!(state.says(&set(&["a@1"])), ["Secret: a@1"]);
    let refused = state.on_request(sotw(CLUSTERS, "", &[]), Duration::ZERO).unwrap_err();
    assert_eq!(refused, Refusal::WrongType(CLUSTERS.into()));
}

#[test]
fn an_aggregated_request_must_say_its_type() {
    let mut state = stream(Variant::Delta, Service::Aggregated);
    assert_eq!(state.on_request(delta("", &["a"], &[]), Duration::ZERO).unwrap_err(), Refusal::NoType);
}

#[test]
fn too_many_names_end_the_stream() {
    let mut state = stream(Variant::Sotw, Service::Secrets);
    let refused = state.on_request(sotw("", "", &["a", "b", "c", "d", "e"]), Duration::ZERO).unwrap_err();
    assert_eq!(refused, Refusal::TooManyNames(TooManyNames::Count { limit: 4 }));
}

#[test]
fn the_node_is_taken_from_the_first_message_only() {
    let node = |id: &str| {
        let node = Some(EnvoyNode { id: id.into(), ..EnvoyNode::default() });
        let request = DeltaDiscoveryRequest { node, ..DeltaDiscoveryRequest::default() };
        WireDelta::decode(request.encode_to_vec().as_slice()).unwrap()
    };
    let mut state = stream(Variant::Delta, Service::Secrets);
    assert_eq!(state.hears(node("first")).node.unwrap().id, "first");
    assert_eq!(state.hears(node("second")).node, None);
    let mut state = stream(Variant::Delta, Service::Secrets);
    assert_eq!(state.hears(delta("", &["a"], &[])).node, None);
    assert_eq!(state.hears(node("late")).node, None);
}

#[test]
fn only_an_aggregated_sotw_stream_heals() {
    for (service, expected) in [(Service::Secrets, vec![]), (Service::Aggregated, vec!["Secret: a@1"])] {
        let now = set(&["a@1"]);
        let mut state = stream(Variant::Sotw, service);
        state.hears(sotw(SECRET_TYPE_URL, "", &["a"]));
        let response: DiscoveryResponse = decode(&state.poll(&now, Duration::ZERO).unwrap().frame);
        state.hears(sotw(SECRET_TYPE_URL, &response.nonce, &["a"]));
        state.hears(sotw(SECRET_TYPE_URL, &response.nonce, &["a"]));
        assert_eq!(state.says(&now), expected);
    }
}

#[test]
fn sotw_other_types_are_answered_empty_once_and_secrets_go_on() {
    let now = set(&["a@1"]);
    let mut state = stream(Variant::Sotw, Service::Aggregated);
    assert_eq!(state.hears(sotw(CLUSTERS, "", &[])).foreign, Some(CLUSTERS.into()));
    state.hears(sotw(SECRET_TYPE_URL, "", &["a"]));
    assert_eq!(state.says(&now), ["Cluster: ", "Secret: a@1"]);
    assert_eq!(state.hears(sotw(CLUSTERS, "none.1", &[])).foreign, None);
    assert!(state.says(&now).is_empty());
    assert_eq!(state.says(&set(&["a@2"])), ["Secret: a@2"]);
}

#[test]
fn sotw_new_names_of_another_type_are_answered_again() {
    let now = ResourceSet::pending();
    let mut state = stream(Variant::Sotw, Service::Aggregated);
    state.hears(sotw(ENDPOINTS, "", &["x"]));
    assert_eq!(state.says(&now), ["ClusterLoadAssignment: "]);
    state.hears(sotw(ENDPOINTS, "none.1", &["x", "y"]));
    assert_eq!(state.says(&now), ["ClusterLoadAssignment: "]);
    state.hears(sotw(ENDPOINTS, "none.2", &["y"]));
    assert!(state.says(&now).is_empty());
}

#[test]
fn delta_names_of_another_type_are_removed_each_time_they_are_asked_for() {
    let now = ResourceSet::pending();
    let mut state = stream(Variant::Delta, Service::Aggregated);
    state.hears(delta(ENDPOINTS, &["x"], &[]));
    assert_eq!(state.says(&now), ["ClusterLoadAssignment: -x"]);
    state.hears(delta(ENDPOINTS, &["y"], &["x"]));
    assert_eq!(state.says(&now), ["ClusterLoadAssignment: -y"]);
    // Envoy subscribes again without unsubscribing when a name went and came within one batch.
    state.hears(delta(ENDPOINTS, &["y"], &[]));
    assert_eq!(state.says(&now), ["ClusterLoadAssignment: -y"]);
    state.hears(delta(ENDPOINTS, &[], &[]));
    assert!(state.says(&now).is_empty());
}

#[test]
fn delta_a_wildcard_of_another_type_is_answered_without_names() {
    for subscribe in [&[][..], &["*"]] {
        let mut state = stream(Variant::Delta, Service::Aggregated);
        state.hears(delta(CLUSTERS, subscribe, &[]));
        assert_eq!(state.says(&ResourceSet::pending()), ["Cluster: "]);
    }
}

#[test]
fn other_types_are_answered_in_the_order_they_came() {
    let mut state = stream(Variant::Sotw, Service::Aggregated);
    state.hears(sotw(ENDPOINTS, "", &["x"]));
    state.hears(sotw(CLUSTERS, "", &[]));
    state.hears(sotw(ENDPOINTS, "", &["x", "y"]));
    assert_eq!(state.says(&ResourceSet::pending()), ["ClusterLoadAssignment: ", "Cluster: "]);
}

#[test]
fn names_of_other_types_are_limited_and_repeating_them_is_free() {
    let mut state = stream(Variant::Sotw, Service::Aggregated);
    state.hears(sotw(ENDPOINTS, "", &["x", "y", "z"]));
    state.says(&ResourceSet::pending());
    state.hears(sotw(ENDPOINTS, "none.1", &["x", "y", "z"]));
    state.hears(sotw(ENDPOINTS, "none.1", &["w", "x", "y", "z"]));
    let refused = state.on_request(sotw(CLUSTERS, "", &["c"]), Duration::ZERO).unwrap_err();
    assert_eq!(refused, Refusal::TooManyNames(TooManyNames::Count { limit: 4 }));
}

#[test]
fn frames_say_what_the_update_says() {
    let now = set(&["a@1", "b@1"]);
    let mut state = stream(Variant::Sotw, Service::Secrets);
    state.hears(sotw("", "", &["a", "b"]));
    for shared in [true, false] {
        let outgoing = state.poll(&now, Duration::ZERO).unwrap();
        let response: DiscoveryResponse = decode(&outgoing.frame);
        let Some(Update::Resource { resource, version_info, nonce }) = &outgoing.update else { panic!("no resource") };
        assert_eq!((response.version_info.as_str(), response.nonce.as_str()), (version_info.as_str(), &**nonce));
        assert!(response.resources[0].value.ends_with(resource.content().body()));
        assert_eq!(response.resources[0].type_url, SECRET_TYPE_URL);
        assert_eq!(outgoing.frame.tail.is_none(), shared);
    }
    let mut state = stream(Variant::Delta, Service::Secrets);
    state.hears(delta("", &["a", "never"], &[]));
    let outgoing = state.poll(&now, Duration::ZERO).unwrap();
    let response: DeltaDiscoveryResponse = decode(&outgoing.frame);
    assert_eq!(outgoing.resource().unwrap(), (&"a".into(), &Version::claimed("1")));
    assert_eq!((response.resources[0].name.as_str(), response.resources[0].version.as_str()), ("a", "1"));
    let outgoing = state.poll(&now, Duration::ZERO).unwrap();
    let response: DeltaDiscoveryResponse = decode(&outgoing.frame);
    let Some(Update::Removed { nonce, .. }) = &outgoing.update else { panic!("no removal") };
    assert_eq!((response.removed_resources, response.nonce.as_str()), (strings(&["never"]), &**nonce));
    assert!(outgoing.resource().is_none());
}

#[test]
fn streams_share_the_bytes_of_a_resource() {
    let now = ResourceSet::new([resource("a", "1")], [], Arc::new(|_| true));
    for variant in [Variant::Sotw, Variant::Delta] {
        let frame = |service: Service| {
            let mut state = stream(variant, service);
            match variant {
                Variant::Sotw => state.hears(sotw(SECRET_TYPE_URL, "", &["a"])),
                Variant::Delta => state.hears(delta(SECRET_TYPE_URL, &["a"], &[])),
            };
            let frame = state.poll(&now, Duration::ZERO).unwrap().frame;
            assert!(frame.tail.is_none());
            frame.head
        };
        assert_eq!(frame(Service::Secrets).as_ptr(), frame(Service::Aggregated).as_ptr());
    }
}
