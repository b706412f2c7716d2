//! Responses: whatever a name, a version and a content are, Envoy's own decoder finds them in the frames again.
#![no_main]

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use spiffe_sds::xds::{
    Content, Limits, Origin, Rank, Resource, ResourceSet, SECRET_TYPE_URL, Service, StreamState, Variant, Version,
    WireDelta, WireSotw,
};
use zeroize::Zeroizing;

/// The one field of every xDS resource that the encoder adds.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fuzz_target!(|data: (String, String, String, Vec<u8>, bool)| {
    let (name, version, control_plane, body, again) = data;
    if name.is_empty() || name == "*" {
        return;
    }
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: control_plane.clone() });
    let content = Arc::new(Content::new(Version::claimed(&version), Rank::Credential, Zeroizing::new(body.clone())));
    let resource = Arc::new(Resource::new(name.as_str().into(), true, content, origin.clone()));
    let set = ResourceSet::new([resource], [], Arc::new(|_| false));
    let expected = [Named { name: name.clone() }.encode_to_vec(), body].concat();
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut stream = StreamState::new(variant, Service::Secrets, Limits { names: 9 }, false, origin.clone());
        let names = vec![name.clone()];
        let heard = match variant {
            Variant::Sotw => {
                stream.on_request(WireSotw { resource_names: names, ..Default::default() }, Duration::ZERO)
            }
            Variant::Delta => stream.on_request(WireDelta { subscribe: names, ..Default::default() }, Duration::ZERO),
        };
        // A name may be too long for a stream.
        if heard.is_err() {
            return;
        }
        for _ in 0..=usize::from(again) {
            let frame = stream.poll(&set, Duration::ZERO).expect("an answer").frame;
            assert_eq!(frame.size(), frame.head.len() + frame.tail.as_ref().map_or(0, |tail| tail.len()));
            let frame = [&*frame.head, frame.tail.as_deref().unwrap_or_default()].concat();
            assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
            let any = match variant {
                Variant::Sotw => {
                    let response = DiscoveryResponse::decode(&frame[5..]).unwrap();
                    assert_eq!(response.control_plane.unwrap().identifier, control_plane);
                    response.resources.into_iter().next().unwrap()
                }
                Variant::Delta => {
                    let response = DeltaDiscoveryResponse::decode(&frame[5..]).unwrap();
                    let resource = response.resources.into_iter().next().unwrap();
                    assert_eq!((&resource.name, &resource.version), (&name, &version));
                    resource.resource.unwrap()
                }
            };
            assert_eq!((any.type_url.as_str(), &any.value), (SECRET_TYPE_URL, &expected));
            stream.resend(None);
        }
    }
});
