//! Files of authorities: PEM, or the SPIFFE trust bundle format.

use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;

use super::{FilesError, pem};

/// A JWK Set (SPIFFE Trust Domain and Bundle, section 4). Only the X.509 authorities are looked at.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(default, rename = "use")]
    usage: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// The concatenated DER certificates of a bundle file.
///
/// # Errors
/// It is neither of the two formats.
pub(in crate::source) fn authorities(path: &Path, text: &[u8]) -> Result<Vec<u8>, FilesError> {
    if text.trim_ascii_start().starts_with(b"{") {
        from_json(path, text)
    } else {
        Ok(pem::certificates(path, text)?.concat())
    }
}

fn from_json(path: &Path, text: &[u8]) -> Result<Vec<u8>, FilesError> {
    let jwks: Jwks =
        serde_json::from_slice(text).map_err(|source| FilesError::Json { path: path.to_owned(), source })?;
    let mut authorities = Vec::new();
    // Keys for other uses are ignored, as section 4.2 demands.
    for (index, key) in jwks.keys.iter().enumerate().filter(|(_, key)| key.usage == "x509-svid") {
        let certificate = match key.x5c.as_slice() {
            [one] => Base64::decode_vec(one).ok(),
            _ => None,
        };
        authorities.extend(certificate.ok_or_else(|| FilesError::JsonKey { path: path.to_owned(), index })?);
    }
    Ok(authorities)
}
