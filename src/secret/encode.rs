//! Identities as Envoy's `Secret` messages.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
            spiffe_cert_validator_config::TrustDomain as ValidatorDomain,
        },
    },
    google::protobuf::Any,
};
use pem_rfc7468::LineEnding;
use prost::{Message as _, Name as _};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Flavour, TokenForm};
use crate::{
    identity::{Certificate, Svid, Token, TrustBundle, TrustDomain},
    xds::Version,
};

const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// Something that cannot be written as PEM. Cannot happen for what `source::decode` accepted.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// A certificate of this identity or trust domain.
    #[error("a certificate of {0} cannot be written as PEM; the source must issue it again")]
    Certificate(String),
    /// The key of this identity.
    #[error("the private key of {0} cannot be written as PEM; the source must issue it again")]
    Key(String),
}

/// A secret that is complete but for its name, so that all its names share one content and version.
pub(super) struct Payload {
    kind: secret::Type,
    version: Version,
}

impl Payload {
    /// The digest of the public part.
    pub(super) fn version(&self) -> &Version {
        &self.version
    }

    /// The encoded `Secret` under `name`.
    pub(super) fn encode(&mut self, name: &str) -> Zeroizing<Vec<u8>> {
        // Moved in and out again: a clone would be one more copy of the key to wipe.
        let kind = std::mem::replace(&mut self.kind, secret::Type::GenericSecret(Default::default()));
        let mut message = Secret { name: name.to_owned(), r#type: Some(kind) };
        let mut body = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
        message.encode_raw(&mut *body);
        if let Some(kind) = message.r#type.take() {
            self.kind = kind;
        }
        body
    }
}

/// `envoy-types` knows nothing of secrets, so the key is wiped here.
impl Drop for Payload {
    fn drop(&mut self) {
        let secret = match &mut self.kind {
            secret::Type::TlsCertificate(certificate) => &mut certificate.private_key,
            secret::Type::GenericSecret(generic) => &mut generic.secret,
            _ => return,
        };
        if let Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), .. }) = secret {
            bytes.zeroize();
        }
    }
}

/// An SVID as a `TlsCertificate`: one PEM block a certificate, leaf first, and the key as PKCS#8 PEM.
pub(super) fn certificate(svid: &Svid) -> Result<Payload, EncodeError> {
    let chain = pem_blocks(svid.chain.iter()).ok_or_else(|| EncodeError::Certificate(svid.id.to_string()))?;
    let key = key_pem(svid.key.pkcs8_der()).ok_or_else(|| EncodeError::Key(svid.id.to_string()))?;
    let parts = std::iter::once("tls_certificate".as_bytes()).chain(svid.chain.iter().map(Certificate::der));
    let version = Version::digest(parts);
    let kind = TlsCertificate {
        certificate_chain: Some(inline(chain.into_bytes())),
        private_key: Some(inline(key)),
        ..Default::default()
    };
    Ok(Payload { kind: secret::Type::TlsCertificate(kind), version })
}

/// A token as a `GenericSecret`; without one, an empty secret: Envoy acknowledges it and then answers 401, where a
/// removal would leave the old token in use.
///
/// The digest of a token tells nothing of it: its signature alone is more than anybody could try out.
pub(super) fn generic(token: Option<&Token>, form: TokenForm) -> Payload {
    const BEARER: &[u8] = b"Bearer ";
    let prefix = match form {
        TokenForm::Bearer if token.is_some() => BEARER,
        TokenForm::Bearer | TokenForm::Raw => b"",
    };
    let compact = token.map_or(&[][..], |token| token.compact().as_bytes());
    let mut bytes = Vec::with_capacity(prefix.len() + compact.len());
    bytes.extend_from_slice(prefix);
    bytes.extend_from_slice(compact);
    let version = Version::digest(["generic_secret".as_bytes(), prefix, compact]);
    let kind = GenericSecret { secret: Some(inline(bytes)), ..Default::default() };
    Payload { kind: secret::Type::GenericSecret(kind), version }
}

/// Trust bundles as a `CertificateValidationContext`.
///
/// The SPIFFE flavour keeps each trust domain's authorities apart; domains without authorities are left out, which
/// makes Envoy refuse their peers (it rejects the whole secret for an empty one). It has no SAN matchers: Envoy ORs them with
/// its own, so that ours would let peers in that the operator did not name. The plain flavour takes one domain only,
/// because a pooled list lets every domain sign for every other; without authorities there is no such context.
pub(super) fn validation(flavour: Flavour, bundles: &[&TrustBundle]) -> Result<Option<Payload>, EncodeError> {
    let usable: Vec<_> = bundles.iter().filter(|bundle| !bundle.authorities().is_empty()).collect();
    let label = match flavour {
        Flavour::Spiffe => "spiffe_validator",
        Flavour::Plain => "trusted_ca",
    };
    let mut parts = vec![label.as_bytes()];
    for bundle in &usable {
        parts.push(bundle.trust_domain().as_ref().as_bytes());
        parts.extend(bundle.authorities().iter().map(Certificate::der));
    }
    let version = Version::digest(parts);
    let context = match flavour {
        Flavour::Spiffe => {
            let domains = usable.iter().map(|bundle| validator_domain(bundle)).collect::<Result<Vec<_>, _>>()?;
            spiffe_context(domains)
        }
        Flavour::Plain => {
            let [bundle] = usable.as_slice() else { return Ok(None) };
            let trusted_ca = Some(inline(authorities_pem(bundle)?.into_bytes()));
            CertificateValidationContext { trusted_ca, ..Default::default() }
        }
    };
    Ok(Some(Payload { kind: secret::Type::ValidationContext(context), version }))
}

fn spiffe_context(trust_domains: Vec<ValidatorDomain>) -> CertificateValidationContext {
    let config = SpiffeCertValidatorConfig { trust_domains, trust_bundles: None };
    let typed_config = Any { type_url: SpiffeCertValidatorConfig::type_url(), value: config.encode_to_vec() };
    let validator = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: Some(typed_config) };
    CertificateValidationContext { custom_validator_config: Some(validator), ..Default::default() }
}

fn validator_domain(bundle: &TrustBundle) -> Result<ValidatorDomain, EncodeError> {
    Ok(ValidatorDomain {
        name: TrustDomain::as_ref(bundle.trust_domain()).to_owned(),
        trust_bundle: Some(inline(authorities_pem(bundle)?.into_bytes())),
        workload_trust_domain: String::new(),
    })
}

fn authorities_pem(bundle: &TrustBundle) -> Result<String, EncodeError> {
    pem_blocks(bundle.authorities().iter())
        .ok_or_else(|| EncodeError::Certificate(format!("spiffe://{}", bundle.trust_domain())))
}

/// One PEM block a certificate: Envoy refuses a chain that shares one.
fn pem_blocks<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Option<String> {
    certificates
        .map(|certificate| pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, certificate.der()).ok())
        .collect()
}

/// PKCS#8 PEM in a buffer of its final size, so that growing leaves no copy behind.
fn key_pem(der: &[u8]) -> Option<Vec<u8>> {
    const LABEL: &str = "PRIVATE KEY";
    let mut pem = vec![0; pem_rfc7468::encoded_len(LABEL, LineEnding::LF, der).ok()?];
    let written = pem_rfc7468::encode(LABEL, LineEnding::LF, der, &mut pem).ok()?.len();
    pem.truncate(written);
    Some(pem)
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { watched_directory: None, specifier: Some(Specifier::InlineBytes(bytes)) }
}
