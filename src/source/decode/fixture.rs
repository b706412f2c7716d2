//! A certificate authority that issues what a test asks for, right or wrong.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm,
};

use crate::workload_api_proto::{X509svid, X509svidResponse};

/// What all tests take for the present.
pub(in crate::source) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(in crate::source) const HOUR: Duration = Duration::from_secs(3600);

pub(in crate::source) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(in crate::source) der: Vec<u8>,
}

impl Authority {
    pub(in crate::source) fn root(name: &str) -> Self {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, der }
    }

    pub(in crate::source) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    /// The same, changed by `edit` before it is signed.
    pub(in crate::source) fn intermediate_with(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (authority_params(name), KeyPair::generate().unwrap());
        edit(&mut params);
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// A certificate that does not say whether it is an authority.
    pub(in crate::source) fn without_constraints(&self, name: &str) -> Vec<u8> {
        let mut params = authority_params(name);
        params.is_ca = IsCa::NoCa;
        self.sign(&params, &KeyPair::generate().unwrap())
    }

    /// An intermediate that may only sign for URIs of `host`.
    pub(in crate::source) fn constrained(&self, name: &str, host: &str) -> Self {
        let (mut params, key) = (authority_params(name), KeyPair::generate().unwrap());
        // rcgen has no URI constraints: NameConstraints { permitted [0]: GeneralSubtree { [6] host } }.
        let length = u8::try_from(host.len()).unwrap();
        let mut constraints = vec![0x30, length + 6, 0xA0, length + 4, 0x30, length + 2, 0x86, length];
        constraints.extend(host.bytes());
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
        let der = params.signed_by(&key, &self.issuer()).unwrap().der().to_vec();
        Self { params, key, der }
    }

    /// A correct SVID of `spiffe://example.org/web`, changed by `edit` before it is signed.
    pub(in crate::source) fn svid(&self, edit: impl FnOnce(&mut CertificateParams)) -> X509svid {
        self.svid_with_key(&KeyPair::generate().unwrap(), edit)
    }

    pub(in crate::source) fn svid_with_key(
        &self,
        key: &KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> X509svid {
        let mut params = leaf_params("spiffe://example.org/web");
        edit(&mut params);
        self.wire(self.sign(&params, key), key.serialize_der())
    }

    /// An SVID with a public key that has no private half.
    pub(in crate::source) fn svid_for(&self, public_key: &impl PublicKeyData) -> X509svid {
        self.wire(self.sign(&leaf_params("spiffe://example.org/web"), public_key), Vec::new())
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        params.signed_by(key, &self.issuer()).unwrap().der().to_vec()
    }

    fn wire(&self, leaf: Vec<u8>, key: Vec<u8>) -> X509svid {
        X509svid {
            spiffe_id: "spiffe://example.org/web".to_owned(),
            x509_svid: leaf.into(),
            x509_svid_key: key.into(),
            bundle: self.der.clone().into(),
            hint: String::new(),
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = ((now() - HOUR).into(), (now() + 24 * HOUR).into());
    params
}

pub(in crate::source) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = ((now() - HOUR / 2).into(), (now() + HOUR / 2).into());
    params
}

pub(in crate::source) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(in crate::source) fn concatenated(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

pub(in crate::source) fn response(svids: impl IntoIterator<Item = X509svid>) -> X509svidResponse {
    X509svidResponse { svids: svids.into_iter().collect(), ..X509svidResponse::default() }
}

/// An RSA public key of 1024 bits, as DER; nobody knows the private half.
pub(in crate::source) struct SmallRsa(Vec<u8>);

impl SmallRsa {
    pub(in crate::source) fn new() -> Self {
        let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        der.extend([0xC5; 128]);
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(der)
    }
}

impl PublicKeyData for SmallRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}
