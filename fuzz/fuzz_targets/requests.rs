//! Requests as bytes: whatever Envoy's own messages can say is read alike, and no sequence of them breaks a stream.
#![no_main]

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use spiffe_sds::xds::{
    Content, Limits, Origin, Outgoing, Rank, Resource, ResourceSet, SECRET_TYPE_URL, Service, StreamState, Variant,
    Version, Wire, WireDelta, WireSotw,
};
use zeroize::Zeroizing;

fn origin() -> Arc<Origin> {
    Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "fuzz".into() })
}

fn set() -> ResourceSet {
    let resource = |name: &str, rank| {
        let content = Content::new(Version::claimed(name), rank, Zeroizing::new(name.as_bytes().to_vec()));
        Arc::new(Resource::new(name.into(), name != "alias", Arc::new(content), origin()))
    };
    let all = [resource("default", Rank::Credential), resource("ROOTCA", Rank::Trust), resource("alias", Rank::Trust)];
    ResourceSet::new(all, ["held".into()], Arc::new(|name| !name.starts_with("never")))
}

/// The message in a frame, whose prefix must be right.
fn message(outgoing: Outgoing) -> Vec<u8> {
    let frame = [&*outgoing.frame.head, outgoing.frame.tail.as_deref().unwrap_or_default()].concat();
    let (prefix, body) = frame.split_at(5);
    assert_eq!((prefix[0], u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize), (0, body.len()));
    body.to_vec()
}

fn play<W: Wire + Message + Default>(variant: Variant, service: Service, messages: &[&[u8]]) {
    let set = set();
    let mut stream = StreamState::new(variant, service, Limits { names: 32 }, true, origin());
    for (at, bytes) in messages.iter().enumerate() {
        let now = Duration::from_millis(100 * at as u64);
        let Ok(wire) = W::decode(*bytes) else { return };
        if stream.on_request(wire, now).is_err() {
            return;
        }
        let mut said = 0;
        while let Some(outgoing) = stream.poll(&set, now) {
            let bytes = message(outgoing);
            match variant {
                Variant::Sotw => _ = DiscoveryResponse::decode(bytes.as_slice()).unwrap(),
                Variant::Delta => _ = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap(),
            }
            said += 1;
            assert!(said < 100, "it never falls silent");
        }
        assert!(stream.secrets().names() <= 32 + 2);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    if let Ok(theirs) = DiscoveryRequest::decode(data) {
        let ours = WireSotw::decode(data).expect("what Envoy can say is read");
        assert_eq!((&ours.version_info, &ours.response_nonce), (&theirs.version_info, &theirs.response_nonce));
        assert_eq!((&ours.resource_names, &ours.type_url), (&theirs.resource_names, &theirs.type_url));
        assert_eq!(
            (ours.node.is_some(), ours.error_detail.is_some()),
            (theirs.node.is_some(), theirs.error_detail.is_some())
        );
    }
    if let Ok(theirs) = DeltaDiscoveryRequest::decode(data) {
        let ours = WireDelta::decode(data).expect("what Envoy can say is read");
        assert_eq!(
            (&ours.subscribe, &ours.unsubscribe),
            (&theirs.resource_names_subscribe, &theirs.resource_names_unsubscribe)
        );
        assert_eq!((&ours.type_url, &ours.response_nonce), (&theirs.type_url, &theirs.response_nonce));
        assert_eq!(ours.initial_versions, theirs.initial_resource_versions.into_iter().collect());
    }
    // The same as several messages, each behind its length.
    let (mut messages, mut rest) = (Vec::new(), data);
    while let Some((length, after)) = rest.split_first() {
        let (one, later) = after.split_at(usize::from(*length).min(after.len()));
        messages.push(one);
        rest = later;
    }
    let service = if kind & 1 == 0 { Service::Secrets } else { Service::Aggregated };
    if kind & 2 == 0 {
        play::<WireSotw>(Variant::Sotw, service, &messages);
    } else {
        play::<WireDelta>(Variant::Delta, service, &messages);
    }
});
