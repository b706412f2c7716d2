//! What a `Secret` says, in a form that tests compare.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{Secret, SpiffeCertValidatorConfig, secret},
    },
    google::protobuf::Any,
};
use pem_rfc7468::LineEnding;
use prost::Message as _;
use spiffe_sds::dev::Issued;

use super::world::World;

/// The content of a secret, without its name.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Content {
    /// Chain and key, PEM.
    Certificate(String, String),
    /// Envoy's SPIFFE validator: trust domain and its roots, PEM.
    Spiffe(Vec<(String, String)>),
    /// `trusted_ca`, PEM.
    Plain(String),
}

/// A certificate as it must arrive.
pub fn certificate(issued: &Issued) -> Content {
    let chain: String = issued.svid.chain.iter().map(|it| pem("CERTIFICATE", it.der())).collect();
    Content::Certificate(chain, pem("PRIVATE KEY", issued.svid.key.pkcs8_der()))
}

/// The SPIFFE validator with the present roots of these trust domains.
pub fn spiffe(world: &World, domains: &[&str]) -> Content {
    Content::Spiffe(domains.iter().map(|it| ((*it).to_owned(), world.roots(it))).collect())
}

/// A plain context with the present roots of one trust domain.
pub fn plain(world: &World, domain: &str) -> Content {
    Content::Plain(world.roots(domain))
}

/// The one secret in a resource.
pub fn decode(any: &Any) -> Secret {
    assert_eq!(any.type_url, super::xds::SECRET);
    Secret::decode(any.value.as_slice()).unwrap()
}

/// What a secret holds; fails on anything beside it.
pub fn content(secret: &Secret) -> Content {
    match secret.r#type.clone().expect("an empty secret") {
        secret::Type::TlsCertificate(mut it) => {
            let shown = Content::Certificate(text(it.certificate_chain.take()), text(it.private_key.take()));
            assert_eq!(it, Default::default(), "nothing else is set");
            shown
        }
        secret::Type::ValidationContext(mut it) => {
            let Some(validator) = it.custom_validator_config.take() else {
                let shown = Content::Plain(text(it.trusted_ca.take()));
                assert_eq!(it, Default::default(), "nothing else is set");
                return shown;
            };
            assert_eq!(it, Default::default(), "nothing else is set");
            assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
            let config = validator.typed_config.unwrap();
            assert_eq!(
                config.type_url,
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
            );
            let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
            Content::Spiffe(config.trust_domains.into_iter().map(|it| (it.name, text(it.trust_bundle))).collect())
        }
        other => panic!("not a kind that is served: {other:?}"),
    }
}

fn text(source: Option<DataSource>) -> String {
    match source.and_then(|it| it.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("not inline bytes: {other:?}"),
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap()
}
