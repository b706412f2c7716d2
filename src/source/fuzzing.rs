//! What fuzzers need and nobody else may have. No interface: it changes whenever it likes.

use std::{collections::BTreeSet, path::Path, time::SystemTime};

use super::{
    decode::{
        Limits,
        jwt::{self, JwtBundles},
    },
    files::{self, FilesError},
};
use crate::{
    identity::{JwtRequest, JwtSubject},
    secret::DefaultIdentity,
    workload_api_proto as proto,
};

/// The certificates of a PEM file.
///
/// # Errors
/// As when files are read.
pub fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    files::pem::certificates(Path::new("fuzz"), text)
}

/// The same in the order of a chain.
///
/// # Errors
/// As when files are read.
pub fn chain(text: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    files::pem::chain(Path::new("fuzz"), text)
}

/// The private key of a PEM file.
///
/// # Errors
/// As when files are read.
pub fn private_key(text: &[u8]) -> Result<Vec<u8>, FilesError> {
    files::pem::private_key(Path::new("fuzz"), text).map(|key| key.to_vec())
}

/// The authorities of a bundle file, as concatenated DER.
///
/// # Errors
/// As when files are read.
pub fn bundle(text: &[u8]) -> Result<Vec<u8>, FilesError> {
    files::bundle::authorities(Path::new("fuzz"), text).map(|all| all.der)
}

/// The keys of a JWK Set that a source sends for `example.org`; `None` where none can be used.
#[must_use]
pub fn jwt_keys(document: &[u8]) -> Option<JwtBundles> {
    let bundles = [("spiffe://example.org".to_owned(), document.to_vec().into())].into();
    let keys = jwt::bundles(&proto::JwtBundlesResponse { bundles }, &Limits::default(), &BTreeSet::new()).ok()?;
    keys.unusable.is_empty().then_some(keys.bundles)
}

/// Whether a token that a source sends for `spiffe://example.org/web` and the audience `x` is accepted.
#[must_use]
pub fn accepts_token(compact: &str, keys: &JwtBundles) -> bool {
    let svid = proto::Jwtsvid {
        spiffe_id: "spiffe://example.org/web".to_owned(),
        svid: compact.to_owned(),
        hint: String::new(),
    };
    let mut message = proto::JwtsvidResponse { svids: vec![svid] };
    let request = JwtRequest { subject: JwtSubject::Default, audience: ["x".to_owned()].into() };
    jwt::svid(&mut message, &request, &DefaultIdentity::First, keys, SystemTime::UNIX_EPOCH).is_ok()
}
