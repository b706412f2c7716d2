//! Parts to paste into a configuration that exists.

use serde_json::{Map, Value, json};

use super::{Bootstrap, Error, check_socket, check_tls};
use crate::envoy::{Address, Inject, JwtVerifier, Sds, Tls, jwt, yaml};

impl Bootstrap {
    /// The connection to this server alone: the cluster, and `ads_config` where the variant has one. For pasting into
    /// a configuration that exists.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn cluster_fragment(sds: &Sds) -> Result<String, Error> {
        check_socket(&sds.address)?;
        let mut fragment = Map::new();
        if let Some(ads) = sds.ads_config() {
            fragment.insert("dynamic_resources".to_owned(), json!({ "ads_config": ads }));
        }
        fragment.insert("static_resources".to_owned(), json!({ "clusters": [sds.cluster()] }));
        Ok(yaml::render(&Value::Object(fragment))?)
    }

    /// The references to secrets alone: the `common_tls_context` of a downstream or upstream TLS context.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn secrets_fragment(sds: &Sds, tls: &Tls) -> Result<String, Error> {
        check_tls("the fragment", Some(tls))?;
        Ok(yaml::render(&json!({ "common_tls_context": tls.common_context(sds) }))?)
    }

    /// The injection of a token alone: one entry for the `http_filters` of a connection manager, before the router.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn token_fragment(sds: &Sds, inject: &Inject) -> Result<String, Error> {
        if inject.secret.is_empty() {
            return Err(Error::SecretName { place: "the fragment".to_owned() });
        }
        Ok(yaml::render(&json!({ "http_filters": [inject.filter(sds)] }))?)
    }

    /// The upstreams alone, as the content of [`upstreams_from`](Self::upstreams_from)'s file: where the secrets of
    /// upstreams come over ADS, Envoy has to find them there.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn upstreams_fragment(&self) -> Result<String, Error> {
        check_socket(&self.sds.address)?;
        self.upstream_file("1", &self.upstreams)
    }

    /// The verification of inbound JWT-SVIDs alone: an entry for the `http_filters` of a connection manager, the first
    /// one, and the cluster that leads to the keys.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn jwt_fragment(bundles: &Address, verifiers: &[JwtVerifier]) -> Result<String, Error> {
        check_socket(bundles)?;
        let filters: Vec<_> = jwt::filter(verifiers).into_iter().collect();
        let clusters = json!({ "clusters": [jwt::cluster(bundles)] });
        Ok(yaml::render(&json!({ "http_filters": filters, "static_resources": clusters }))?)
    }
}
