//! Signatures of the algorithms that JWT-SVID, section 2.1 allows (RFC 7518, sections 3.3 to 3.5), by JWK.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

use crate::source::decode::shortened;

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
            .ok()
            .filter(|(its, _)| *its == curve)
            .map(|(_, point)| UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok()),
        Algorithm::Rsa(parameters) => {
            rsa(key).ok().map(|(n, e)| RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok())
        }
    };
    verified.unwrap_or(false)
}

/// Why a key cannot verify what its owner signs, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsound {
    /// Not P-256, P-384 or P-521.
    #[error("its curve is {crv:?}; use P-256, P-384 or P-521")]
    Curve {
        /// As the key says, shortened.
        crv: String,
    },
    /// A number that is missing, not base64url without padding, or of the wrong length.
    #[error("its {member} is no base64url number of the right length, without padding; correct the key at the issuer")]
    Number {
        /// Which member.
        member: &'static str,
    },
    /// No point of its curve.
    #[error("x and y are no point of its curve; correct the key at the issuer")]
    OffCurve,
    /// An RSA key that is too short, or longer than what any verifier takes.
    #[error("its modulus has {bits} bits; use RSA of 2048 to 8192 bits")]
    Modulus {
        /// How many it has.
        bits: usize,
    },
    /// With such an exponent anybody can sign, or nobody can verify.
    #[error("its exponent is even, 1 or larger than 33 bits; use 65537")]
    Exponent,
}

/// The curve of an elliptic key and its point, uncompressed.
///
/// # Errors
/// The rule that the key breaks.
pub(super) fn point(key: &Value) -> Result<(&'static Curve, Vec<u8>), Unsound> {
    let crv = text(key, "crv").unwrap_or_default();
    let curve = CURVES.iter().find(|curve| curve.name == crv).ok_or_else(|| Unsound::Curve { crv: shortened(crv) })?;
    let coordinate = |member| number(key, member).filter(|it| it.len() == curve.size).ok_or(Unsound::Number { member });
    let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
    // This checks the equation of the curve; the algorithm's hash does not matter.
    let algorithm: &'static EcdsaVerificationAlgorithm = match curve.size {
        32 => &ECDSA_P256_SHA256_FIXED,
        48 => &ECDSA_P384_SHA384_FIXED,
        _ => &ECDSA_P521_SHA512_FIXED,
    };
    match ParsedPublicKey::new(algorithm, &point) {
        Ok(_) => Ok((curve, point)),
        Err(_) => Err(Unsound::OffCurve),
    }
}

/// Modulus and exponent of an RSA key.
///
/// # Errors
/// The rule that the key breaks.
pub(super) fn rsa(key: &Value) -> Result<(Vec<u8>, Vec<u8>), Unsound> {
    let stripped = |member| {
        let bytes = number(key, member).ok_or(Unsound::Number { member })?;
        Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
    };
    let (n, e) = (stripped("n")?, stripped("e")?);
    let bits = |bytes: &[u8]| bytes.first().map_or(0, |first| bytes.len() * 8 - first.leading_zeros() as usize);
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|last| last % 2 == 1);
    if !(2048..=8192).contains(&bits(&n)) {
        return Err(Unsound::Modulus { bits: bits(&n) });
    }
    if !odd(&n) {
        return Err(Unsound::Number { member: "n" });
    }
    if odd(&e) && e != [1] && bits(&e) <= 33 { Ok((n, e)) } else { Err(Unsound::Exponent) }
}

pub(super) fn text<'k>(key: &'k Value, member: &str) -> Option<&'k str> {
    key.get(member)?.as_str()
}

fn number(key: &Value, member: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text(key, member)?).ok()
}
