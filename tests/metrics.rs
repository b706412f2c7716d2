//! The metrics, their document, the alert rules and the dashboard agree with each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "metrics/promql.rs"]
mod promql;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe_sds::{
    identity::{
        Availability, Certificate, CertificateChain, IdentitySnapshot, JwtSnapshot, PrivateKey, SpiffeId, Svid,
        TrustBundle, TrustDomain, Validity, Withdrawn,
    },
    lifecycle::Readiness,
    source::RenewalEvent,
    telemetry::metrics::{
        ConnectionMetrics, HttpMetrics, Mismatch, MissedEvents, Outcomes, Parts, PeerClass, RolloutMetrics,
        SourceMetrics, StreamMetrics, Suppressed,
    },
    xds::{Service, Variant},
};
use tokio::sync::watch;

/// What is known of a metric family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Everything once, so that every series is there.
fn everything() -> String {
    let streams = StreamMetrics::default();
    for (service, variant, peer) in
        [(Service::Secrets, Variant::Sotw, PeerClass::Unix), (Service::Aggregated, Variant::Delta, PeerClass::Tcp)]
    {
        let mut meter = streams.open(service, variant, peer);
        meter.request();
        meter.mismatch(Mismatch::Stale);
        meter.response(100);
        meter.pushed(Duration::from_millis(1), true);
        meter.suppressed(Suppressed::Resumed);
        meter.acked(Duration::from_millis(1));
        meter.nacked();
        meter.waiting(2);
        meter.ended("ok");
        streams.refused(peer);
        drop(streams.connect(peer));
    }
    streams.fetched("grpc", "ok");
    let rollout = RolloutMetrics::default();
    let source = SourceMetrics::new(&["transient"], &RenewalEvent::NAMES);
    source.active(&Arc::from("unix:///agent.sock"));
    source.refused([("svid", 0)]);
    let readiness = Readiness::default();
    let _latches = (readiness.latch("identity", "not yet"), readiness.optional("tokens"));
    let outcomes = |metrics: Outcomes| {
        metrics.begin("it", &["failed"]);
        metrics
    };
    let (http, missed) = (HttpMetrics::default(), MissedEvents::default());
    http.begin("admin");
    let connections = ConnectionMetrics::default();
    connections.begin("admin");
    missed.begin("page");
    let parts = Parts {
        streams,
        rollout,
        source,
        identities: watch::channel(Availability::Ready(Arc::new(snapshot()))).1,
        tokens: watch::channel(Arc::new(JwtSnapshot::default())).1,
        withdrawn: Box::new(|| vec![(withdrawn(), 1)]),
        readiness,
        callbacks: outcomes(Outcomes::by("hook")),
        outputs: outcomes(Outcomes::by("directory")),
        reloads: outcomes(Outcomes::of_one()),
        http,
        connections,
        missed,
        logs: None,
        queues: vec![("stream", Box::new(|| 0))],
    };
    parts.exposition().render().unwrap()
}

/// An identity that went.
fn withdrawn() -> Withdrawn {
    let svid = snapshot().svids[0].clone();
    Withdrawn {
        id: SpiffeId::new("spiffe://example.org/gone").unwrap(),
        hint: None,
        chain: svid.chain.clone(),
        serial: "1".into(),
        validity: svid.validity,
        since: svid.validity.not_before,
        in_service: false,
    }
}

/// An SVID and a trust domain whose authority can be parsed.
fn snapshot() -> IdentitySnapshot {
    let der = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.der().to_vec();
    let certificate = Certificate::from_der(&der);
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let svid = Svid {
        id: SpiffeId::new("spiffe://example.org/w").unwrap(),
        chain: CertificateChain::new(certificate.clone(), Vec::new()),
        key: PrivateKey::from_pkcs8_der(zeroize::Zeroizing::new(vec![0])),
        hint: None,
        validity: Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::now() },
    };
    let bundle = TrustBundle::new(trust_domain.clone(), vec![certificate]);
    IdentitySnapshot {
        // Two of one ID would be two samples of one series, which no scraper takes.
        svids: vec![Arc::new(svid.clone()), Arc::new(svid)],
        bundles: [(trust_domain.clone(), Arc::new(bundle))].into(),
        trust_domain: Some(trust_domain),
        crls: Vec::new(),
        refusals: Vec::new(),
    }
}

/// The families of an exposition, each with the labels of its samples.
fn exposed(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            last = name.to_owned();
            let new = families.insert(last.clone(), Family { kind: kind.to_owned(), labels: BTreeSet::new() });
            assert!(new.is_none(), "{name} is registered twice");
        } else if !line.starts_with('#') {
            assert!(line.starts_with(&last), "{line} is not of {last}");
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
            let keys = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            families.get_mut(&last).unwrap().labels.extend(keys.filter(|key| key != "le"));
        }
    }
    families
}

/// The families of the table in `docs/metrics.md`.
pub(crate) fn documented() -> BTreeMap<String, Family> {
    let mut families = BTreeMap::new();
    let text = read("docs/metrics.md");
    let (_, table) = text.split_once("## All metrics").unwrap();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let family = Family { kind: cells[2].to_owned(), labels };
        assert!(families.insert(cells[1].trim_matches('`').to_owned(), family).is_none(), "{line}");
    }
    families
}

#[test]
fn the_document_lists_what_there_is() {
    let (exposed, documented) = (exposed(&everything()), documented());
    assert!(exposed.len() > 35, "the search for metrics is broken: {exposed:?}");
    for (name, family) in &exposed {
        assert_eq!(documented.get(name), Some(family), "{name} in docs/metrics.md");
    }
    let gone: Vec<_> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(gone.is_empty(), "docs/metrics.md lists what there is not: {gone:?}");
}

#[test]
fn names_follow_the_conventions() {
    let text = everything();
    for (name, family) in exposed(&text) {
        assert!(name.starts_with("spiffe_sds_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_' || c.is_ascii_digit()), "{name}");
        assert!(
            !name.ends_with("_total") && !name.ends_with("_count"),
            "{name} has a suffix that is added by the type"
        );
        assert!(family.kind != "histogram" || name.ends_with("_seconds"), "{name} does not name its unit");
    }
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(series.insert(line.rsplit_once(' ').unwrap().0), "two samples of one series: {line}");
    }
}

#[test]
fn the_document_names_every_label() {
    let text = read("docs/metrics.md");
    let (labels, _) = text.split_once("## Labels").unwrap().1.split_once("## All metrics").unwrap();
    let explained: BTreeSet<_> = labels.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).collect();
    let explained: BTreeSet<_> = explained.into_iter().map(|(label, _)| label.to_owned()).collect();
    let used: BTreeSet<_> = documented().into_values().flat_map(|family| family.labels).collect();
    assert_eq!(used.difference(&explained).collect::<Vec<_>>(), ["version"], "only this one explains itself");
    assert_eq!(explained.difference(&used).next(), None);
}

#[test]
fn alert_rules_name_what_there_is() {
    let rules: serde_json::Value = serde_saphyr::from_str(&read("deploy/prometheus/spiffe-sds.rules.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules: Vec<_> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let mut names = BTreeSet::new();
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name} twice");
        let labels = promql::check(rule["expr"].as_str().unwrap()).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{name}: {severity:?}");
        if let Some(wait) = rule.get("for") {
            humantime::parse_duration(wait.as_str().unwrap()).unwrap();
        }
        for key in ["summary", "description"] {
            let text = rule["annotations"][key].as_str().unwrap_or_else(|| panic!("{name} has no {key}"));
            for used in text.split("$labels.").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                assert!(labels.contains(&used), "{name}: its result has no label {used}, only {labels:?}");
            }
        }
    }
    // What fires them stands in the tests that `promtool` runs.
    let tests: serde_json::Value =
        serde_saphyr::from_str(&read("deploy/prometheus/spiffe-sds.rules.test.yaml")).unwrap();
    let tests = tests["tests"].as_array().unwrap().iter();
    let fired = tests.flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let fired: BTreeSet<_> = fired
        .filter(|case| !case["exp_alerts"].as_array().unwrap().is_empty())
        .map(|case| case["alertname"].as_str().unwrap())
        .collect();
    assert_eq!(fired, names, "each alert has a test in which it fires");
}

#[test]
fn the_dashboard_shows_what_there_is_in_its_unit() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana/spiffe-sds.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places, mut shown) = (BTreeSet::new(), BTreeSet::new(), 0);
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        let place = &panel["gridPos"];
        let (x, y) = (place["x"].as_u64().unwrap(), place["y"].as_u64().unwrap());
        assert!(places.insert((x, y)) && x + place["w"].as_u64().unwrap() <= 24, "{title} lies badly");
        let Some(targets) = panel["targets"].as_array() else { continue };
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let labels = promql::check(expression).unwrap_or_else(|fault| panic!("{title}: {fault}"));
            for used in target["legendFormat"].as_str().unwrap().split("{{").skip(1) {
                let used = used.split_once("}}").unwrap().0;
                assert!(labels.contains(used), "{title}: its result has no label {used}, only {labels:?}");
            }
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap();
            assert_eq!(unit, promql::unit(expression), "{title}");
            shown += 1;
        }
    }
    assert!(shown > 20, "only {shown} queries");
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        promql::check(annotation["expr"].as_str().unwrap()).unwrap();
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let inner = query.strip_prefix("label_values(").unwrap().rsplit_once(',').unwrap().0;
            promql::check(inner).unwrap();
        }
    }
}

#[test]
fn a_wrong_query_is_noticed() {
    for (query, fault) in [
        ("spiffe_sds_nothing", "no metric spiffe_sds_nothing"),
        ("rate(spiffe_sds_nacks[5m])", "no metric spiffe_sds_nacks"),
        ("rate(spiffe_sds_nacks_total{node=\"a\"}[5m])", "no label node"),
        ("sum by (kind) (spiffe_sds_streams)", "no label kind"),
        ("rate(spiffe_sds_streams[5m])", "is a gauge"),
        ("spiffe_sds_streams{", ""),
        ("histogram_quantile(0.9, sum by (service) (rate(spiffe_sds_push_to_ack_seconds_bucket[5m])))", "needs le"),
    ] {
        let found = promql::check(query).expect_err(query);
        assert!(found.contains(fault), "{query}: {found}");
    }
    let labels = promql::check("sum by (code) (rate(spiffe_sds_streams_closed_total[5m]))").unwrap();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["code"]);
}
