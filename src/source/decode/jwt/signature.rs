//! Signatures of the algorithms that JWT-SVID, section 2.1 allows (RFC 7518, sections 3.3 to 3.5), by JWK.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

/// How a token is signed.
#[derive(Clone, Copy)]
pub(super) enum Algorithm {
    Ecdsa(&'static EcdsaVerificationAlgorithm, &'static Curve),
    Rsa(&'static RsaParameters),
}

/// A curve of RFC 7518, section 6.2.1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Curve {
    name: &'static str,
    /// Bytes of one coordinate.
    size: usize,
}

const CURVES: [Curve; 3] =
    [Curve { name: "P-256", size: 32 }, Curve { name: "P-384", size: 48 }, Curve { name: "P-521", size: 66 }];

/// The algorithm of this name; `None` for `none`, symmetric and unknown ones.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    let [p256, p384, p521] = &CURVES;
    Some(match name {
        "ES256" => Algorithm::Ecdsa(&ECDSA_P256_SHA256_FIXED, p256),
        "ES384" => Algorithm::Ecdsa(&ECDSA_P384_SHA384_FIXED, p384),
        "ES512" => Algorithm::Ecdsa(&ECDSA_P521_SHA512_FIXED, p521),
        "RS256" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA512),
        "PS256" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA256),
        "PS384" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA384),
        "PS512" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA512),
        _ => return None,
    })
}

/// Whether `key` signed `message` so. A key of another kind never did.
pub(super) fn verifies(algorithm: Algorithm, key: &Value, message: &[u8], signature: &[u8]) -> bool {
    let verified = match algorithm {
        Algorithm::Ecdsa(algorithm, curve) => point(key)
            .filter(|(its, _)| *its == curve)
            .map(|(_, point)| UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()),
        Algorithm::Rsa(parameters) => {
            rsa(key).map(|(n, e)| RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok())
        }
    };
    verified.unwrap_or(false)
}

/// The curve of an elliptic key and its point, uncompressed.
pub(super) fn point(key: &Value) -> Option<(&'static Curve, Vec<u8>)> {
    let curve = CURVES.iter().find(|curve| Some(curve.name) == text(key, "crv"))?;
    let (x, y) = (number(key, "x")?, number(key, "y")?);
    (x.len() == curve.size && y.len() == curve.size).then(|| (curve, [vec![4], x, y].concat()))
}

/// Modulus and exponent of an RSA key of 2048 bits or more.
pub(super) fn rsa(key: &Value) -> Option<(Vec<u8>, Vec<u8>)> {
    if text(key, "kty")? != "RSA" {
        return None;
    }
    let stripped = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (stripped(number(key, "n")?), stripped(number(key, "e")?));
    (n.len() >= 256 && !e.is_empty()).then_some((n, e))
}

pub(super) fn text<'k>(key: &'k Value, member: &str) -> Option<&'k str> {
    key.get(member)?.as_str()
}

fn number(key: &Value, member: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text(key, member)?).ok()
}
