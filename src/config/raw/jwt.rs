//! The keys of JWT-SVIDs.

use schemars::JsonSchema;
use serde::Deserialize;

/// JWT-SVIDs. Each one written here is fetched and renewed, whether or not a client asks for it; no other ever is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Jwt {
    /// The tokens to serve. Envoy asks for one by the name `jwt:AUDIENCE`, or `jwt-bearer:AUDIENCE` with `Bearer ` in
    /// front of it; docs/names.md has the rest. By default none.
    pub(in crate::config) svids: Option<Vec<JwtSvid>>,
}

/// One token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct JwtSvid {
    /// For whom the token is: whoever shall verify it, by the name it goes by. Required; one is best, because each of
    /// several could pass the token on to another.
    #[schemars(extend("examples" = [["payments"], ["https://api.example.com"]]))]
    pub(in crate::config) audience: Option<Vec<Audience>>,
    /// Whose token it is, by SPIFFE ID. By default that of the default identity.
    #[schemars(extend("examples" = ["spiffe://example.org/web"]))]
    pub(in crate::config) id: Option<String>,
    /// Whose token it is, by the hint of the identity; instead of `id`.
    #[schemars(extend("examples" = ["internal"]))]
    pub(in crate::config) hint: Option<String>,
}

/// One audience.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(in crate::config) struct Audience(pub(in crate::config) String);
