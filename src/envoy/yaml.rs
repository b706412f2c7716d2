//! Configuration for people: YAML with each setting explained where it first appears.

use serde_json::Value;

/// Why a line is there, above the first line that starts so.
const NOTES: &[(&str, &str)] = &[
    ("node:", "Envoy refuses SDS without a node id and cluster."),
    ("admin:", "The admin interface has no authentication: keep it on loopback."),
    ("ads_config:", "One aggregated stream carries every secret of this Envoy."),
    (
        "cds_config:",
        "Clusters from a file, because Envoy crashes on a static one that takes secrets over ADS (envoy#15517).",
    ),
    ("validate_clusters:", "The cluster arrives after the listener."),
    ("lds_config:", "Listeners come from a file. Replace it with a rename: Envoy watches for that, not for writes."),
    (
        "set_node_on_first_message_only:",
        "The node description is 61 KB; without this Envoy repeats it in every answer.",
    ),
    ("authority:", "Not the cluster's name, which need not be a legal HTTP authority."),
    (
        "retry_back_off:",
        "How soon a lost stream is opened again; Envoy's default is 0.5 s to 30 s, each stream for itself.",
    ),
    ("require_client_certificate:", "mTLS: a client without a certificate is refused."),
    ("disable_stateless_session_resumption:", "Every handshake is a full one, with the current certificate."),
    ("max_session_keys:", "Every handshake is a full one, with the current certificate."),
    ("subjects:", "The keys below vouch for this trust domain only; Envoy itself knows nothing of trust domains."),
    ("cache_duration:", "A key has to be published this long before the first token is signed with it."),
    ("async_fetch:", "Fetched in the background: no request ever waits for keys."),
    ("- name: bundles", "The bundle endpoint of spiffe-sds: public keys over plain HTTP."),
    ("tls_params:", "An Envoy client stops at TLS 1.2 unless told otherwise."),
    ("tls_certificate_sds_secret_configs:", "Who we are: an X.509-SVID with its key."),
    (
        "combined_validation_context:",
        "Whom we trust comes over SDS, whom we talk to stands here. Matchers of both places are ORed.",
    ),
    ("validation_context_sds_secret_config:", "Whom we trust: the bundles, each for its own trust domain only."),
    ("overwrite:", "Otherwise a header that the client wrote itself would survive."),
    ("header_value_prefix:", "Since Envoy 1.37. For an older one use the name jwt-bearer:..., which has it already."),
    ("max_requests_per_connection:", "A new connection, hence a new handshake, for each request."),
    ("- name: sds", "spiffe-sds. STATIC, so that it is there before anything that needs a secret."),
    ("connection_keepalive:", "Without PINGs Envoy never notices a server that hangs. gRPC needs HTTP/2 spelled out."),
    ("circuit_breakers:", "Plain SDS is one request a secret; the default ceiling is 1024."),
    ("sds_config:", "The same block at every reference: Envoy opens another stream for one that differs."),
    ("initial_fetch_timeout:", "After this the port opens even without the secret; 0s waits for ever."),
];

/// The block that [`share`] writes once.
const SHARED: &str = "sds_config:";

/// `value` as YAML, with notes, and with repeated `sds_config` blocks as one anchor and its aliases.
pub(super) fn render(value: &Value) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let plain = serde_saphyr::to_string_with_options(value, options)?;
    Ok(annotate(&share(&plain)))
}

/// Puts each note above the first line it is about.
fn annotate(yaml: &str) -> String {
    let mut due: Vec<_> = NOTES.to_vec();
    let mut out = String::with_capacity(yaml.len() + 4096);
    for line in yaml.lines() {
        let (indent, text) = split(line);
        let starts = |key: &str| text.strip_prefix("- ").unwrap_or(text).starts_with(key) || text == key;
        if let Some(position) = due.iter().position(|(key, _)| starts(key)) {
            let (_, note) = due.remove(position);
            out.push_str(&format!("{:indent$}# {note}\n", ""));
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Anchors the first `sds_config` block and replaces its repetitions by aliases, so that the reader sees, and an
/// editor keeps, that they are one.
fn share(yaml: &str) -> String {
    let lines: Vec<_> = yaml.lines().collect();
    let mut first: Option<Vec<&str>> = None;
    let mut out = String::with_capacity(yaml.len());
    let mut rest = lines.as_slice();
    while let Some((line, after)) = rest.split_first() {
        let (indent, text) = split(line);
        rest = after;
        let inner = after.iter().take_while(|line| split(line).0 > indent).count();
        let (block, beyond) = after.split_at(inner);
        let mut ending = "";
        if text == SHARED && inner > 0 {
            let block: Vec<_> = block.iter().map(|line| line.get(indent..).unwrap_or_default()).collect();
            match &first {
                None => (ending, first) = (" &sds", Some(block)),
                Some(shared) if *shared == block => (ending, rest) = (" *sds", beyond),
                Some(_) => {}
            }
        }
        out.push_str(line);
        out.push_str(ending);
        out.push('\n');
    }
    // An anchor that nothing refers to is noise.
    if out.contains(" *sds") { out } else { out.replace(" &sds", "") }
}

/// The number of leading spaces, and what follows.
fn split(line: &str) -> (usize, &str) {
    let text = line.trim_start_matches(' ');
    (line.len() - text.len(), text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn repeated_blocks_become_aliases_of_the_first() {
        let block = json!({ "ads": {}, "resource_api_version": "V3" });
        let value = json!({ "a": { "sds_config": block, "after": 1 }, "b": [{ "name": "x", "sds_config": block }] });
        let yaml = share(&serde_saphyr::to_string(&value).unwrap());
        assert_eq!(yaml.matches("resource_api_version").count(), 1, "{yaml}");
        assert_eq!(yaml.matches("sds_config: &sds").count(), 1, "{yaml}");
        assert_eq!(yaml.matches("sds_config: *sds").count(), 1, "{yaml}");
        let back: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(back, value, "{yaml}");
    }

    #[test]
    fn differing_blocks_stay_apart_and_a_single_one_has_no_anchor() {
        let value = json!({ "a": { "sds_config": { "x": 1 } }, "b": { "sds_config": { "x": 2 } } });
        let yaml = share(&serde_saphyr::to_string(&value).unwrap());
        assert!(!yaml.contains('&') && !yaml.contains('*'), "{yaml}");
    }

    #[test]
    fn each_note_appears_once_and_changes_nothing() {
        let value = json!({ "authority": "localhost", "x": [{ "authority": "localhost" }] });
        let yaml = render(&value).unwrap();
        assert_eq!(yaml.matches('#').count(), 1, "{yaml}");
        assert!(yaml.starts_with("# Not the cluster's name"), "{yaml}");
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), value);
    }

    #[test]
    fn text_that_looks_like_another_type_stays_text() {
        let value = json!({ "a": "0s", "b": "no", "c": "1.5", "d": "x: y # z", "e": "two\nlines", "f": "*" });
        assert_eq!(serde_saphyr::from_str::<Value>(&render(&value).unwrap()).unwrap(), value);
    }
}
