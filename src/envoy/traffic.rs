//! Listeners and upstream clusters that use secrets.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{
    inject::Inject,
    jwt::{self, JwtVerifier},
    sds::{Address, Sds, endpoint},
};

/// The mTLS of a listener or an upstream: own identity, whom to trust, whom to talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Secret name of the certificate and key.
    pub svid: String,
    /// Secret name of the validation context.
    pub validation: String,
    /// SPIFFE IDs the peer may have, any one of them; empty accepts whomever the validation context does. This is
    /// authorisation, and belongs here: Envoy ORs matchers from SDS with these, so a served context has none.
    pub peers: Vec<String>,
    /// Whether sessions may be resumed. Off makes every handshake a full one with the current certificate.
    pub resumption: bool,
    /// Signature algorithms in BoringSSL's names, such as `ecdsa_secp521r1_sha512`; empty leaves Envoy's own list, which
    /// has neither P-521 nor Ed25519.
    pub signature_algorithms: Vec<String>,
}

/// A port that Envoy opens, speaking HTTP/1.1 and HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique in one Envoy; its statistics are `listener.NAME.` and `http.NAME.`.
    pub name: String,
    /// Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Plain text if absent.
    pub tls: Option<Tls>,
    /// A token for each request, before the action.
    pub inject: Option<Inject>,
    /// Whose JWT-SVIDs a request may carry, any one of them; empty asks for none.
    pub jwt: Vec<JwtVerifier>,
    /// What a request gets.
    pub action: Action,
}

/// What a listener does with each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answers 200 with this body.
    Respond(String),
    /// Forwards to the upstream of this name.
    Forward(String),
}

/// A cluster of one endpoint, speaking HTTP/1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Unique in one Envoy.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Plain text if absent.
    pub tls: Option<Tls>,
    /// How long a connection is used.
    pub connections: Connections,
}

/// How long Envoy uses one upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Connections {
    /// As long as it lasts. A rotation never touches an open connection.
    #[default]
    Pooled,
    /// For one request: each request is a handshake, which is what a rotation test wants.
    PerRequest,
}

impl Tls {
    /// Presents `svid`, validates with `validation`, accepts any peer that validates.
    pub fn new(svid: impl Into<String>, validation: impl Into<String>) -> Self {
        Self {
            svid: svid.into(),
            validation: validation.into(),
            peers: Vec::new(),
            resumption: true,
            signature_algorithms: Vec::new(),
        }
    }

    /// Also accepts the peer with this SPIFFE ID; without any, all are.
    #[must_use]
    pub fn peer(mut self, id: impl Into<String>) -> Self {
        self.peers.push(id.into());
        self
    }

    /// Signs, and accepts signatures, with these algorithms and no others. Both ends of a connection need them.
    #[must_use]
    pub fn signature_algorithms(mut self, algorithms: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.signature_algorithms = algorithms.into_iter().map(Into::into).collect();
        self
    }

    /// Makes every handshake a full one.
    #[must_use]
    pub const fn no_resumption(mut self) -> Self {
        self.resumption = false;
        self
    }

    /// `envoy.extensions.transport_sockets.tls.v3.CommonTlsContext`.
    pub(crate) fn common_context(&self, sds: &Sds) -> Value {
        let reference = |name: &str| json!({ "name": name, "sds_config": sds.config_source() });
        // Both ends named: an Envoy client stops at TLS 1.2 unless told otherwise.
        let mut parameters =
            json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
        if !self.signature_algorithms.is_empty() {
            insert(&mut parameters, "signature_algorithms", json!(self.signature_algorithms));
        }
        let mut context = json!({
            "tls_params": parameters,
            "tls_certificate_sds_secret_configs": [reference(&self.svid)],
        });
        let validation = reference(&self.validation);
        if self.peers.is_empty() {
            insert(&mut context, "validation_context_sds_secret_config", validation);
        } else {
            let matchers: Vec<_> =
                self.peers.iter().map(|id| json!({ "san_type": "URI", "matcher": { "exact": id } })).collect();
            let combined = json!({
                "default_validation_context": { "match_typed_subject_alt_names": matchers },
                "validation_context_sds_secret_config": validation,
            });
            insert(&mut context, "combined_validation_context", combined);
        }
        context
    }

    fn downstream(&self, sds: &Sds) -> Value {
        let mut context = typed("transport_sockets.tls.v3.DownstreamTlsContext", json!({}));
        insert(&mut context, "require_client_certificate", json!(true));
        if !self.resumption {
            insert(&mut context, "disable_stateless_session_resumption", json!(true));
            insert(&mut context, "disable_stateful_session_resumption", json!(true));
        }
        insert(&mut context, "common_tls_context", self.common_context(sds));
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }

    fn upstream(&self, sds: &Sds) -> Value {
        let mut context = typed("transport_sockets.tls.v3.UpstreamTlsContext", json!({}));
        if !self.resumption {
            insert(&mut context, "max_session_keys", json!(0));
        }
        insert(&mut context, "common_tls_context", self.common_context(sds));
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }
}

impl Action {
    /// Answers every request with 200 and this body.
    pub fn respond(body: impl Into<String>) -> Self {
        Self::Respond(body.into())
    }

    /// Forwards every request to the upstream of this name.
    pub fn forward(upstream: impl Into<String>) -> Self {
        Self::Forward(upstream.into())
    }

    fn route(&self) -> Value {
        match self {
            Self::Respond(body) => {
                json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": { "inline_string": body } } })
            }
            Self::Forward(upstream) => json!({ "match": { "prefix": "/" }, "route": { "cluster": upstream } }),
        }
    }
}

impl Listener {
    /// A plain-text listener.
    pub fn new(name: impl Into<String>, address: SocketAddr, action: Action) -> Self {
        Self { name: name.into(), address, tls: None, jwt: Vec::new(), inject: None, action }
    }

    /// The same behind mTLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same with a token in each request.
    #[must_use]
    pub fn inject(mut self, inject: Inject) -> Self {
        self.inject = Some(inject);
        self
    }

    /// Lets only requests in that carry a JWT-SVID that this verifier, or another one of the listener, accepts. Needs
    /// [`Bootstrap::bundles`](super::Bootstrap::bundles).
    #[must_use]
    pub fn jwt(mut self, verifier: JwtVerifier) -> Self {
        self.jwt.push(verifier);
        self
    }

    /// `envoy.config.listener.v3.Listener`.
    pub(crate) fn to_value(&self, sds: &Sds) -> Value {
        let mut routes = json!({
            "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [self.action.route()] }],
        });
        if sds.variant.is_aggregated() && matches!(self.action, Action::Forward(_)) {
            // There an upstream with TLS cannot be static, so it is not there yet when the bootstrap is read.
            insert(&mut routes, "validate_clusters", json!(false));
        }
        let router = json!({
            "name": "envoy.filters.http.router",
            "typed_config": typed("filters.http.router.v3.Router", json!({})),
        });
        // The caller's token is verified before ours takes its place.
        let injector = self.inject.iter().map(|inject| inject.filter(sds));
        let filters: Vec<_> = jwt::filter(&self.jwt).into_iter().chain(injector).chain([router]).collect();
        let manager = json!({ "stat_prefix": self.name, "route_config": routes, "http_filters": filters });
        let mut chain = json!({});
        if let Some(tls) = &self.tls {
            insert(&mut chain, "transport_socket", tls.downstream(sds));
        }
        let filters = json!([{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
        }]);
        insert(&mut chain, "filters", filters);
        json!({
            "name": self.name,
            // Or its statistics are named after the port asked for, and all those with port 0 are one.
            "stat_prefix": self.name,
            "address": Address::from(self.address).to_value(),
            "filter_chains": [chain],
        })
    }
}

impl Upstream {
    /// A plain-text upstream with pooled connections.
    pub fn new(name: impl Into<String>, address: SocketAddr) -> Self {
        Self { name: name.into(), address, tls: None, connections: Connections::Pooled }
    }

    /// The same behind mTLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same with a new connection, hence a new handshake, for each request.
    #[must_use]
    pub const fn connection_per_request(mut self) -> Self {
        self.connections = Connections::PerRequest;
        self
    }

    /// `envoy.config.cluster.v3.Cluster`.
    pub(crate) fn to_value(&self, sds: &Sds) -> Value {
        let mut cluster = json!({ "name": self.name, "type": "STATIC", "connect_timeout": "1s" });
        if self.connections == Connections::PerRequest {
            let options = json!({
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
                "explicit_http_config": { "http_protocol_options": {} },
            });
            let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let options = json!({ key: typed("upstreams.http.v3.HttpProtocolOptions", options) });
            insert(&mut cluster, "typed_extension_protocol_options", options);
        }
        if let Some(tls) = &self.tls {
            insert(&mut cluster, "transport_socket", tls.upstream(sds));
        }
        insert(&mut cluster, "load_assignment", endpoint(&self.name, &Address::from(self.address)));
        cluster
    }
}

/// `value` as an `Any` of an extension, its type first.
pub(super) fn typed(extension: &str, value: Value) -> Value {
    let mut any = Map::new();
    any.insert("@type".to_owned(), json!(format!("type.googleapis.com/envoy.extensions.{extension}")));
    if let Value::Object(fields) = value {
        any.extend(fields);
    }
    Value::Object(any)
}

/// Sets a field of an object; the callers' values are all objects.
pub(super) fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::Variant;

    fn sds() -> Sds {
        Sds::new(Variant::Delta, Address::Unix("/run/s.sock".into()))
    }

    #[test]
    fn matchers_stay_in_envoys_configuration() {
        let open = Tls::new("default", "ALL").common_context(&sds());
        assert_eq!(open["validation_context_sds_secret_config"]["name"], "ALL");
        assert!(open.get("combined_validation_context").is_none());

        let pinned = Tls::new("default", "ALL").peer("spiffe://example.org/a").peer("spiffe://example.org/b");
        let combined = &pinned.common_context(&sds())["combined_validation_context"];
        let matchers = &combined["default_validation_context"]["match_typed_subject_alt_names"];
        assert_eq!(matchers.as_array().unwrap().len(), 2);
        assert_eq!(matchers[1], json!({ "san_type": "URI", "matcher": { "exact": "spiffe://example.org/b" } }));
    }

    #[test]
    fn signature_algorithms_are_named_only_if_asked_for() {
        let parameters = |tls: &Tls| tls.common_context(&sds())["tls_params"].clone();
        let tls = Tls::new("default", "ALL");
        assert!(parameters(&tls).get("signature_algorithms").is_none(), "Envoy's own list is the default");
        let tls = tls.signature_algorithms(["ecdsa_secp521r1_sha512", "ed25519"]);
        assert_eq!(parameters(&tls)["signature_algorithms"], json!(["ecdsa_secp521r1_sha512", "ed25519"]));
    }

    #[test]
    fn no_resumption_reaches_both_ends() {
        let tls = Tls::new("default", "ALL").no_resumption();
        let server = &tls.downstream(&sds())["typed_config"];
        assert_eq!(server["disable_stateless_session_resumption"], true);
        assert_eq!(server["disable_stateful_session_resumption"], true);
        assert_eq!(tls.upstream(&sds())["typed_config"]["max_session_keys"], 0);
        assert!(Tls::new("a", "b").upstream(&sds())["typed_config"].get("max_session_keys").is_none());
    }

    #[test]
    fn a_plain_listener_has_no_transport_socket() {
        let listener = Listener::new("plain", ([127, 0, 0, 1], 0).into(), Action::forward("up")).to_value(&sds());
        assert!(listener["filter_chains"][0].get("transport_socket").is_none());
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"], "up");
    }
}
