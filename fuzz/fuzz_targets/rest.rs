//! REST: requests in both spellings, and responses that are JSON whatever the secret.
#![no_main]

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use spiffe_sds::{
    server::fuzzing::{rest_request, rest_response},
    xds::{Content, Origin, Rank, Resource, SECRET_TYPE_URL, Version},
};
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    if let Some((names, _)) = rest_request(data) {
        let again = serde_json::json!({ "resourceNames": names }).to_string();
        assert_eq!(rest_request(again.as_bytes()).expect("the other spelling").0, names);
    }
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "fuzz".into() });
    let content = Content::new(Version::claimed("1"), Rank::Credential, Zeroizing::new(data.to_vec()));
    let resource = Resource::new("name".into(), true, Arc::new(content), origin);
    if let Some(body) = rest_response(&Version::claimed("1"), &[&resource]) {
        let _: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
        assert!(Secret::decode(data).is_ok(), "it was a secret");
    }
});
