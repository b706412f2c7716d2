//! Whole bootstraps, and the fragments of one.

mod fragment;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{
    jwt,
    sds::{Address, Sds, Variant},
    traffic::{Action, Listener, Tls, Upstream},
    yaml,
};

/// A whole Envoy configuration: this server, and the listeners and upstreams that use its secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// `node.id`; Envoy refuses SDS without one.
    pub node_id: String,
    /// `node.cluster`; likewise.
    pub node_cluster: String,
    /// `node.metadata`, for example `disable_spiffe_cert_validation`.
    pub metadata: Map<String, Value>,
    /// Where Envoy's admin interface listens; none if absent.
    pub admin: Option<Address>,
    /// The connection to this server.
    pub sds: Sds,
    /// Where this server's bundle endpoint listens; needed by a listener that verifies JWT-SVIDs.
    pub bundles: Option<Address>,
    /// The ports to open.
    pub listeners: Vec<Listener>,
    /// Where [`Action::Forward`] leads.
    pub upstreams: Vec<Upstream>,
    /// If set, the listeners are not in the bootstrap but in this file, which Envoy re-reads whenever a rename replaces
    /// it. [`listener_file`](Self::listener_file) writes its content; the name ends in `.yaml`.
    pub listeners_from: Option<PathBuf>,
    /// The same for upstreams and [`upstream_file`](Self::upstream_file).
    pub upstreams_from: Option<PathBuf>,
}

/// Why a description is no configuration that Envoy would start with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Envoy's own words: "TlsCertificateSdsApi: node 'id' and 'cluster' are required".
    #[error("envoy needs a node id and a node cluster to ask for secrets: set both")]
    Node,
    /// Linux's limit on `sun_path`.
    #[error("socket path {path:?} has {} bytes, Linux allows 107: choose a shorter one", path.as_os_str().len())]
    SocketPath {
        /// The path refused.
        path: PathBuf,
    },
    /// A secret that could never be delivered.
    #[error("{place} has an empty secret name: name the SVID, the validation context and the token")]
    SecretName {
        /// The listener or upstream.
        place: String,
    },
    /// Two of one kind share a name.
    #[error("two {kind}s are named {name:?}: rename one")]
    Duplicate {
        /// `listener` or `upstream`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A route to nowhere.
    #[error("listener {listener:?} forwards to {upstream:?}, which is not among the upstreams: add it")]
    Upstream {
        /// The listener.
        listener: String,
        /// The upstream it names.
        upstream: String,
    },
    /// Keys from nowhere.
    #[error("listener {listener:?} verifies JWT-SVIDs, but there is no bundle endpoint: set bundles")]
    Bundles {
        /// The listener.
        listener: String,
    },
    /// Envoy starts the secrets of static clusters before there is an aggregated stream, and dies of it
    /// (envoy#15517, envoy#19618; seen on 1.36.2 and 1.40.0).
    #[error(
        "upstream {upstream:?} is static and takes secrets over {variant}, which crashes envoy: set upstreams_from"
    )]
    StaticUpstream {
        /// The upstream.
        upstream: String,
        /// One of the aggregated variants.
        variant: Variant,
    },
    /// Envoy chooses its parser by the ending.
    #[error("file {path:?} must end in .yaml, because envoy parses by the ending: rename it")]
    FileName {
        /// The path refused.
        path: PathBuf,
    },
    /// A value without a YAML form.
    #[error("could not write the configuration as YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

impl Bootstrap {
    /// An Envoy with the connection to this server and nothing else.
    pub fn new(node_id: impl Into<String>, node_cluster: impl Into<String>, sds: Sds) -> Self {
        Self {
            node_id: node_id.into(),
            node_cluster: node_cluster.into(),
            metadata: Map::new(),
            admin: None,
            sds,
            bundles: None,
            listeners: Vec::new(),
            upstreams: Vec::new(),
            listeners_from: None,
            upstreams_from: None,
        }
    }

    /// Adds one entry to the node's metadata.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Opens the admin interface. It has no authentication: keep it on loopback.
    #[must_use]
    pub fn admin(mut self, address: impl Into<Address>) -> Self {
        self.admin = Some(address.into());
        self
    }

    /// Names the bundle endpoint.
    #[must_use]
    pub fn bundles(mut self, address: impl Into<Address>) -> Self {
        self.bundles = Some(address.into());
        self
    }

    /// Adds a listener.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Adds an upstream.
    #[must_use]
    pub fn upstream(mut self, upstream: Upstream) -> Self {
        self.upstreams.push(upstream);
        self
    }

    /// Takes the listeners from a file that is replaced by renames.
    #[must_use]
    pub fn listeners_from(mut self, file: impl Into<PathBuf>) -> Self {
        self.listeners_from = Some(file.into());
        self
    }

    /// Takes the upstreams from a file that is replaced by renames. The aggregated variants need it for an upstream
    /// with TLS ([`Error::StaticUpstream`]).
    #[must_use]
    pub fn upstreams_from(mut self, file: impl Into<PathBuf>) -> Self {
        self.upstreams_from = Some(file.into());
        self
    }

    /// The complete bootstrap, commented, ready for `envoy -c`.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn to_yaml(&self) -> Result<String, Error> {
        self.check()?;
        Ok(yaml::render(&self.to_value())?)
    }

    /// The content of [`listeners_from`](Self::listeners_from)'s file: a `DiscoveryResponse` with all the listeners
    /// there are to be now. The version is for people; Envoy applies whatever differs.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn listener_file(&self, version: &str, listeners: &[Listener]) -> Result<String, Error> {
        self.check_listeners(listeners)?;
        let resources = listeners.iter().map(|listener| listener.to_value(&self.sds));
        discovery_response(version, "type.googleapis.com/envoy.config.listener.v3.Listener", resources)
    }

    /// The content of [`upstreams_from`](Self::upstreams_from)'s file, likewise.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn upstream_file(&self, version: &str, upstreams: &[Upstream]) -> Result<String, Error> {
        check_upstreams(upstreams)?;
        let resources = upstreams.iter().map(|upstream| upstream.to_value(&self.sds));
        discovery_response(version, "type.googleapis.com/envoy.config.cluster.v3.Cluster", resources)
    }

    fn to_value(&self) -> Value {
        let mut root = Map::new();
        let mut node = json!({ "id": self.node_id, "cluster": self.node_cluster });
        if let (Some(fields), false) = (node.as_object_mut(), self.metadata.is_empty()) {
            fields.insert("metadata".to_owned(), Value::Object(self.metadata.clone()));
        }
        root.insert("node".to_owned(), node);
        if let Some(admin) = &self.admin {
            root.insert("admin".to_owned(), json!({ "address": admin.to_value() }));
        }
        let mut dynamic = Map::new();
        if let Some(ads) = self.sds.ads_config() {
            dynamic.insert("ads_config".to_owned(), ads);
        }
        for (key, path) in [("cds_config", &self.upstreams_from), ("lds_config", &self.listeners_from)] {
            if let Some(path) = path {
                let source = json!({ "path": path.to_string_lossy() });
                let source = json!({ "resource_api_version": "V3", "path_config_source": source });
                dynamic.insert(key.to_owned(), source);
            }
        }
        if !dynamic.is_empty() {
            root.insert("dynamic_resources".to_owned(), Value::Object(dynamic));
        }
        let mut fixed = Map::new();
        if self.listeners_from.is_none() && !self.listeners.is_empty() {
            let listeners = self.listeners.iter().map(|listener| listener.to_value(&self.sds));
            fixed.insert("listeners".to_owned(), listeners.collect());
        }
        let upstreams = self.upstreams.iter().filter(|_| self.upstreams_from.is_none());
        let clusters = upstreams.map(|upstream| upstream.to_value(&self.sds)).chain([self.sds.cluster()]);
        let clusters = clusters.chain(self.bundles.as_ref().map(jwt::cluster));
        fixed.insert("clusters".to_owned(), clusters.collect());
        root.insert("static_resources".to_owned(), Value::Object(fixed));
        Value::Object(root)
    }

    fn check(&self) -> Result<(), Error> {
        if self.node_id.is_empty() || self.node_cluster.is_empty() {
            return Err(Error::Node);
        }
        check_socket(&self.sds.address)?;
        for address in [&self.admin, &self.bundles].into_iter().flatten() {
            check_socket(address)?;
        }
        for path in [&self.listeners_from, &self.upstreams_from].into_iter().flatten() {
            if path.extension().is_none_or(|end| end != "yaml") {
                return Err(Error::FileName { path: path.clone() });
            }
        }
        check_upstreams(&self.upstreams)?;
        if self.sds.variant.is_aggregated()
            && self.upstreams_from.is_none()
            && let Some(upstream) = self.upstreams.iter().find(|upstream| upstream.tls.is_some())
        {
            return Err(Error::StaticUpstream { upstream: upstream.name.clone(), variant: self.sds.variant });
        }
        self.check_listeners(&self.listeners)
    }

    fn check_listeners(&self, listeners: &[Listener]) -> Result<(), Error> {
        check_unique("listener", listeners.iter().map(|listener| listener.name.as_str()))?;
        for listener in listeners {
            let place = format!("listener {:?}", listener.name);
            check_tls(&place, listener.tls.as_ref())?;
            if listener.inject.as_ref().is_some_and(|inject| inject.secret.is_empty()) {
                return Err(Error::SecretName { place });
            }
            if !listener.jwt.is_empty() && self.bundles.is_none() {
                return Err(Error::Bundles { listener: listener.name.clone() });
            }
            if let Action::Forward(upstream) = &listener.action
                && !self.upstreams.iter().any(|known| known.name == *upstream)
            {
                return Err(Error::Upstream { listener: listener.name.clone(), upstream: upstream.clone() });
            }
        }
        Ok(())
    }
}

fn discovery_response(version: &str, kind: &str, resources: impl Iterator<Item = Value>) -> Result<String, Error> {
    let resources = resources.map(|resource| {
        let mut any = Map::new();
        any.insert("@type".to_owned(), kind.into());
        if let Value::Object(fields) = resource {
            any.extend(fields);
        }
        Value::Object(any)
    });
    Ok(yaml::render(&json!({ "version_info": version, "resources": resources.collect::<Value>() }))?)
}

fn check_upstreams(upstreams: &[Upstream]) -> Result<(), Error> {
    check_unique(
        "upstream",
        upstreams.iter().map(|upstream| upstream.name.as_str()).chain([Sds::CLUSTER, jwt::CLUSTER]),
    )?;
    upstreams.iter().try_for_each(|upstream| {
        let place = format!("upstream {:?}", upstream.name);
        check_tls(&place, upstream.tls.as_ref())
    })
}

fn check_socket(address: &Address) -> Result<(), Error> {
    match address {
        Address::Unix(path) if path.as_os_str().len() > 107 => Err(Error::SocketPath { path: path.clone() }),
        _ => Ok(()),
    }
}

fn check_tls(place: &str, tls: Option<&Tls>) -> Result<(), Error> {
    match tls {
        Some(tls) if tls.svid.is_empty() || tls.validation.is_empty() => {
            Err(Error::SecretName { place: place.to_owned() })
        }
        _ => Ok(()),
    }
}

fn check_unique<'a>(kind: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Error::Duplicate { kind, name: name.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
