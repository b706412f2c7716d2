//! A received secret: decoded for people, checked as Envoy would, and its material kept apart for files.

use std::{fmt, time::SystemTime};

use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, GenericSecret, Secret as Message, SpiffeCertValidatorConfig, TlsCertificate,
        secret::Type,
    },
};
use prost::Message as _;
use zeroize::Zeroizing;

use super::{certificate, token};
pub use super::{certificate::Certificate, token::Claims};

/// One secret.
#[derive(Debug)]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Its version: of the resource in delta, of the response in SotW.
    pub version: String,
    /// What it is.
    pub content: Content,
    /// Why Envoy would refuse it, or could not use it; empty if it would take it.
    pub problems: Vec<String>,
    /// What goes to files.
    pub files: Vec<Material>,
}

/// What a secret is.
#[derive(Debug)]
pub enum Content {
    /// A certificate chain, leaf first, with its key.
    Certificate(Vec<Certificate>),
    /// What peers are verified with.
    Validation {
        /// Whether the SPIFFE validator keeps the trust domains apart.
        spiffe: bool,
        /// By trust domain; the plain validator has one without a name.
        domains: Vec<(String, Vec<Certificate>)>,
    },
    /// A token or another credential.
    Generic {
        /// Bytes.
        length: usize,
        /// If it is a JWT.
        claims: Option<Claims>,
    },
    /// Session ticket keys, or a kind that is not known here.
    Other,
}

/// A file's ending and bytes. The bytes are wiped, and never printed.
pub struct Material {
    /// To append to the secret's name.
    pub ending: String,
    /// As they came.
    pub bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material({}, {} bytes)", self.ending, self.bytes.len())
    }
}

impl Secret {
    /// Reads an encoded `envoy.extensions.transport_sockets.tls.v3.Secret`.
    #[must_use]
    pub fn decode(version: &str, encoded: &[u8]) -> Self {
        let mut secret = Self {
            name: String::new(),
            version: printable(version),
            content: Content::Other,
            problems: Vec::new(),
            files: Vec::new(),
        };
        let Ok(message) = Message::decode(encoded) else {
            secret.problems.push("it is no Secret message".into());
            return secret;
        };
        secret.name = message.name;
        match message.r#type {
            Some(Type::TlsCertificate(certificate)) => secret.certificate(certificate),
            Some(Type::ValidationContext(context)) => secret.validation(context),
            Some(Type::GenericSecret(generic)) => secret.generic(generic),
            Some(Type::SessionTicketKeys(_)) => {}
            None => secret.problems.push("it holds nothing".into()),
        }
        secret
    }

    /// When the first part of it that matters expires: the leaf, the authority that lasts longest of the first domain
    /// to run out, the token.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        match &self.content {
            Content::Certificate(chain) => chain.first().map(|leaf| leaf.not_after),
            Content::Validation { domains, .. } => domains
                .iter()
                .filter_map(|(_, authorities)| authorities.iter().map(|authority| authority.not_after).max())
                .min(),
            Content::Generic { claims, .. } => claims.as_ref().and_then(|claims| claims.expires),
            Content::Other => None,
        }
    }

    fn certificate(&mut self, message: TlsCertificate) {
        let chain = inline(message.certificate_chain);
        let key = inline(message.private_key);
        let certificates = certificate::certificates("the certificate chain", &chain, &mut self.problems);
        if key.is_empty() {
            self.problems.push("there is no private key".into());
        } else if let Some(leaf) = certificates.first() {
            certificate::check_key(&key, leaf, &mut self.problems);
        }
        self.content = Content::Certificate(certificates);
        self.files.push(Material { ending: "crt.pem".into(), bytes: chain });
        self.files.push(Material { ending: "key.pem".into(), bytes: key });
    }

    fn validation(&mut self, context: CertificateValidationContext) {
        let mut domains = Vec::new();
        let spiffe = context.custom_validator_config.is_some();
        if let Some(config) = context.custom_validator_config {
            let config = config.typed_config.map(|any| SpiffeCertValidatorConfig::decode(any.value.as_slice()));
            let Some(Ok(config)) = config else {
                return self.problems.push("its validator's configuration cannot be read".into());
            };
            for domain in config.trust_domains {
                let bundle = inline(domain.trust_bundle);
                let what = format!("the bundle of {}", printable(&domain.name));
                domains.push((printable(&domain.name), certificate::certificates(&what, &bundle, &mut self.problems)));
                self.files.push(Material { ending: format!("{}.ca.pem", domain.name), bytes: bundle });
            }
        } else {
            let bundle = inline(context.trusted_ca);
            domains.push((String::new(), certificate::certificates("the CA list", &bundle, &mut self.problems)));
            self.files.push(Material { ending: "ca.pem".into(), bytes: bundle });
        }
        self.content = Content::Validation { spiffe, domains };
    }

    fn generic(&mut self, generic: GenericSecret) {
        let bytes = inline(generic.secret);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        // Envoy trims the end only (`credential_injector`), and answers 503 to every request afterwards otherwise.
        if text.trim_end().contains(['\r', '\n', '\0']) {
            self.problems.push("it cannot be the value of a header".into());
        }
        let claims = token::claims(text.trim_end().trim_start_matches("Bearer "));
        self.content = Content::Generic { length: bytes.len(), claims };
        self.files.push(Material { ending: "secret".into(), bytes });
    }
}

fn inline(source: Option<DataSource>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => Vec::new(),
    })
}

/// A server's text without what would move a terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    crate::printable::line(text).into_owned()
}
