//! One signing key: ECDSA on P-256, `ES256`.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::{Value, json};

use super::part;
use crate::dev::DevError;

/// A key and the name under which it is published.
pub(super) struct Key {
    pub(super) kid: String,
    pair: EcdsaKeyPair,
}

/// A key that nobody publishes, under the name of one that is.
pub(in crate::dev) struct StrayKey(Key);

impl Key {
    pub(super) fn new() -> Result<Self, DevError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| DevError::Random)?;
        let mut bytes = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| DevError::Random)?;
        Ok(Self { kid: bytes.iter().map(|byte| format!("{byte:02x}")).collect(), pair })
    }

    /// A compact JWS.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, DevError> {
        let header = json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| DevError::Random)?;
        Ok(format!("{signed}.{}", Base64UrlUnpadded::encode_string(signature.as_ref())))
    }

    pub(super) fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        public.verify(signed, signature).is_ok()
    }

    /// The public half (RFC 7518, section 6.2), as SPIRE's agent gives it: without `use`, whose value in a SPIFFE bundle,
    /// `jwt-svid`, keeps clients of plain JWK Sets from finding any key to verify signatures with.
    pub(super) fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = (point.get(1..33).unwrap_or_default(), point.get(33..).unwrap_or_default());
        json!({
            "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": Base64UrlUnpadded::encode_string(x), "y": Base64UrlUnpadded::encode_string(y),
        })
    }
}

impl StrayKey {
    pub(in crate::dev) fn under(kid: &str) -> Result<Self, DevError> {
        Ok(Self(Key { kid: kid.to_owned(), ..Key::new()? }))
    }

    pub(in crate::dev) fn sign(&self, claims: &Value) -> Result<String, DevError> {
        self.0.sign(claims)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}
