//! Responses on the wire: gRPC frames that share their resource's bytes.
//!
//! The envelope fields come first and the one resource last (protobuf fields may come in any order), so that a frame
//! is a short head and a tail which is always the same. A frame whose whole envelope is equal for all receivers is
//! shared whole; otherwise only the head is written anew.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{
    Origin, Resource, ResourceName, Variant, Version,
    buffer::{filled, wiped},
};

/// Field numbers of `DiscoveryResponse` and `DeltaDiscoveryResponse` (envoy/service/discovery/v3/discovery.proto).
mod field {
    /// `version_info` / `system_version_info`.
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    /// Delta only.
    pub(super) const REMOVED: u32 = 6;
    pub(super) const SOTW_CONTROL_PLANE: u32 = 6;
    pub(super) const DELTA_CONTROL_PLANE: u32 = 7;
    /// Of every named xDS resource, such as `Secret`.
    pub(super) const NAME: u32 = 1;
    /// `envoy.service.discovery.v3.Resource`.
    pub(super) mod resource {
        pub(in super::super) const VERSION: u32 = 1;
        pub(in super::super) const RESOURCE: u32 = 2;
        pub(in super::super) const NAME: u32 = 3;
    }
    /// `google.protobuf.Any`.
    pub(super) mod any {
        pub(in super::super) const TYPE_URL: u32 = 1;
        pub(in super::super) const VALUE: u32 = 2;
    }
}

/// One length-prefixed gRPC message: `head` then, where it is written apart, `tail`.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The five-byte prefix and the beginning of the message, or all of it.
    pub head: Bytes,
    /// The rest of the message.
    pub tail: Option<Bytes>,
}

impl Frame {
    /// Bytes on the wire.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.len() + self.tail.as_ref().map_or(0, Bytes::len)
    }
}

/// The bytes may be a private key's.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.size())
    }
}

/// A resource's shared encodings for one variant.
pub(super) struct Frames {
    whole: Bytes,
    tail: Bytes,
    version_info: Version,
    nonce: Box<str>,
}

impl Frames {
    /// The nonce of the shared frame: derived from name and version, so equal for all receivers.
    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The `version_info` of the shared frame: for SotW that of a client which holds this resource alone.
    pub(super) fn version_info(&self) -> &Version {
        &self.version_info
    }

    /// The frame for a receiver that needs this version and nonce.
    pub(super) fn frame(&self, variant: Variant, origin: &Origin, version_info: &Version, nonce: &str) -> Frame {
        if *version_info == self.version_info && *nonce == *self.nonce {
            return Frame { head: self.whole.clone(), tail: None };
        }
        let mut head = BytesMut::new();
        Envelope::of(variant, origin, version_info.as_str(), nonce).put(&mut head, self.tail.len());
        Frame { head: head.freeze(), tail: Some(self.tail.clone()) }
    }
}

/// Encodes a resource for one variant, once.
pub(super) fn encode(resource: &Resource, variant: Variant) -> Frames {
    let (name, version) = (resource.name().as_str(), resource.version().as_str());
    let nonce: Box<str> = Version::digest([name.as_bytes(), version.as_bytes()]).as_str().chars().take(16).collect();
    let version_info = match variant {
        Variant::Sotw => state_digest([(resource.name(), resource.version())]),
        Variant::Delta => resource.version().clone(),
    };
    let origin = resource.origin();
    let any = string_len(field::any::TYPE_URL, origin.type_url) + bytes_len(field::any::VALUE, message_len(resource));
    let entry = match variant {
        Variant::Sotw => any,
        Variant::Delta => {
            string_len(field::resource::VERSION, version)
                + bytes_len(field::resource::RESOURCE, any)
                + string_len(field::resource::NAME, name)
        }
    };
    let tail_len = bytes_len(field::RESOURCES, entry);
    let envelope = Envelope::of(variant, origin, version_info.as_str(), &nonce);
    let mut tail_at = 0;
    let whole = filled(5 + envelope.len() + tail_len, |whole| {
        envelope.put(whole, tail_len);
        tail_at = whole.len();
        put_length_key(whole, field::RESOURCES, entry);
        if variant == Variant::Delta {
            put_string(whole, field::resource::VERSION, version);
            put_string(whole, field::resource::NAME, name);
            put_length_key(whole, field::resource::RESOURCE, any);
        }
        put_any(whole, origin, resource);
    });
    let whole = wiped(whole);
    let tail = whole.slice(tail_at..);
    Frames { whole, tail, version_info, nonce }
}

/// A response without resources: an empty SotW answer, or delta's list of names that are not to be had.
pub(super) fn without_resources(
    variant: Variant,
    origin: &Origin,
    type_url: &str,
    version_info: &str,
    nonce: &str,
    removed: &[ResourceName],
) -> Frame {
    let removed_len: usize = removed.iter().map(|name| string_len(field::REMOVED, name.as_str())).sum();
    let mut head = BytesMut::new();
    let envelope = Envelope { variant, type_url, control_plane: &origin.control_plane, version_info, nonce };
    envelope.put(&mut head, removed_len);
    for name in removed {
        put_string(&mut head, field::REMOVED, name.as_str());
    }
    Frame { head: head.freeze(), tail: None }
}

/// The answer to a unary request: all resources in one message, without version and nonce, as SPIRE answers it.
#[must_use]
pub fn unary_frame(origin: &Origin, resources: &[&Resource]) -> Bytes {
    let any_len = |resource: &Resource| {
        string_len(field::any::TYPE_URL, origin.type_url) + bytes_len(field::any::VALUE, message_len(resource))
    };
    let rest: usize = resources.iter().map(|resource| bytes_len(field::RESOURCES, any_len(resource))).sum();
    let envelope = Envelope::of(Variant::Sotw, origin, "", "");
    wiped(filled(5 + envelope.len() + rest, |out| {
        envelope.put(out, rest);
        for resource in resources {
            put_length_key(out, field::RESOURCES, any_len(resource));
            put_any(out, origin, resource);
        }
    }))
}

/// What a SotW client that holds exactly these resources has as `version_info`. Pairs must come sorted by name.
pub(super) fn state_digest<'a>(held: impl IntoIterator<Item = (&'a ResourceName, &'a Version)>) -> Version {
    Version::digest(
        held.into_iter().flat_map(|(name, version)| [name.as_str().as_bytes(), version.as_str().as_bytes()]),
    )
}

/// Everything of a response but its resources.
struct Envelope<'a> {
    variant: Variant,
    type_url: &'a str,
    control_plane: &'a str,
    version_info: &'a str,
    nonce: &'a str,
}

impl<'a> Envelope<'a> {
    fn of(variant: Variant, origin: &'a Origin, version_info: &'a str, nonce: &'a str) -> Self {
        Self { variant, type_url: origin.type_url, control_plane: &origin.control_plane, version_info, nonce }
    }

    fn len(&self) -> usize {
        string_len(field::VERSION, self.version_info)
            + string_len(field::TYPE_URL, self.type_url)
            + string_len(field::NONCE, self.nonce)
            + bytes_len(control_plane_field(self.variant), string_len(1, self.control_plane))
    }

    /// Writes the gRPC prefix of a message with `rest` bytes to follow, and the envelope.
    fn put(&self, out: &mut impl BufMut, rest: usize) {
        out.put_u8(0); // not compressed
        out.put_u32(u32::try_from(self.len() + rest).unwrap_or(u32::MAX));
        put_string(out, field::VERSION, self.version_info);
        put_string(out, field::TYPE_URL, self.type_url);
        put_string(out, field::NONCE, self.nonce);
        put_length_key(out, control_plane_field(self.variant), string_len(1, self.control_plane));
        put_string(out, 1, self.control_plane);
    }
}

fn control_plane_field(variant: Variant) -> u32 {
    match variant {
        Variant::Sotw => field::SOTW_CONTROL_PLANE,
        Variant::Delta => field::DELTA_CONTROL_PLANE,
    }
}

fn put_any(out: &mut impl BufMut, origin: &Origin, resource: &Resource) {
    put_string(out, field::any::TYPE_URL, origin.type_url);
    put_length_key(out, field::any::VALUE, message_len(resource));
    put_string(out, field::NAME, resource.name().as_str());
    out.put_slice(resource.content().body());
}

/// The resource's own message: its name, then its content.
fn message_len(resource: &Resource) -> usize {
    string_len(field::NAME, resource.name().as_str()) + resource.content().body().len()
}

fn put_length_key(out: &mut impl BufMut, tag: u32, len: usize) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn put_string(out: &mut impl BufMut, tag: u32, text: &str) {
    put_length_key(out, tag, text.len());
    out.put_slice(text.as_bytes());
}

fn string_len(tag: u32, text: &str) -> usize {
    bytes_len(tag, text.len())
}

fn bytes_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::{
        extensions::transport_sockets::tls::v3::Secret,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    };
    use prost::Message as _;

    use zeroize::Zeroizing;

    use super::*;
    use crate::xds::{Content, Rank, SECRET_TYPE_URL};

    fn resource() -> Resource {
        let content = Content::new(Version::claimed("v1"), Rank::Credential, Zeroizing::default());
        let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "spiffe-sds/test".into() });
        Resource::new("default".into(), false, Arc::new(content), origin)
    }

    fn decode<M: prost::Message + Default>(frame: &Frame) -> M {
        let all = [frame.head.as_ref(), frame.tail.as_deref().unwrap_or_default()].concat();
        let (prefix, message) = all.split_at(5);
        assert_eq!(prefix[0], 0);
        assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
        M::decode(message).unwrap()
    }

    #[test]
    fn envoy_reads_a_shared_and_a_private_sotw_frame() {
        let resource = resource();
        let frames = resource.frames(Variant::Sotw);
        let shared = frames.frame(Variant::Sotw, resource.origin(), frames.version_info(), frames.nonce());
        assert!(shared.tail.is_none());
        let private = frames.frame(Variant::Sotw, resource.origin(), &Version::claimed("all"), "n-2");
        assert_eq!(private.tail.as_ref().unwrap().as_ptr(), frames.tail.as_ptr(), "the resource is not copied");
        for (frame, version, nonce) in
            [(shared, frames.version_info().as_str(), frames.nonce()), (private, "all", "n-2")]
        {
            let response: DiscoveryResponse = decode(&frame);
            assert_eq!((response.version_info.as_str(), response.nonce.as_str()), (version, nonce));
            assert_eq!(response.type_url, SECRET_TYPE_URL);
            assert_eq!(response.control_plane.unwrap().identifier, "spiffe-sds/test");
            assert_eq!(response.resources.len(), 1);
            assert_eq!(response.resources[0].type_url, SECRET_TYPE_URL);
            assert_eq!(Secret::decode(response.resources[0].value.as_slice()).unwrap().name, "default");
        }
    }

    #[test]
    fn envoy_reads_a_delta_frame() {
        let resource = resource();
        let frames = resource.frames(Variant::Delta);
        let frame = frames.frame(Variant::Delta, resource.origin(), frames.version_info(), frames.nonce());
        let response: DeltaDiscoveryResponse = decode(&frame);
        assert_eq!(response.system_version_info, "v1");
        assert_eq!(response.control_plane.unwrap().identifier, "spiffe-sds/test");
        assert_eq!((response.resources[0].name.as_str(), response.resources[0].version.as_str()), ("default", "v1"));
        let any = response.resources[0].resource.as_ref().unwrap();
        assert_eq!(Secret::decode(any.value.as_slice()).unwrap().name, "default");
    }

    #[test]
    fn envoy_reads_a_removal() {
        let resource = resource();
        let names = [ResourceName::new("a"), ResourceName::new("b")];
        let frame = without_resources(Variant::Delta, resource.origin(), "t", "v", "n", &names);
        let response: DeltaDiscoveryResponse = decode(&frame);
        assert_eq!(response.removed_resources, ["a", "b"]);
        let empty = without_resources(Variant::Sotw, resource.origin(), "t", "v", "n", &[]);
        let response: DiscoveryResponse = decode(&empty);
        assert!(response.resources.is_empty() && response.nonce == "n");
    }

    #[test]
    fn encoding_never_reallocates_and_happens_once() {
        let resource = resource();
        let first = resource.frames(Variant::Sotw).whole.as_ptr();
        assert_eq!(first, resource.frames(Variant::Sotw).whole.as_ptr());
    }
}
