//! Names that mean nothing, names that mean nothing yet, and names that Envoy can make statistics of.

use std::time::Duration;

use spiffe_sds::{
    envoy::{Action, Listener, Tls, Variant},
    secret::dot_free,
};

use crate::support::{
    envoy::latest,
    mesh::{BOUND, CLIENT, Plan, SERVER, each, everywhere, id, loopback},
    tls,
};

const LATE: &str = "spiffe://example.org/late";

#[test]
fn unknown_names_do_not_hurt_known_ones() {
    everywhere(unknown_beside_known);
}

#[test]
fn a_name_may_get_its_meaning_later() {
    everywhere(unknown_yet);
}

#[test]
fn dot_free_names_make_proper_metrics() {
    // The oldest has no label for the name.
    each(&latest(), &Variant::ALL, metrics);
}

async fn unknown_beside_known(mut plan: Plan) {
    let variant = plan.variant;
    plan.more = vec![Listener::new("unknown", loopback(), Action::respond("")).tls(Tls::new("no-such-name", "ALL"))];
    // An Envoy opens no port before it knows of all its secrets or has lost patience. SotW cannot say that a name
    // means nothing; delta does, and its Envoy opens long before.
    if !variant.is_delta() {
        plan.patience = Duration::from_secs(3);
    }
    let mesh = plan.serving().await;
    let admin = mesh.server.admin();
    let lost_patience = admin.stat("sds.no-such-name.init_fetch_timeout").await.unwrap();
    assert_eq!(lost_patience, Some(u64::from(!variant.is_delta())), "{}", mesh.label());
    let load = mesh.load();
    mesh.issuer.rotate().unwrap();
    mesh.wait_leaves().await;
    mesh.roll_at_once();
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;

    mesh.expect_no_failure(load).await;
}

/// A name that could be registered at any moment: its listener waits, and opens when it is.
async fn unknown_yet(plan: Plan) {
    let good = plan.mtls();
    let mesh = plan.serving().await;
    let admin = mesh.server.admin();
    let load = mesh.load();
    let late = Listener::new("late", loopback(), Action::respond("late")).tls(Tls::new(LATE, "ALL"));
    mesh.server.replace_listeners("1", &[good, late]).unwrap();
    admin.wait_stat("listener_manager.total_listeners_warming", |count| count == 1, BOUND).await.unwrap();
    mesh.issuer.rotate().unwrap();
    mesh.wait_leaves().await;
    assert_eq!(admin.stat("listener_manager.total_listeners_warming").await.unwrap(), Some(1), "{}", mesh.label());
    mesh.issuer.issue(&id(LATE), None).unwrap();
    let port = mesh.server.wait_listener("late", BOUND).await.unwrap_or_else(|error| panic!("{error}"));
    let present = mesh.issuer.svid(&id(CLIENT)).unwrap();
    let serial = mesh.eventually("the late listener's answer", async || tls::request(port, &present).await).await;
    assert_eq!(serial, mesh.serial(LATE), "{}", mesh.label());
    mesh.expect_no_failure(load).await;
}

/// Envoy cuts names at dots when it makes metrics of statistics (envoy#42211).
async fn metrics(mut plan: Plan) {
    let (svid, bundle) = (dot_free(SERVER).unwrap(), dot_free("spiffe://example.org").unwrap());
    plan.server_tls = Tls::new(&svid, &bundle).peer(CLIENT).no_resumption();
    let mesh = plan.serving().await;
    mesh.issuer.rotate().unwrap();
    mesh.wait_leaves().await;
    let page = mesh.server.admin().get("/stats/prometheus?filter=update_success").await.unwrap();
    let page = String::from_utf8_lossy(&page);
    let metrics: Vec<_> = page.lines().filter(|line| line.starts_with("envoy_sds_")).collect();
    for (name, updates) in [(&svid, 2), (&bundle, 1)] {
        let label =
            format!("envoy_sds_update_success{{envoy_xds_resource_name=\"{}\"}} {updates}", name.replace("://", "_"));
        assert!(metrics.contains(&label.as_str()), "{}: no {label} in {metrics:#?}", mesh.label());
    }
}
