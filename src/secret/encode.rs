//! Identities as Envoy's `Secret` messages.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, SubjectAltNameMatcher,
            TlsCertificate, secret, spiffe_cert_validator_config::TrustDomain as ValidatorDomain,
            subject_alt_name_matcher::SanType,
        },
        r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::Any,
};
use pem_rfc7468::LineEnding;
use prost::{Message as _, Name as _};
use thiserror::Error;
use zeroize::Zeroize as _;

use super::{
    Flavour, TokenForm,
    revocation::Revocations,
    table::{SanKind, SanRule, SubjectAltName},
};
use crate::{
    identity::{
        Certificate, CertificateChain, FileRequest, FileSecret, PrivateKey, Svid, Token, TrustBundle, TrustDomain,
    },
    xds::{Content, Rank, Version, filled},
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

/// A secret without its name. `envoy-types` knows nothing of secrets, so what it holds of the key is wiped here.
struct Unnamed(Secret);

impl Unnamed {
    fn content(kind: secret::Type, version: Version, rank: Rank) -> Arc<Content> {
        let message = Self(Secret { name: String::new(), r#type: Some(kind) });
        let body = filled(message.0.encoded_len(), |body| message.0.encode_raw(body));
        Arc::new(Content::new(version, rank, body))
    }
}

impl Unnamed {
    fn wipe(&mut self) {
        let secret = match &mut self.0.r#type {
            Some(secret::Type::TlsCertificate(certificate)) => &mut certificate.private_key,
            Some(secret::Type::GenericSecret(generic)) => &mut generic.secret,
            _ => return,
        };
        if let Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), .. }) = secret {
            bytes.zeroize();
        }
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// An SVID as a `TlsCertificate`: one PEM block a certificate, leaf first, and the key as PKCS#8 PEM.
pub(super) fn certificate(svid: &Svid) -> Result<Arc<Content>, EncodeError> {
    tls_certificate(&svid.chain, &svid.key, certificate_version(&svid.chain), &svid.id)
}

/// The version of the resource that a certificate is, whatever its name.
#[must_use]
pub fn certificate_version(chain: &CertificateChain) -> Version {
    Version::digest(std::iter::once("tls_certificate".as_bytes()).chain(chain.iter().map(Certificate::der)))
}

fn tls_certificate(
    chain: &CertificateChain,
    key: &PrivateKey,
    version: Version,
    whose: &impl ToString,
) -> Result<Arc<Content>, EncodeError> {
    let chain = pem_blocks(chain.iter()).ok_or_else(|| EncodeError::Certificate(whose.to_string()))?;
    let key = key_pem(key.pkcs8_der()).ok_or_else(|| EncodeError::Key(whose.to_string()))?;
    let kind = TlsCertificate {
        certificate_chain: Some(inline(chain.into_bytes())),
        private_key: Some(inline(key)),
        ..Default::default()
    };
    Ok(Unnamed::content(secret::Type::TlsCertificate(kind), version, Rank::Credential))
}

/// What a validation context says beside its authorities.
#[derive(Clone, Copy)]
pub(super) struct Conditions<'a> {
    pub(super) flavour: Flavour,
    pub(super) subject_alt_names: &'a [SubjectAltName<String>],
    pub(super) suppress_client_ca_list: bool,
    pub(super) revocations: &'a Revocations,
}

/// A token as a `GenericSecret`; without one, an empty secret: Envoy acknowledges it and then answers 401, where a
/// removal would leave the old token in use.
///
/// The digest of a token tells nothing of it: its signature alone is more than anybody could try out.
pub(super) fn generic(token: Option<&Token>, form: TokenForm) -> Arc<Content> {
    const BEARER: &[u8] = b"Bearer ";
    let prefix = match form {
        TokenForm::Bearer if token.is_some() => BEARER,
        TokenForm::Bearer | TokenForm::Raw => b"",
    };
    let compact = token.map_or(&[][..], |token| token.compact().as_bytes());
    let mut bytes = filled(prefix.len() + compact.len(), |bytes| {
        bytes.extend_from_slice(prefix);
        bytes.extend_from_slice(compact);
    });
    let version = Version::digest(["generic_secret".as_bytes(), prefix, compact]);
    let kind = GenericSecret { secret: Some(inline(std::mem::take(&mut *bytes))), ..Default::default() };
    Unnamed::content(secret::Type::GenericSecret(kind), version, Rank::Credential)
}

/// Trust bundles as a `CertificateValidationContext`.
///
/// The SPIFFE flavour keeps each trust domain's authorities apart; domains without authorities are left out, which
/// makes Envoy refuse their peers (it rejects the whole secret for an empty one). It has no SAN matchers unless asked:
/// Envoy ORs them with its own, so that ours would let peers in that the operator did not name. The plain flavour takes
/// one domain only, because a pooled list lets every domain sign for every other; without authorities there is no such
/// context. Revocation lists stand where Envoy looks for them: the SPIFFE validator in the domain's bundle (it ignores
/// the field `crl`), the plain one in `crl`.
pub(super) fn validation(bundles: &[&TrustBundle], with: Conditions<'_>) -> Result<Option<Arc<Content>>, EncodeError> {
    let usable: Vec<_> = bundles.iter().copied().filter(|bundle| !bundle.authorities().is_empty()).collect();
    let lists = usable.iter().flat_map(|bundle| with.revocations.lists(bundle.trust_domain()));
    let revokes = lists.clone().next().is_some();
    let mut context = match with.flavour {
        Flavour::Spiffe => {
            let domains = usable.iter().map(|bundle| validator_domain(bundle, with.revocations));
            spiffe_context(domains.collect::<Result<Vec<_>, _>>()?)
        }
        Flavour::Plain => {
            let [bundle] = usable.as_slice() else { return Ok(None) };
            let trusted_ca = Some(inline(authorities_pem(bundle)?.into_bytes()));
            let crl = revokes.then(|| lists_pem(bundle, with.revocations)).transpose()?;
            let crl = crl.map(|crl| inline(crl.into_bytes()));
            CertificateValidationContext { trusted_ca, crl, ..Default::default() }
        }
    };
    context.only_verify_leaf_cert_crl = revokes && with.revocations.leaf_only();
    context.suppress_client_ca_list = with.suppress_client_ca_list;
    context.match_typed_subject_alt_names = with.subject_alt_names.iter().map(matcher).collect();
    let version = context_version(&usable, with);
    Ok(Some(Unnamed::content(secret::Type::ValidationContext(context), version, Rank::Trust)))
}

/// The digest over everything that makes two contexts differ.
fn context_version(bundles: &[&TrustBundle], with: Conditions<'_>) -> Version {
    let label = match with.flavour {
        Flavour::Spiffe => "spiffe_validator",
        Flavour::Plain => "trusted_ca",
    };
    let mut parts = vec![label.as_bytes()];
    for bundle in bundles {
        parts.push(bundle.trust_domain().as_ref().as_bytes());
        parts.extend(bundle.authorities().iter().map(Certificate::der));
        let lists = with.revocations.lists(bundle.trust_domain());
        if !lists.is_empty() {
            parts.push(if with.revocations.leaf_only() { b"crl of leaf issuers" } else { b"crl" });
            parts.extend(lists.iter().map(|list| &**list));
        }
    }
    let conditions: Vec<_> =
        with.subject_alt_names.iter().map(|san| format!("{:?} {:?}", san.kind, san.rule)).collect();
    for (condition, san) in conditions.iter().zip(with.subject_alt_names) {
        parts.extend([condition.as_bytes(), san.value.as_bytes()]);
    }
    if with.suppress_client_ca_list {
        parts.push(b"suppress_client_ca_list");
    }
    Version::digest(parts)
}

/// The digest of what was in files.
pub(super) fn file_version(secret: &FileSecret) -> Version {
    match secret {
        FileSecret::Roots(roots) => {
            Version::digest(std::iter::once("trusted_ca".as_bytes()).chain(roots.iter().map(Certificate::der)))
        }
        FileSecret::Certificate { chain, .. } => certificate_version(chain),
    }
}

/// What was in files, as Istio's agent has it: a `TlsCertificate`, or a context with nothing but `trusted_ca`. `request`
/// is for the error.
pub(super) fn file(secret: &FileSecret, request: &FileRequest) -> Result<Arc<Content>, EncodeError> {
    let version = file_version(secret);
    match secret {
        FileSecret::Roots(roots) => {
            let pem = pem_blocks(roots.iter()).ok_or_else(|| EncodeError::Certificate(request.to_string()))?;
            let trusted_ca = Some(inline(pem.into_bytes()));
            let context = CertificateValidationContext { trusted_ca, ..Default::default() };
            Ok(Unnamed::content(secret::Type::ValidationContext(context), version, Rank::Trust))
        }
        FileSecret::Certificate { chain, key, .. } => tls_certificate(chain, key, version, &request),
    }
}

fn matcher(san: &SubjectAltName<String>) -> SubjectAltNameMatcher {
    let san_type = match san.kind {
        SanKind::Uri => SanType::Uri,
        SanKind::Dns => SanType::Dns,
        SanKind::Email => SanType::Email,
        SanKind::IpAddress => SanType::IpAddress,
    };
    let value = san.value.clone();
    let pattern = match san.rule {
        SanRule::Exact => MatchPattern::Exact(value),
        SanRule::Prefix => MatchPattern::Prefix(value),
        SanRule::Suffix => MatchPattern::Suffix(value),
        SanRule::Contains => MatchPattern::Contains(value),
        SanRule::Regex => MatchPattern::SafeRegex(RegexMatcher { regex: value, ..Default::default() }),
    };
    let matcher = Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() });
    SubjectAltNameMatcher { san_type: san_type.into(), matcher, ..Default::default() }
}

fn spiffe_context(trust_domains: Vec<ValidatorDomain>) -> CertificateValidationContext {
    let config = SpiffeCertValidatorConfig { trust_domains, trust_bundles: None };
    let typed_config = Any { type_url: SpiffeCertValidatorConfig::type_url(), value: config.encode_to_vec() };
    let validator = TypedExtensionConfig { name: SPIFFE_VALIDATOR.to_owned(), typed_config: Some(typed_config) };
    CertificateValidationContext { custom_validator_config: Some(validator), ..Default::default() }
}

fn validator_domain(bundle: &TrustBundle, revocations: &Revocations) -> Result<ValidatorDomain, EncodeError> {
    let pem = authorities_pem(bundle)? + &lists_pem(bundle, revocations)?;
    Ok(ValidatorDomain {
        name: TrustDomain::as_ref(bundle.trust_domain()).to_owned(),
        trust_bundle: Some(inline(pem.into_bytes())),
        workload_trust_domain: String::new(),
    })
}

fn authorities_pem(bundle: &TrustBundle) -> Result<String, EncodeError> {
    pem_blocks(bundle.authorities().iter())
        .ok_or_else(|| EncodeError::Certificate(format!("spiffe://{}", bundle.trust_domain())))
}

fn lists_pem(bundle: &TrustBundle, revocations: &Revocations) -> Result<String, EncodeError> {
    let lists = revocations.lists(bundle.trust_domain()).iter();
    lists
        .map(|list| pem_rfc7468::encode_string("X509 CRL", LineEnding::LF, list).ok())
        .collect::<Option<String>>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_envoys_messages_hold_of_keys_is_wiped() {
        let bytes = |secret: &Option<DataSource>| match &secret.as_ref().unwrap().specifier {
            Some(Specifier::InlineBytes(bytes)) => bytes.len(),
            other => panic!("{other:?}"),
        };
        let certificate = TlsCertificate { private_key: Some(inline(vec![1; 9])), ..Default::default() };
        let generic = GenericSecret { secret: Some(inline(vec![1; 9])), ..Default::default() };
        for kind in [secret::Type::TlsCertificate(certificate), secret::Type::GenericSecret(generic)] {
            let mut message = Unnamed(Secret { name: String::new(), r#type: Some(kind) });
            message.wipe();
            let left = match message.0.r#type.as_ref().unwrap() {
                secret::Type::TlsCertificate(certificate) => bytes(&certificate.private_key),
                secret::Type::GenericSecret(generic) => bytes(&generic.secret),
                other => panic!("{other:?}"),
            };
            assert_eq!(left, 0);
        }
    }

    fn bytes(content: &Content) -> Vec<u8> {
        match Secret::decode(content.body()).unwrap().r#type {
            Some(secret::Type::GenericSecret(generic)) => match generic.secret.unwrap().specifier {
                Some(Specifier::InlineBytes(bytes)) => bytes,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// A prefix alone would be a header with an empty token, which is not what "no token" looks like to a server.
    #[test]
    fn without_a_token_a_secret_is_empty_in_every_form() {
        let token = Token::new(zeroize::Zeroizing::new("a.b.c".to_owned()));
        for (form, full) in [(TokenForm::Raw, "a.b.c"), (TokenForm::Bearer, "Bearer a.b.c")] {
            assert_eq!(bytes(&generic(Some(&token), form)), full.as_bytes());
            assert_eq!(bytes(&generic(None, form)), b"", "{form:?}");
            assert_ne!(generic(Some(&token), form).version(), generic(None, form).version());
        }
    }
}
