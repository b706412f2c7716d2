//! Whether a private key is usable, and belongs to a certificate.

use aws_lc_rs::{
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};

/// What became of comparing a key with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The key is the certificate's.
    Yes,
    /// A sound key, but of another certificate.
    No,
    /// Not an unencrypted PKCS#8 key of a kind that TLS stacks use.
    Unusable,
}

/// Compares the PKCS#8 DER key with the certificate's `subjectPublicKey` bits.
///
/// Parsing recomputes or checks the public half, so a damaged private half does not pass.
pub(super) fn matches(pkcs8: &[u8], subject_public_key: &[u8]) -> Match {
    // The parsers below ignore what follows the key, and Envoy would be the first to mind.
    if x509_parser::der_parser::der::parse_der(pkcs8).map_or(true, |(rest, _)| !rest.is_empty()) {
        return Match::Unusable;
    }
    let judge = |public: &[u8]| if public == subject_public_key { Match::Yes } else { Match::No };
    for curve in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING] {
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(curve, pkcs8) {
            return judge(key.public_key().as_ref());
        }
    }
    if let Ok(key) = rsa::KeyPair::from_pkcs8(pkcs8) {
        return judge(key.public_key().as_ref());
    }
    // Both PKCS#8 versions: the one without the public half is what Go writes.
    if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
        return judge(key.public_key().as_ref());
    }
    Match::Unusable
}
