//! Inbound JWT-SVIDs: Envoy's `jwt_authn` filter, with keys from the bundle endpoint.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    sds::{Address, endpoint},
    traffic::typed,
};

/// The name of the cluster that leads to the bundle endpoint.
pub(super) const CLUSTER: &str = "bundles";

/// Accepts the JWT-SVIDs of one trust domain. Envoy knows nothing of trust domains: the keys and the prefix of the
/// subject stand together here, so that the keys of one domain never vouch for the identities of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtVerifier {
    /// The trust domain, without `spiffe://`.
    pub trust_domain: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// How often Envoy fetches the keys anew. A key that is new at the source is refused for up to this long, so it has
    /// to be shorter than the time between a key's publication and its use.
    pub refresh: Duration,
}

impl JwtVerifier {
    /// Accepts tokens of `trust_domain` for `audience`, with keys that are at most a minute old.
    pub fn new(trust_domain: impl Into<String>, audience: impl Into<String>) -> Self {
        let refresh = Duration::from_secs(60);
        Self { trust_domain: trust_domain.into(), audiences: vec![audience.into()], refresh }
    }

    /// Sets how often the keys are fetched anew.
    #[must_use]
    pub const fn refresh(mut self, refresh: Duration) -> Self {
        self.refresh = refresh;
        self
    }

    /// `envoy.extensions.filters.http.jwt_authn.v3.JwtProvider`.
    fn to_value(&self) -> Value {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        json!({
            "audiences": self.audiences,
            "subjects": { "prefix": format!("spiffe://{}/", self.trust_domain) },
            "require_expiration": true,
            "remote_jwks": {
                "http_uri": {
                    "uri": format!("http://spiffe-sds/jwks/{}", self.trust_domain),
                    "cluster": CLUSTER,
                    "timeout": "1s",
                },
                "cache_duration": seconds(self.refresh),
                "async_fetch": { "failed_refetch_duration": seconds(self.refresh.min(Duration::from_secs(1))) },
            },
        })
    }
}

/// The filter; none without verifiers.
pub(super) fn filter(verifiers: &[JwtVerifier]) -> Option<Value> {
    let required = |verifier: &JwtVerifier| json!({ "provider_name": verifier.trust_domain });
    let requires = match verifiers {
        [] => return None,
        [only] => required(only),
        several => json!({ "requires_any": { "requirements": several.iter().map(required).collect::<Vec<_>>() } }),
    };
    let providers: Map<_, _> =
        verifiers.iter().map(|verifier| (verifier.trust_domain.clone(), verifier.to_value())).collect();
    let config = json!({ "providers": providers, "rules": [{ "match": { "prefix": "/" }, "requires": requires }] });
    Some(json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": typed("filters.http.jwt_authn.v3.JwtAuthentication", config),
    }))
}

/// The cluster that leads to the bundle endpoint.
pub(super) fn cluster(address: &Address) -> Value {
    json!({
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": endpoint(CLUSTER, address),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_subjects_of_a_domain_stand_together() {
        let filter = filter(&[JwtVerifier::new("a.test", "x"), JwtVerifier::new("b.test", "y")]).unwrap();
        let config = &filter["typed_config"];
        for td in ["a.test", "b.test"] {
            let provider = &config["providers"][td];
            assert_eq!(provider["subjects"]["prefix"], format!("spiffe://{td}/"), "b.test must not match b.test.evil");
            assert_eq!(provider["remote_jwks"]["http_uri"]["uri"], format!("http://spiffe-sds/jwks/{td}"));
        }
        let required = config["rules"][0]["requires"]["requires_any"]["requirements"].as_array().unwrap();
        assert_eq!(required.len(), 2);
        assert!(super::filter(&[]).is_none());
    }
}
