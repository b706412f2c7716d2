//! The keys of file outputs.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Account, Audience};

/// A directory of files.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Output {
    /// The directory: absolute, existing, and one that no other output has. Required.
    #[schemars(extend("examples" = ["/run/app/identity"]))]
    pub(in crate::config) directory: Option<String>,
    /// Which of several identities, by SPIFFE ID. By default the source's default.
    #[schemars(extend("examples" = ["spiffe://example.org/web"]))]
    pub(in crate::config) id: Option<String>,
    /// Which of several identities, by hint; instead of `id`.
    #[schemars(extend("examples" = ["internal"]))]
    pub(in crate::config) hint: Option<String>,
    /// The file of the certificates, leaf first, PEM. An empty text (`""`) means no such file, here and below.
    #[schemars(extend("default" = "svid.pem"))]
    pub(in crate::config) svid_file: Option<String>,
    /// The file of the private key, PKCS#8 PEM.
    #[schemars(extend("default" = "svid_key.pem"))]
    pub(in crate::config) key_file: Option<String>,
    /// The file of the authorities of the identity's trust domain, PEM.
    #[schemars(extend("default" = "svid_bundle.pem"))]
    pub(in crate::config) bundle_file: Option<String>,
    /// A file of the private key followed by the certificates. By default none.
    #[schemars(extend("examples" = ["svid_combined.pem"]))]
    pub(in crate::config) combined_file: Option<String>,
    /// A file of the JWT keys of all known trust domains: a JSON object from trust domain to JWK Set in base64. By
    /// default none.
    #[schemars(extend("examples" = ["jwt_bundle.json"]))]
    pub(in crate::config) jwt_bundle_file: Option<String>,
    /// Tokens, each in a file of its own. By default none.
    pub(in crate::config) jwt_svids: Option<Vec<JwtFile>>,
    /// Write intermediate certificates into the bundle's file instead of the certificate's, as some programs want it.
    #[schemars(extend("default" = false))]
    pub(in crate::config) add_intermediates_to_bundle: Option<bool>,
    /// Write the authorities of all known trust domains into the bundle's file. Every one of them can then sign for all
    /// the others: only for programs that check the SPIFFE ID of their peers, trust domain included.
    #[schemars(extend("default" = false))]
    pub(in crate::config) include_federated_domains: Option<bool>,
    /// Permission bits of the files without secrets, octal, in quotes.
    #[schemars(extend("default" = "0644"))]
    pub(in crate::config) cert_mode: Option<String>,
    /// Permission bits of the files with a key or a token, octal, in quotes. Nothing for others: use `group`.
    #[schemars(extend("default" = "0600"))]
    pub(in crate::config) key_mode: Option<String>,
    /// The user who owns the files, by name or number. By default the user we run as.
    pub(in crate::config) owner: Option<Account>,
    /// The group of the files, by name or number. By default the group we run as.
    pub(in crate::config) group: Option<Account>,
}

/// A token's file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct JwtFile {
    /// The name of the file. Required.
    #[schemars(extend("examples" = ["jwt_svid.token"]))]
    pub(in crate::config) file: Option<String>,
    /// For whom the token is. Required; one is best.
    #[schemars(extend("examples" = [["payments"]]))]
    pub(in crate::config) audience: Option<Vec<Audience>>,
    /// Whose token it is, by SPIFFE ID. By default that of the default identity.
    #[schemars(extend("examples" = ["spiffe://example.org/web"]))]
    pub(in crate::config) id: Option<String>,
    /// Whose token it is, by the hint of the identity; instead of `id`.
    #[schemars(extend("examples" = ["internal"]))]
    pub(in crate::config) hint: Option<String>,
}
