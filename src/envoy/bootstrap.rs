//! Whole bootstraps, and the fragments of one.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{
    sds::{Address, Sds},
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
    /// Listeners that never change.
    pub listeners: Vec<Listener>,
    /// A file of listeners that Envoy re-reads whenever it is replaced by a rename, written by
    /// [`listener_file`](Self::listener_file). Its name ends in `.yaml`.
    pub listener_file: Option<PathBuf>,
    /// Where [`Action::Forward`] leads.
    pub upstreams: Vec<Upstream>,
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
    #[error("{place} has an empty secret name: name the SVID and the validation context")]
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
    /// Envoy chooses its parser by the ending.
    #[error("listener file {path:?} must end in .yaml, Envoy parses by the ending: rename it")]
    ListenerFile {
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
            listeners: Vec::new(),
            listener_file: None,
            upstreams: Vec::new(),
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

    /// Also takes listeners from a file that is replaced by renames.
    #[must_use]
    pub fn listeners_from(mut self, file: impl Into<PathBuf>) -> Self {
        self.listener_file = Some(file.into());
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

    /// The content of [`listeners_from`](Self::listeners_from)'s file: a `DiscoveryResponse` with all the listeners
    /// there are to be now. The version is for people; Envoy applies whatever differs.
    ///
    /// # Errors
    /// When Envoy would refuse it; see [`Error`].
    pub fn listener_file(&self, version: &str, listeners: &[Listener]) -> Result<String, Error> {
        self.check_listeners(listeners)?;
        let resources: Vec<_> = listeners
            .iter()
            .map(|listener| {
                let mut resource = Map::new();
                resource.insert("@type".to_owned(), json!("type.googleapis.com/envoy.config.listener.v3.Listener"));
                if let Value::Object(fields) = listener.to_value(&self.sds) {
                    resource.extend(fields);
                }
                Value::Object(resource)
            })
            .collect();
        Ok(yaml::render(&json!({ "version_info": version, "resources": resources }))?)
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
        if let Some(path) = &self.listener_file {
            let source =
                json!({ "resource_api_version": "V3", "path_config_source": { "path": path.to_string_lossy() } });
            dynamic.insert("lds_config".to_owned(), source);
        }
        if !dynamic.is_empty() {
            root.insert("dynamic_resources".to_owned(), Value::Object(dynamic));
        }
        let mut fixed = Map::new();
        if !self.listeners.is_empty() {
            let listeners: Vec<_> = self.listeners.iter().map(|listener| listener.to_value(&self.sds)).collect();
            fixed.insert("listeners".to_owned(), Value::Array(listeners));
        }
        let upstreams = self.upstreams.iter().map(|upstream| upstream.to_value(&self.sds));
        fixed.insert("clusters".to_owned(), upstreams.chain([self.sds.cluster()]).collect());
        root.insert("static_resources".to_owned(), Value::Object(fixed));
        Value::Object(root)
    }

    fn check(&self) -> Result<(), Error> {
        if self.node_id.is_empty() || self.node_cluster.is_empty() {
            return Err(Error::Node);
        }
        check_socket(&self.sds.address)?;
        if let Some(admin) = &self.admin {
            check_socket(admin)?;
        }
        if let Some(path) = self.listener_file.as_ref().filter(|path| path.extension().is_none_or(|end| end != "yaml"))
        {
            return Err(Error::ListenerFile { path: path.clone() });
        }
        let names = self.upstreams.iter().map(|upstream| upstream.name.as_str());
        check_unique("upstream", names.chain([Sds::CLUSTER]))?;
        for upstream in &self.upstreams {
            check_tls(&format!("upstream {:?}", upstream.name), upstream.tls.as_ref())?;
        }
        self.check_listeners(&self.listeners)
    }

    fn check_listeners(&self, listeners: &[Listener]) -> Result<(), Error> {
        check_unique("listener", listeners.iter().map(|listener| listener.name.as_str()))?;
        for listener in listeners {
            check_tls(&format!("listener {:?}", listener.name), listener.tls.as_ref())?;
            if let Action::Forward(upstream) = &listener.action
                && !self.upstreams.iter().any(|known| known.name == *upstream)
            {
                return Err(Error::Upstream { listener: listener.name.clone(), upstream: upstream.clone() });
            }
        }
        Ok(())
    }
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
