//! Whatever comes over the wire, decoding answers.

use std::sync::LazyLock;

use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::{
    super::fixture::{Authority, now, response},
    *,
};

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let root = Authority::root("root");
    let mut message = response([root.svid(|_| {}), root.svid(|_| {})]);
    message.federated_bundles.insert("spiffe://other.org".to_owned(), root.der.clone().into());
    message.encode_to_vec()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..512)) {
        let _ = svids(&bytes, &Limits::default(), now());
        let _ = bundles(&bytes, None, &Limits::default());
    }

    #[test]
    fn random_der_in_a_good_frame_never_panics(chain in vec(any::<u8>(), 0..256), key in vec(any::<u8>(), 0..128)) {
        let mut message = X509svidResponse::decode(&GOOD[..]).unwrap();
        message.svids[0].x509_svid_key = key.clone().into();
        let decoded = svid_response(&message, &Limits::default(), &Precedence::default(), now()).unwrap();
        prop_assert_eq!((decoded.svids.len(), decoded.refusals.len()), (1, 1));
        message.svids[0].x509_svid = chain.clone().into();
        message.svids[1].bundle = key.into();
        message.crl = vec![chain.into()];
        let _ = svid_response(&message, &Limits::default(), &Precedence::default(), now());
    }

    /// What survives a mutation must still be sound: the checks hold for what was accepted, not for what was meant.
    #[test]
    fn mutated_messages_are_refused_or_sound(edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = GOOD.clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(snapshot) = svids(&bytes, &Limits::default(), now()) {
            for svid in &snapshot.svids {
                prop_assert!(path::verify(&svid.chain, &snapshot.bundles[svid.id.trust_domain()], now()).is_ok());
            }
        }
    }

    #[test]
    fn truncated_messages_never_panic(length in any::<prop::sample::Index>()) {
        let _ = svids(&GOOD[..length.index(GOOD.len())], &Limits::default(), now());
    }
}
