//! The few messages of REST in protobuf's JSON.
//!
//! Requests are read in both spellings that protobuf allows (`resource_names`, as Envoy writes, and `resourceNames`);
//! what is not used, such as Envoy's 60 KB of extensions, is skipped. Responses are written straight into a buffer that
//! is wiped; nothing in between holds a copy of a key.

mod matchers;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, GenericSecret, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret::Type,
    },
};
use prost::{Message as _, Name as _};
use prost_types::{ListValue, Struct, Value, value::Kind};
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::xds::{self, EnvoyVersion, Resource, SECRET_TYPE_URL, Version};

/// `DiscoveryRequest`, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::server) struct Asked {
    #[serde(alias = "versionInfo")]
    pub(in crate::server) version_info: String,
    #[serde(alias = "resourceNames")]
    pub(in crate::server) resource_names: Vec<String>,
    #[serde(alias = "typeUrl")]
    pub(in crate::server) type_url: String,
    pub(in crate::server) node: Node,
}

/// `Node`, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::server) struct Node {
    id: String,
    cluster: String,
    metadata: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(alias = "userAgentBuildVersion")]
    user_agent_build_version: Build,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Build {
    version: Option<Semantic>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Semantic {
    #[serde(alias = "majorNumber")]
    major_number: u32,
    #[serde(alias = "minorNumber")]
    minor_number: u32,
}

impl From<Node> for xds::Node {
    fn from(node: Node) -> Self {
        let version = node.user_agent_build_version.version;
        Self {
            id: node.id,
            cluster: node.cluster,
            version: version.map(|it| EnvoyVersion { major: it.major_number, minor: it.minor_number }),
            metadata: node.metadata.map(fields),
            // Nobody lists clients that ask once.
            agent: xds::UserAgent::default(),
        }
    }
}

fn fields(map: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(key, it)| (key, value(it))).collect() }
}

fn value(json: serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(it) => Kind::BoolValue(it),
        serde_json::Value::Number(it) => Kind::NumberValue(it.as_f64().unwrap_or_default()),
        serde_json::Value::String(it) => Kind::StringValue(it),
        serde_json::Value::Array(all) => Kind::ListValue(ListValue { values: all.into_iter().map(value).collect() }),
        serde_json::Value::Object(map) => Kind::StructValue(fields(map)),
    };
    Value { kind: Some(kind) }
}

/// Why a response cannot be written.
#[derive(Debug, Error)]
pub(in crate::server) enum RenderError {
    /// It has more fields than REST carries.
    #[error("the resource {0:?} has fields that have no JSON form here")]
    Unknown(String),
    /// Cannot happen when writing to memory.
    #[error("JSON cannot be written")]
    Write(#[from] serde_json::Error),
}

/// A `DiscoveryResponse`.
pub(in crate::server) fn render(version: &Version, found: &[&Resource]) -> Result<Bytes, RenderError> {
    let mut secrets = Vec::new();
    for resource in found {
        let unknown = || RenderError::Unknown(resource.name().as_str().to_owned());
        let mut secret = Wiped(Secret::decode(resource.content().body()).map_err(|_| unknown())?);
        resource.name().as_str().clone_into(&mut secret.0.name);
        if !is_known(&mut secret.0) {
            return Err(unknown());
        }
        secrets.push(secret);
    }
    let resources = secrets.iter().map(|secret| json_secret(&secret.0)).collect();
    let response = JsonResponse { version_info: version.as_str(), type_url: SECRET_TYPE_URL, resources };
    // Twice the size is more than base64, the names and the matchers take: a buffer that grew would leave copies behind.
    let size = found.iter().map(|resource| resource.content().body().len() * 2 + 1024).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    serde_json::to_writer(&mut *out, &response)?;
    Ok(Bytes::from_owner(Out(out)))
}

/// Bytes that are wiped with the last reference to them.
struct Out(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Out {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A decoded secret, whose key or token is wiped.
struct Wiped(Secret);

impl Drop for Wiped {
    fn drop(&mut self) {
        let source = match &mut self.0.r#type {
            Some(Type::TlsCertificate(certificate)) => certificate.private_key.as_mut(),
            Some(Type::GenericSecret(generic)) => generic.secret.as_mut(),
            _ => None,
        };
        if let Some(Specifier::InlineBytes(bytes)) = source.and_then(|source| source.specifier.as_mut()) {
            bytes.zeroize();
        }
    }
}

#[derive(Serialize)]
struct JsonResponse<'a> {
    version_info: &'a str,
    type_url: &'a str,
    resources: Vec<JsonSecret<'a>>,
}

#[derive(Default, Serialize)]
struct JsonSecret<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_certificate: Option<JsonCertificate<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_context: Option<JsonContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generic_secret: Option<JsonGeneric<'a>>,
}

#[derive(Serialize)]
struct JsonCertificate<'a> {
    certificate_chain: Option<JsonSource<'a>>,
    private_key: Option<JsonSource<'a>>,
}

#[derive(Serialize)]
struct JsonContext<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_ca: Option<JsonSource<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_validator_config: Option<JsonExtension<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crl: Option<JsonSource<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    only_verify_leaf_cert_crl: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_typed_subject_alt_names: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    suppress_client_ca_list: bool,
}

#[derive(Serialize)]
struct JsonExtension<'a> {
    name: &'a str,
    typed_config: JsonValidator,
}

/// Trust bundles are public, so these may be copies.
#[derive(Serialize)]
struct JsonValidator {
    #[serde(rename = "@type")]
    kind: String,
    trust_domains: Vec<JsonDomain>,
}

#[derive(Serialize)]
struct JsonDomain {
    name: String,
    trust_bundle: JsonText,
}

#[derive(Serialize)]
struct JsonText {
    inline_string: String,
}

#[derive(Serialize)]
struct JsonGeneric<'a> {
    secret: Option<JsonSource<'a>>,
}

#[derive(Serialize)]
struct JsonSource<'a> {
    #[serde(serialize_with = "base64")]
    inline_bytes: &'a [u8],
}

fn base64<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // The buffer has room for all of it, and an encoder of full groups cannot fail otherwise.
    let mut buffer = Zeroizing::new(vec![0; Base64::encoded_len(bytes)]);
    serializer.serialize_str(Base64::encode(bytes, &mut buffer).map_err(serde::ser::Error::custom)?)
}

/// Whether nothing of it would get lost.
fn is_known(secret: &mut Secret) -> bool {
    match &mut secret.r#type {
        Some(Type::TlsCertificate(it)) => {
            // Taken out for the comparison: a copy would have to be wiped.
            let key = it.private_key.take();
            let known = TlsCertificate { certificate_chain: it.certificate_chain.clone(), ..Default::default() };
            let is_known = *it == known && is_inline(it.certificate_chain.as_ref()) && is_inline(key.as_ref());
            it.private_key = key;
            is_known
        }
        Some(Type::ValidationContext(it)) => {
            let known = CertificateValidationContext {
                trusted_ca: it.trusted_ca.clone(),
                custom_validator_config: it.custom_validator_config.clone(),
                crl: it.crl.clone(),
                only_verify_leaf_cert_crl: it.only_verify_leaf_cert_crl,
                match_typed_subject_alt_names: it.match_typed_subject_alt_names.clone(),
                suppress_client_ca_list: it.suppress_client_ca_list,
                ..Default::default()
            };
            let validator = it.custom_validator_config.as_ref().map(|config| config.typed_config.as_ref());
            *it == known
                && is_inline(it.trusted_ca.as_ref())
                && is_inline(it.crl.as_ref())
                && matchers::matchers(&it.match_typed_subject_alt_names).is_some()
                && validator.is_none_or(|any| any.and_then(|any| validator_of(&any.value)).is_some())
        }
        Some(Type::GenericSecret(it)) => it.secrets.is_empty() && is_inline(it.secret.as_ref()),
        _ => false,
    }
}

fn is_inline(source: Option<&DataSource>) -> bool {
    source.is_none_or(|source| {
        source.watched_directory.is_none() && matches!(source.specifier, Some(Specifier::InlineBytes(_)))
    })
}

fn json_secret(secret: &Secret) -> JsonSecret<'_> {
    let mut out = JsonSecret { kind: SECRET_TYPE_URL, name: &secret.name, ..JsonSecret::default() };
    match &secret.r#type {
        Some(Type::TlsCertificate(it)) => {
            out.tls_certificate = Some(JsonCertificate {
                certificate_chain: source(it.certificate_chain.as_ref()),
                private_key: source(it.private_key.as_ref()),
            });
        }
        Some(Type::ValidationContext(it)) => {
            out.validation_context = Some(JsonContext {
                trusted_ca: source(it.trusted_ca.as_ref()),
                custom_validator_config: it.custom_validator_config.as_ref().and_then(|config| {
                    let typed_config = validator_of(&config.typed_config.as_ref()?.value)?;
                    Some(JsonExtension { name: &config.name, typed_config })
                }),
                crl: source(it.crl.as_ref()),
                only_verify_leaf_cert_crl: it.only_verify_leaf_cert_crl,
                // Those without a form here were refused.
                match_typed_subject_alt_names: matchers::matchers(&it.match_typed_subject_alt_names)
                    .unwrap_or_default(),
                suppress_client_ca_list: it.suppress_client_ca_list,
            });
        }
        Some(Type::GenericSecret(GenericSecret { secret, .. })) => {
            out.generic_secret = Some(JsonGeneric { secret: source(secret.as_ref()) });
        }
        _ => {}
    }
    out
}

fn source(source: Option<&DataSource>) -> Option<JsonSource<'_>> {
    match source?.specifier.as_ref()? {
        Specifier::InlineBytes(inline_bytes) => Some(JsonSource { inline_bytes }),
        _ => None,
    }
}

fn validator_of(config: &[u8]) -> Option<JsonValidator> {
    let config = SpiffeCertValidatorConfig::decode(config).ok()?;
    let mut trust_domains = Vec::new();
    for domain in config.trust_domains {
        let Specifier::InlineBytes(bundle) = domain.trust_bundle?.specifier? else { return None };
        let trust_bundle = JsonText { inline_string: String::from_utf8(bundle).ok()? };
        trust_domains.push(JsonDomain { name: domain.name, trust_bundle });
    }
    Some(JsonValidator { kind: SpiffeCertValidatorConfig::type_url(), trust_domains })
}
