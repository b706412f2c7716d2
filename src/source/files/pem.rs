//! PEM files: certificates in the order of their chain, and private keys as PKCS#8, whatever they were written as.

use std::path::Path;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    },
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};
use zeroize::Zeroizing;

use super::{
    FilesError,
    blocks::{Block, Fault, blocks},
};
use crate::source::decode::der;

/// What OpenSSL and Envoy take for a certificate. What OpenSSL adds to a trusted one is for itself.
const CERTIFICATES: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];
const KEYS: [&str; 4] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];

/// The DER certificates of a PEM file, in its order. Whatever else it holds is none of our business.
///
/// # Errors
/// A broken block, or no certificate at all.
pub(in crate::source) fn certificates(path: &Path, text: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    each(path, text)?.into_iter().map(|it| it.map_err(|(index, source)| broken(path, index, source))).collect()
}

/// The DER of a certificate, or where it should be and what is wrong.
pub(in crate::source) type Found = Result<Vec<u8>, (usize, Fault)>;

/// The same, with each broken block in its place.
///
/// # Errors
/// No certificate at all, nor anything that should be one.
pub(in crate::source) fn each(path: &Path, text: &[u8]) -> Result<Vec<Found>, FilesError> {
    let blocks = blocks(text, &CERTIFICATES);
    if blocks.is_empty() {
        return Err(FilesError::Nothing { path: path.to_owned(), expected: "certificate" });
    }
    Ok(blocks.into_iter().map(|block| block.map(|block| certificate(&block))).collect())
}

fn certificate(block: &Block) -> Vec<u8> {
    let whole = if block.label.starts_with("TRUSTED") { der::whole(&block.der) } else { None };
    whole.map_or(block.der.as_slice(), |(certificate, _)| certificate).to_vec()
}

pub(in crate::source) fn broken(path: &Path, index: usize, source: Fault) -> FilesError {
    FilesError::Pem { path: path.to_owned(), index, source }
}

/// The same as [`certificates`] with the leaf first and each certificate followed by the one that signed it. What belongs to no chain
/// stays at the end, and what cannot be parsed where it is: the decoder is what complains.
pub(in crate::source) fn chain(path: &Path, text: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
    let mut rest = certificates(path, text)?;
    let leaf = rest.iter().position(|der| parse(der).is_some_and(|leaf| !leaf.is_ca())).unwrap_or_default();
    let mut chain = vec![rest.remove(leaf)];
    let signs = |signer: &[u8], signed: &[u8]| match (parse(signer), parse(signed)) {
        (Some(signer), Some(signed)) => signer.subject() == signed.issuer(),
        _ => false,
    };
    while let Some(next) = chain.last().and_then(|last| rest.iter().position(|der| signs(der, last))) {
        chain.push(rest.remove(next));
    }
    chain.append(&mut rest);
    Ok(chain)
}

/// The private key of a PEM file, as PKCS#8 DER.
///
/// # Errors
/// None, several, an encrypted one, or one of a kind that TLS stacks do not use.
pub(in crate::source) fn private_key(path: &Path, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let encrypted = || FilesError::EncryptedKey { path: path.to_owned() };
    let mut keys = Vec::new();
    for block in blocks(text, &KEYS) {
        match block {
            Ok(block) => keys.push(block),
            Err((_, Fault::Encrypted)) => return Err(encrypted()),
            Err((index, fault)) => return Err(broken(path, index, fault)),
        }
    }
    let key = keys.pop().ok_or_else(|| FilesError::Nothing { path: path.to_owned(), expected: "private key" })?;
    if !keys.is_empty() {
        return Err(FilesError::SeveralKeys { path: path.to_owned() });
    }
    let converted = match key.label.as_str() {
        "PRIVATE KEY" => return Ok(key.der),
        "ENCRYPTED PRIVATE KEY" => return Err(encrypted()),
        "EC PRIVATE KEY" => from_sec1(&key.der),
        _ => from_pkcs1(&key.der),
    };
    converted.ok_or_else(|| FilesError::UnusableKey { path: path.to_owned() })
}

fn from_sec1(der: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING]
        .into_iter()
        .find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok())
        .and_then(|key| key.to_pkcs8v1().ok())
        .map(|pkcs8| Zeroizing::new(pkcs8.as_ref().to_vec()))
}

fn from_pkcs1(der: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = rsa::KeyPair::from_der(der).ok()?;
    let pkcs8: Pkcs8V1Der<'_> = key.as_der().ok()?;
    Some(Zeroizing::new(pkcs8.as_ref().to_vec()))
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::KeyPair as _;
    use pem_rfc7468::LineEnding;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
    }

    fn key(text: &str) -> Result<Zeroizing<Vec<u8>>, FilesError> {
        private_key(Path::new("key.pem"), text.as_bytes())
    }

    #[test]
    fn rsa_keys_are_converted() {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // The last field of PKCS#8 is PKCS#1, behind 26 bytes for this size.
        let converted = key(&pem("RSA PRIVATE KEY", &pkcs8.as_ref()[26..])).unwrap();
        let again = rsa::KeyPair::from_pkcs8(&converted).unwrap();
        assert_eq!(again.public_key().as_ref(), pair.public_key().as_ref());
        assert!(matches!(key(&pem("RSA PRIVATE KEY", b"nonsense")), Err(FilesError::UnusableKey { .. })));
        assert!(matches!(key(&pem("EC PRIVATE KEY", b"nonsense")), Err(FilesError::UnusableKey { .. })));
    }

    #[test]
    fn encrypted_keys_are_told_apart() {
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        for text in [old, &pem("ENCRYPTED PRIVATE KEY", b"x")] {
            assert!(matches!(key(text), Err(FilesError::EncryptedKey { .. })), "{text}");
        }
    }

    #[test]
    fn broken_blocks_are_counted() {
        let good = pem("CERTIFICATE", b"good");
        let broken = |text: String| match certificates(Path::new("a.pem"), text.as_bytes()) {
            Err(FilesError::Pem { index, .. }) => index,
            other => panic!("{other:?}"),
        };
        assert_eq!(broken(format!("{good}text\n-----BEGIN CERTIFICATE-----\nAAAA")), 1);
        assert_eq!(broken(format!("{good}{good}-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n")), 2);
        let two = certificates(Path::new("a.pem"), format!("a\n{good}b\n{good}c").as_bytes()).unwrap();
        assert_eq!(two, [b"good", b"good"]);
    }

    #[test]
    fn what_is_no_certificate_keeps_its_place_for_the_decoder() {
        let text = pem("CERTIFICATE", b"one") + &pem("CERTIFICATE", b"two");
        assert_eq!(chain(Path::new("a.pem"), text.as_bytes()).unwrap(), [b"one", b"two"]);
    }
}
