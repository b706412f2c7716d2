use super::*;
use crate::envoy::Variant;

fn sds(variant: Variant) -> Sds {
    Sds::new(variant, Address::Unix("/run/spiffe-sds/sds.sock".into()))
}

fn loopback(port: u16) -> std::net::SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn client(variant: Variant) -> Bootstrap {
    let bootstrap = Bootstrap::new("client", "test", sds(variant));
    let bootstrap = if variant.is_aggregated() { bootstrap.upstreams_from("/tmp/u.yaml") } else { bootstrap };
    bootstrap
        .admin(loopback(0))
        .listener(Listener::new("plain", loopback(0), Action::forward("up")))
        .upstream(Upstream::new("up", loopback(8443)).tls(Tls::new("default", "ALL").peer("spiffe://example.org/s")))
}

fn parsed(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// Every `sds_config` in a tree.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "sds_config" {
                    found.push(value);
                }
                references(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn the_text_says_what_the_description_says() {
    for variant in Variant::ALL {
        let bootstrap = client(variant);
        assert_eq!(parsed(&bootstrap.to_yaml().unwrap()), bootstrap.to_value(), "{variant}");
    }
}

#[test]
fn every_reference_is_the_same_block() {
    for variant in Variant::ALL {
        let bootstrap = client(variant)
            .listener(Listener::new("mtls", loopback(0), Action::respond("hello")).tls(Tls::new("default", "ROOTCA")));
        let root = parsed(&bootstrap.to_yaml().unwrap());
        let mut found = Vec::new();
        references(&root, &mut found);
        let file = parsed(&bootstrap.upstream_file("1", &bootstrap.upstreams).unwrap());
        if variant.is_aggregated() {
            references(&file, &mut found);
        }
        assert_eq!(found.len(), 4, "{variant}");
        let texts: Vec<_> = found.iter().map(|block| serde_json::to_string(block).unwrap()).collect();
        assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{variant}: {texts:#?}");
    }
}

#[test]
fn the_server_is_reached_before_anything_else_is_needed() {
    let root = client(Variant::AdsDelta).to_value();
    assert_eq!(root["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    let clusters = root["static_resources"]["clusters"].as_array().unwrap();
    let sds = clusters.iter().find(|cluster| cluster["name"] == "sds").unwrap();
    assert_eq!(sds["type"], "STATIC");
    assert_eq!(sds["circuit_breakers"]["thresholds"][0]["max_requests"], 65_536);
    assert!(client(Variant::Delta).to_value().get("dynamic_resources").is_none());
}

#[test]
fn fragments_are_the_same_text_as_the_whole() {
    for variant in Variant::ALL {
        let whole = client(variant).to_value();
        let cluster = parsed(&Bootstrap::cluster_fragment(&sds(variant)).unwrap());
        let clusters = whole["static_resources"]["clusters"].as_array().unwrap();
        assert_eq!(cluster["static_resources"]["clusters"][0], *clusters.last().unwrap());
        let ads = |root: &Value| root.get("dynamic_resources").map(|dynamic| dynamic["ads_config"].clone());
        assert_eq!(ads(&cluster), ads(&whole));
        let tls = Tls::new("default", "ALL").peer("spiffe://example.org/s");
        let secrets = parsed(&Bootstrap::secrets_fragment(&sds(variant), &tls).unwrap());
        let upstream = client(variant).upstreams[0].to_value(&sds(variant));
        let context = &upstream["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(secrets["common_tls_context"], *context);
    }
}

#[test]
fn a_listener_file_is_a_discovery_response() {
    let bootstrap = client(Variant::Sotw).listeners_from("/tmp/l.yaml");
    let source = &bootstrap.to_value()["dynamic_resources"]["lds_config"];
    assert_eq!(source["path_config_source"]["path"], "/tmp/l.yaml");
    let more = [Listener::new("late", loopback(0), Action::respond("late")).tls(Tls::new("default", "ALL"))];
    let file = parsed(&bootstrap.listener_file("2", &more).unwrap());
    assert_eq!(file["version_info"], "2");
    assert_eq!(file["resources"][0]["@type"], "type.googleapis.com/envoy.config.listener.v3.Listener");
    assert_eq!(file["resources"][0]["name"], "late");
    assert_eq!(parsed(&bootstrap.listener_file("3", &[]).unwrap())["resources"], json!([]));
}

#[test]
fn an_upstream_with_secrets_over_ads_is_never_static() {
    for variant in [Variant::AdsSotw, Variant::AdsDelta] {
        let mut bootstrap = client(variant);
        let root = bootstrap.to_value();
        assert_eq!(root["dynamic_resources"]["cds_config"]["path_config_source"]["path"], "/tmp/u.yaml");
        assert_eq!(root["static_resources"]["clusters"].as_array().unwrap().len(), 1);
        let file = parsed(&bootstrap.upstream_file("1", &bootstrap.upstreams).unwrap());
        assert_eq!(file["resources"][0]["@type"], "type.googleapis.com/envoy.config.cluster.v3.Cluster");
        bootstrap.upstreams_from = None;
        let error = bootstrap.to_yaml().unwrap_err().to_string();
        assert!(error.contains("\"up\" is static") && error.contains(variant.name()), "{error}");
        bootstrap.upstreams[0].tls = None;
        bootstrap.to_yaml().unwrap();
    }
}

#[test]
fn metadata_reaches_the_node() {
    let root = client(Variant::Sotw).metadata("disable_spiffe_cert_validation", true).to_value();
    assert_eq!(root["node"]["metadata"]["disable_spiffe_cert_validation"], true);
}

#[test]
fn what_envoy_would_refuse_is_refused_here() {
    let refused = |bootstrap: Bootstrap| bootstrap.to_yaml().unwrap_err().to_string();
    assert!(refused(Bootstrap::new("", "c", sds(Variant::Sotw))).contains("node id"));
    let long = Sds::new(Variant::Sotw, Address::Unix(format!("/{}", "x".repeat(107)).into()));
    assert!(refused(Bootstrap::new("a", "c", long)).contains("108 bytes"));
    let twice = client(Variant::Sotw).listener(Listener::new("plain", loopback(1), Action::respond("")));
    assert!(refused(twice).contains("two listeners are named \"plain\""));
    let taken = client(Variant::Sotw).upstream(Upstream::new("sds", loopback(1)));
    assert!(refused(taken).contains("two upstreams are named \"sds\""));
    let lost = client(Variant::Sotw).listener(Listener::new("b", loopback(1), Action::forward("nowhere")));
    assert!(refused(lost).contains("forwards to \"nowhere\""));
    let unnamed = client(Variant::Sotw)
        .listener(Listener::new("b", loopback(1), Action::respond("")).tls(Tls::new("default", "")));
    assert!(refused(unnamed).contains("listener \"b\" has an empty secret name"));
    assert!(refused(client(Variant::Sotw).listeners_from("/tmp/l.json")).contains(".yaml"));
}
