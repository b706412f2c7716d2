//! A token in a header: Envoy's credential injector, fed from a generic secret.

use serde_json::{Value, json};

use super::{
    sds::Sds,
    traffic::{insert, typed},
};

/// Puts a token into the `Authorization` header of every request, over whatever the client wrote there. Without a token
/// Envoy answers 401 itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inject {
    /// Secret name of the token.
    pub secret: String,
    /// Whether Envoy writes `Bearer ` in front of it. Envoy 1.36 and older cannot: there the secret has to bring it.
    pub prefixed: bool,
}

impl Inject {
    /// The token under this name: `jwt:...` gets its `Bearer ` from Envoy, `jwt-bearer:...` brings it.
    pub fn token(secret: impl Into<String>) -> Self {
        let secret = secret.into();
        let prefixed = !secret.starts_with("jwt-bearer:");
        Self { secret, prefixed }
    }

    /// `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`.
    pub(crate) fn filter(&self, sds: &Sds) -> Value {
        let mut generic = typed("http.injected_credentials.generic.v3.Generic", json!({}));
        insert(&mut generic, "credential", json!({ "name": self.secret, "sds_config": sds.config_source() }));
        insert(&mut generic, "header", json!("Authorization"));
        if self.prefixed {
            insert(&mut generic, "header_value_prefix", json!("Bearer "));
        }
        let credential = json!({ "name": "envoy.http.injected_credentials.generic", "typed_config": generic });
        let injector = json!({ "overwrite": true, "credential": credential });
        let injector = typed("filters.http.credential_injector.v3.CredentialInjector", injector);
        json!({ "name": "envoy.filters.http.credential_injector", "typed_config": injector })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::{Address, Variant};

    #[test]
    fn only_a_bare_token_gets_a_prefix() {
        let sds = Sds::new(Variant::Delta, Address::Unix("/run/s.sock".into()));
        let generic = |name| {
            let filter = Inject::token(name).filter(&sds);
            filter["typed_config"]["credential"]["typed_config"].clone()
        };
        assert_eq!(generic("jwt:payments")["header_value_prefix"], "Bearer ");
        assert!(generic("jwt-bearer:payments").get("header_value_prefix").is_none());
        assert_eq!(generic("jwt:payments")["credential"]["name"], "jwt:payments");
    }
}
