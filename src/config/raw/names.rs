//! The keys of names: which identity is the default one, and the operator's own.

use schemars::JsonSchema;
use serde::Deserialize;

/// Which of several identities is the default one: at most one of these. While none is as wanted there is no default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct DefaultIdentity {
    /// The one with this SPIFFE ID.
    #[schemars(extend("examples" = ["spiffe://example.org/web"]))]
    pub(in crate::config) spiffe_id: Option<String>,
    /// The first whose SPIFFE ID is like this: `*` stands for anything without `/`, `**` for anything.
    #[schemars(extend("examples" = ["spiffe://example.org/ns/*/sa/web"]))]
    pub(in crate::config) pattern: Option<String>,
    /// The one with this hint.
    #[schemars(extend("examples" = ["internal"]))]
    pub(in crate::config) hint: Option<String>,
}

/// Files that clients may ask for by path, in Istio's spelling: `file-cert:CERTIFICATE~KEY`, `file-root:FILE` and
/// `file-root:system`. Every client may have all of them, keys included. By default none.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct AskedFiles {
    /// The files; a directory stands for everything beneath it. Absolute. Links that lead elsewhere are not followed.
    #[schemars(extend("examples" = [["/etc/certs"], ["/etc/certs/tls.crt", "/etc/certs/tls.key"]]))]
    pub(in crate::config) allow: Option<Vec<String>>,
    /// What `file-root:system` is: `auto` for the authorities that this system trusts (`SSL_CERT_FILE`, or where
    /// distributions have them), or the absolute path of a PEM file. By default such a name means nothing.
    #[schemars(extend("examples" = ["auto", "/etc/ssl/certs/ca-certificates.crt"]))]
    pub(in crate::config) system_roots: Option<String>,
    /// How many different names of files are followed at once, all clients together; further ones wait.
    #[schemars(range(min = 1, max = 4096), extend("default" = 64))]
    pub(in crate::config) max: Option<u32>,
}

/// A name and what it stands for: exactly one of `svid`, `bundle` and `jwt`. Texts may hold `${node.id}`, `${node.cluster}` and
/// `${node.metadata.KEY}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{"required": ["svid"]}, {"required": ["bundle"]}, {"required": ["jwt"]}]))]
pub(in crate::config) struct Name {
    /// The name that Envoy asks for. Required.
    #[schemars(extend("examples" = ["sds://web", "web-cacert", "sds://${node.metadata.app}"]))]
    pub(in crate::config) name: Option<String>,
    /// A certificate and its key: `default`, a SPIFFE ID, or `hint:` and a hint.
    #[schemars(extend("examples" = ["default", "spiffe://example.org/web", "hint:internal"]))]
    pub(in crate::config) svid: Option<String>,
    /// A token of `jwt.svids`, by the name that it has: `jwt:` or `jwt-bearer:` and its audience.
    #[schemars(extend("examples" = ["jwt:payments", "jwt-bearer:payments;hint=internal"]))]
    pub(in crate::config) jwt: Option<String>,
    /// A validation context: `own`, `all`, a trust domain, or a list of trust domains.
    #[schemars(extend("examples" = ["own", "all", "example.org", ["own", "partner.org"]]))]
    pub(in crate::config) bundle: Option<OneOrMore>,
    /// How trust is expressed: `auto` is what the client gets elsewhere, `spiffe` Envoy's SPIFFE certificate validator,
    /// `plain` a `trusted_ca` of a single trust domain. Only with `bundle`.
    #[schemars(extend("enum" = ["auto", "spiffe", "plain"], "default" = "auto"))]
    pub(in crate::config) flavour: Option<String>,
    /// The peer's certificate must have one of these names. They are alternatives to matchers in Envoy's own
    /// configuration, not a restriction of them. Only with `bundle`.
    pub(in crate::config) match_subject_alt_names: Option<Vec<SubjectAltName>>,
    /// Do not tell TLS clients which authorities are trusted (Envoy 1.39 and newer). Only with `bundle`.
    #[schemars(extend("default" = false))]
    pub(in crate::config) suppress_client_ca_list: Option<bool>,
}

/// A name that a peer may have: exactly one kind. All but `uri` need `flavour: plain`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct SubjectAltName {
    /// A URI, such as a SPIFFE ID.
    pub(in crate::config) uri: Option<Matcher>,
    /// A DNS name.
    pub(in crate::config) dns: Option<Matcher>,
    /// An e-mail address.
    pub(in crate::config) email: Option<Matcher>,
    /// An IP address.
    pub(in crate::config) ip_address: Option<Matcher>,
}

/// How a name is compared: exactly one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Matcher {
    /// The whole name.
    pub(in crate::config) exact: Option<String>,
    /// How it begins.
    pub(in crate::config) prefix: Option<String>,
    /// How it ends.
    pub(in crate::config) suffix: Option<String>,
    /// A part of it.
    pub(in crate::config) contains: Option<String>,
    /// The whole name, as a regular expression in RE2 syntax, without variables.
    pub(in crate::config) regex: Option<String>,
}

/// One text or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(transform = flatten_one_or_more)]
pub(in crate::config) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Says "text or list" in one `type`, which is easier to read for people and for `shape` than `anyOf`.
fn flatten_one_or_more(schema: &mut schemars::Schema) {
    schema.remove("anyOf");
    schema.insert("type".to_owned(), serde_json::json!(["string", "array"]));
    schema.insert("items".to_owned(), serde_json::json!({ "type": "string" }));
}
