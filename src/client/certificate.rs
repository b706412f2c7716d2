//! Certificates and keys as Envoy reads them: PEM, and each block one certificate.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{FromDer as _, X509Certificate},
    time::ASN1Time,
};
use zeroize::Zeroizing;

use super::secret::printable;

/// One certificate, as much of it as people look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The URI name.
    pub spiffe_id: Option<String>,
    /// The distinguished name.
    pub subject: String,
    /// Hexadecimal, as OpenSSL prints it.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// The bits of the key that it is for.
    pub(super) public_key: Vec<u8>,
}

/// Reads PEM blocks; what is wrong with them goes to `problems`.
pub(super) fn certificates(what: &str, pem: &[u8], problems: &mut Vec<String>) -> Vec<Certificate> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let Ok(block) = block else {
            problems.push(format!("{what} holds a damaged PEM block"));
            break;
        };
        if block.label == "X509 CRL" {
            continue;
        }
        match X509Certificate::from_der(&block.contents) {
            Ok(([], certificate)) if block.label == "CERTIFICATE" => found.push(read(&certificate)),
            Ok((_, _)) if block.label == "CERTIFICATE" => {
                problems.push(format!("{what} holds more than one certificate in a PEM block; Envoy reads the first"));
            }
            _ => problems.push(format!("{what} holds a PEM block that is no certificate")),
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(format!("{what} holds no PEM certificate"));
    }
    found
}

/// Whether the PEM private key belongs to the certificate; what is wrong goes to `problems`.
pub(super) fn check_key(pem: &[u8], leaf: &Certificate, problems: &mut Vec<String>) {
    let Some(Ok(block)) = Pem::iter_from_buffer(pem).next() else {
        return problems.push("the private key is not PEM".into());
    };
    let der = Zeroizing::new(block.contents);
    match public_half(&der) {
        None => problems.push("the private key is of no kind that is known here".into()),
        Some(public) if public != leaf.public_key => {
            problems.push("the private key is not that of the certificate".into());
        }
        Some(_) => {}
    }
}

fn public_half(der: &[u8]) -> Option<Vec<u8>> {
    for curve in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING] {
        if let Ok(key) =
            EcdsaKeyPair::from_pkcs8(curve, der).or_else(|_| EcdsaKeyPair::from_private_key_der(curve, der))
        {
            return Some(key.public_key().as_ref().to_vec());
        }
    }
    if let Ok(key) = rsa::KeyPair::from_pkcs8(der).or_else(|_| rsa::KeyPair::from_der(der)) {
        return Some(key.public_key().as_ref().to_vec());
    }
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(|key| key.public_key().as_ref().to_vec())
}

fn read(certificate: &X509Certificate<'_>) -> Certificate {
    let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    let uri = names.into_iter().flatten().find_map(|name| match name {
        GeneralName::URI(uri) => Some(printable(uri)),
        _ => None,
    });
    let serial = match certificate.raw_serial() {
        // DER puts a zero before a number whose first bit is set; it is not part of the number.
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    };
    Certificate {
        spiffe_id: uri,
        subject: printable(&certificate.subject().to_string()),
        serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    }
}

fn moment(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(seconds).unwrap_or(SystemTime::UNIX_EPOCH)
}
