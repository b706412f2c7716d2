//! A snapshot as bytes: the message that the source would send for it, so that what comes back goes through the same
//! decoder, with every check that it makes.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use zeroize::Zeroizing;

use crate::{
    identity::{IdentitySnapshot, PrivateKey, Svid, TrustBundle, TrustDomain},
    source::decode::{self, DecodeError, Limits, Precedence},
    workload_api_proto as proto,
};

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Svids = 1,
    Bundles = 2,
}

/// Lets a key's own memory, which is wiped, be the field of a message.
struct Shared(PrivateKey);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.pkcs8_der()
    }
}

/// What of `snapshot` a message says; `None` for one that says nothing.
pub(super) fn encode(snapshot: &IdentitySnapshot) -> Option<(Kind, Zeroizing<Vec<u8>>)> {
    if snapshot.bundles.is_empty() {
        return None;
    }
    let crl = snapshot.crls.iter().map(|crl| Bytes::copy_from_slice(crl)).collect();
    if snapshot.svids.is_empty() {
        let bundles = bundles(snapshot, |_| true);
        return Some((Kind::Bundles, buffer(&proto::X509BundlesResponse { crl, bundles })));
    }
    let own = |domain: &TrustDomain| snapshot.svids.iter().any(|svid| svid.id.trust_domain() == domain);
    let message = proto::X509svidResponse {
        svids: snapshot.svids.iter().map(|svid| wire(svid, snapshot)).collect(),
        crl,
        federated_bundles: bundles(snapshot, |domain| !own(domain)),
    };
    Some((Kind::Svids, buffer(&message)))
}

/// The snapshot of a message. `bytes` is wiped when the last slice of it is gone.
///
/// # Errors
/// The first rule that something in it breaks.
pub(super) fn decode(
    kind: Kind,
    bytes: Zeroizing<Vec<u8>>,
    trust_domain: Option<&TrustDomain>,
    now: std::time::SystemTime,
) -> Result<IdentitySnapshot, DecodeError> {
    let (bytes, limits) = (Bytes::from_owner(bytes), Limits::default());
    let not = |expected| move |source| DecodeError::NotAMessage { expected, source };
    match kind {
        Kind::Svids => {
            let message = proto::X509svidResponse::decode(bytes).map_err(not("X509SVIDResponse"))?;
            decode::svid_response(&message, &limits, &Precedence::default(), now)
        }
        Kind::Bundles => {
            let message = proto::X509BundlesResponse::decode(bytes).map_err(not("X509BundlesResponse"))?;
            decode::bundles_response(&message, trust_domain, &limits, &Precedence::default())
        }
    }
}

fn wire(svid: &Svid, snapshot: &IdentitySnapshot) -> proto::X509svid {
    proto::X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: concatenated(svid.chain.iter()),
        x509_svid_key: Bytes::from_owner(Shared(svid.key.clone())),
        bundle: snapshot.bundles.get(svid.id.trust_domain()).map(|bundle| authorities(bundle)).unwrap_or_default(),
        hint: svid.hint.as_ref().map(|hint| hint.as_str().to_owned()).unwrap_or_default(),
    }
}

fn bundles(snapshot: &IdentitySnapshot, wanted: impl Fn(&TrustDomain) -> bool) -> HashMap<String, Bytes> {
    let wanted = snapshot.bundles.iter().filter(|(domain, _)| wanted(domain));
    wanted.map(|(domain, bundle)| (format!("spiffe://{domain}"), authorities(bundle))).collect()
}

fn authorities(bundle: &TrustBundle) -> Bytes {
    concatenated(bundle.authorities().iter())
}

fn concatenated<'a>(certificates: impl Iterator<Item = &'a crate::identity::Certificate>) -> Bytes {
    certificates.flat_map(|certificate| certificate.der()).copied().collect::<Vec<_>>().into()
}

/// Of its final size from the start: a vector that grows leaves copies behind.
fn buffer(message: &impl prost::Message) -> Zeroizing<Vec<u8>> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
    buffer.extend_from_slice(&[]);
    // Cannot fail: a vector has room.
    let _ = message.encode(&mut *buffer);
    buffer
}
