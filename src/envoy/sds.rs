//! How an Envoy reaches this server: the cluster, and the `sds_config` of each reference.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};

/// The four ways Envoy speaks SDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// `StreamSecrets`: state of the world, one stream a secret.
    Sotw,
    /// `DeltaSecrets`: incremental, one stream a secret.
    Delta,
    /// `StreamAggregatedResources`: state of the world, one stream an Envoy.
    AdsSotw,
    /// `DeltaAggregatedResources`: incremental, one stream an Envoy.
    AdsDelta,
}

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix domain socket; Linux allows 107 bytes of path.
    Unix(PathBuf),
    /// An IP address and port.
    Tcp(SocketAddr),
}

/// The connection to this server. Every field is part of what makes two references equal to Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sds {
    /// Which RPC carries the secrets.
    pub variant: Variant,
    /// Where this server listens.
    pub address: Address,
    /// How long a listener or cluster waits for its first secret before it opens without; zero waits for ever.
    pub initial_fetch_timeout: Duration,
    /// First and longest wait between attempts to reopen a stream. Envoy's own default is 0.5 s and 30 s, per stream.
    pub retry: (Duration, Duration),
    /// HTTP/2 PING interval and timeout: the only way Envoy notices a server that hangs rather than dies.
    pub keepalive: (Duration, Duration),
}

impl Variant {
    /// All four, in the order of their documentation.
    pub const ALL: [Self; 4] = [Self::Sotw, Self::Delta, Self::AdsSotw, Self::AdsDelta];

    /// Its spelling on the command line: `sotw`, `delta`, `ads-sotw`, `ads-delta`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
            Self::AdsSotw => "ads-sotw",
            Self::AdsDelta => "ads-delta",
        }
    }

    /// Whether one aggregated stream carries every secret.
    pub const fn is_aggregated(self) -> bool {
        matches!(self, Self::AdsSotw | Self::AdsDelta)
    }

    /// Whether updates are incremental.
    pub const fn is_delta(self) -> bool {
        matches!(self, Self::Delta | Self::AdsDelta)
    }

    /// `envoy.config.core.v3.ApiConfigSource.ApiType`.
    const fn api_type(self) -> &'static str {
        if self.is_delta() { "DELTA_GRPC" } else { "GRPC" }
    }
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Address {
    /// `envoy.config.core.v3.Address`.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Unix(path) => json!({ "pipe": { "path": path.to_string_lossy() } }),
            Self::Tcp(address) => {
                json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
            }
        }
    }
}

impl Sds {
    /// The name of the cluster. Also the default `:authority`, so it must stay a plain word.
    pub const CLUSTER: &'static str = "sds";

    /// The recommended settings: 15 s to the first secret, reopening within 0.1 to 0.5 s, PING each 30 s.
    ///
    /// Envoy forgets how often it had to retry only when a message comes, and a reconnect with known versions gets none:
    /// restart after restart the wait grows to the longest one (measured: 2 s, after five restarts).
    pub const fn new(variant: Variant, address: Address) -> Self {
        Self {
            variant,
            address,
            initial_fetch_timeout: Duration::from_secs(15),
            retry: (Duration::from_millis(100), Duration::from_millis(500)),
            keepalive: (Duration::from_secs(30), Duration::from_secs(5)),
        }
    }

    /// The same with another [`initial_fetch_timeout`](Self::initial_fetch_timeout).
    #[must_use]
    pub const fn initial_fetch_timeout(mut self, timeout: Duration) -> Self {
        self.initial_fetch_timeout = timeout;
        self
    }

    /// The same with another [`retry`](Self::retry).
    #[must_use]
    pub const fn retry(mut self, first: Duration, longest: Duration) -> Self {
        self.retry = (first, longest);
        self
    }

    /// The same with another [`keepalive`](Self::keepalive).
    #[must_use]
    pub const fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive = (interval, timeout);
        self
    }

    /// The one `ConfigSource` of every secret reference.
    pub(crate) fn config_source(&self) -> Value {
        let mut source = json!({
            "resource_api_version": "V3",
            "initial_fetch_timeout": seconds(self.initial_fetch_timeout),
        });
        let (key, value) =
            if self.variant.is_aggregated() { ("ads", json!({})) } else { ("api_config_source", self.api()) };
        if let Some(fields) = source.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
        source
    }

    /// `dynamic_resources.ads_config`, for the aggregated variants.
    pub(crate) fn ads_config(&self) -> Option<Value> {
        self.variant.is_aggregated().then(|| self.api())
    }

    /// `envoy.config.core.v3.ApiConfigSource`.
    fn api(&self) -> Value {
        json!({
            "api_type": self.variant.api_type(),
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{
                "envoy_grpc": {
                    "cluster_name": Self::CLUSTER,
                    "authority": "localhost",
                    "retry_policy": {
                        "retry_back_off": {
                            "base_interval": seconds(self.retry.0),
                            "max_interval": seconds(self.retry.1),
                        },
                    },
                },
            }],
        })
    }

    /// The cluster that [`config_source`](Self::config_source) names.
    pub(crate) fn cluster(&self) -> Value {
        json!({
            "name": Self::CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {
                        "http2_protocol_options": {
                            "connection_keepalive": {
                                "interval": seconds(self.keepalive.0),
                                "timeout": seconds(self.keepalive.1),
                            },
                        },
                    },
                },
            },
            "circuit_breakers": { "thresholds": [{ "max_requests": 65_536, "max_pending_requests": 65_536 }] },
            "load_assignment": endpoint(Self::CLUSTER, &self.address),
        })
    }
}

/// A `ClusterLoadAssignment` of one endpoint.
pub(crate) fn endpoint(cluster: &str, address: &Address) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address.to_value() } }] }],
    })
}

/// A `google.protobuf.Duration` in its JSON form: `15s`, `0.1s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    match duration.subsec_nanos() {
        0 => format!("{whole}s"),
        nanos => format!("{whole}.{}s", format!("{nanos:09}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sds(variant: Variant) -> Sds {
        Sds::new(variant, Address::Unix("/run/s.sock".into()))
    }

    #[test]
    fn durations_are_protobuf_json() {
        assert_eq!(seconds(Duration::from_secs(15)), "15s");
        assert_eq!(seconds(Duration::from_millis(100)), "0.1s");
        assert_eq!(seconds(Duration::from_micros(1_500_250)), "1.50025s");
        assert_eq!(seconds(Duration::ZERO), "0s");
    }

    #[test]
    fn only_the_aggregated_variants_refer_to_ads() {
        for variant in Variant::ALL {
            let (source, ads) = (sds(variant).config_source(), sds(variant).ads_config());
            assert_eq!(source.get("ads").is_some(), variant.is_aggregated(), "{variant}");
            assert_eq!(source.get("api_config_source").is_none(), variant.is_aggregated(), "{variant}");
            let api = ads.as_ref().or_else(|| source.get("api_config_source")).unwrap();
            assert_eq!(api["api_type"], if variant.is_delta() { "DELTA_GRPC" } else { "GRPC" }, "{variant}");
            assert_eq!(api["grpc_services"][0]["envoy_grpc"]["authority"], "localhost");
            assert_eq!(api["set_node_on_first_message_only"], true);
        }
    }

    #[test]
    fn a_tcp_address_becomes_a_socket_address() {
        let cluster = Sds::new(Variant::Sotw, Address::Tcp("[::1]:8081".parse().unwrap())).cluster();
        let address = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        assert_eq!(address["socket_address"], json!({ "address": "::1", "port_value": 8081 }));
    }
}
