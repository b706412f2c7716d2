//! Two trust domains: each vouches for its own members and for nobody else.

use std::time::{Duration, SystemTime};

use spiffe_sds::{
    dev::{CaStep, Issued, Template},
    envoy::Tls,
};

use crate::support::{
    mesh::{CLIENT, Mesh, Plan, everywhere, id, td},
    tls,
};

const FRIEND: &str = "spiffe://other.org/client";
const STRANGER: &str = "spiffe://zzz.org/client";

#[test]
fn each_trust_domain_vouches_for_itself_alone() {
    everywhere(federation);
}

async fn federation(mut plan: Plan) {
    plan.federated.push(td("other.org"));
    // Whoever validates is welcome, so that it is the validation context that decides.
    plan.server_tls = Tls::new("default", "ALL").no_resumption();
    let mesh = plan.serving().await;
    let load = mesh.load();

    let friend = signed(&mesh, FRIEND, "other.org");
    accepted(&mesh, &friend).await;
    accepted(&mesh, &signed(&mesh, CLIENT, "example.org")).await;
    refused(&mesh, &signed(&mesh, CLIENT, "other.org")).await;
    refused(&mesh, &signed(&mesh, FRIEND, "example.org")).await;
    refused(&mesh, &signed(&mesh, STRANGER, "example.org")).await;
    refused(&mesh, &signed(&mesh, STRANGER, "other.org")).await;

    // Its CA rolls over: its members follow, and the retired root vouches for nobody.
    for step in [CaStep::Prepare, CaStep::Activate, CaStep::Retire] {
        mesh.issuer.ca_step(&td("other.org"), step).unwrap();
    }
    let renewed = signed(&mesh, FRIEND, "other.org");
    becomes(&mesh, &renewed, true).await;
    becomes(&mesh, &friend, false).await;

    // It is a stranger now. Nothing else is lost, and who is not trusted is not trusted again by the next change.
    mesh.issuer.defederate(&td("other.org")).unwrap();
    becomes(&mesh, &renewed, false).await;
    mesh.roll_at_once();
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;
    refused(&mesh, &renewed).await;
    accepted(&mesh, &signed(&mesh, CLIENT, "example.org")).await;

    // A friend again, with another CA.
    mesh.issuer.federate(&td("other.org")).unwrap();
    becomes(&mesh, &signed(&mesh, FRIEND, "other.org"), true).await;
    refused(&mesh, &renewed).await;
    mesh.expect_no_failure(load).await;
}

/// A correct leaf but for who signs it.
fn signed(mesh: &Mesh, spiffe_id: &str, by: &str) -> Issued {
    let template = Template::leaf(id(spiffe_id), SystemTime::now(), Duration::from_secs(3600));
    mesh.issuer.sign(&template, &td(by)).unwrap()
}

async fn accepted(mesh: &Mesh, present: &Issued) {
    let answer = tls::request(mesh.mtls, present).await;
    assert!(answer.is_ok(), "{}: {} is refused: {answer:?}", mesh.label(), present.svid.id);
}

async fn refused(mesh: &Mesh, present: &Issued) {
    let answer = tls::request(mesh.mtls, present).await;
    let alert = answer.as_ref().is_err_and(|error| error.contains("alert"));
    assert!(alert, "{}: {} is not refused: {answer:?}", mesh.label(), present.svid.id);
}

/// Waits until a peer is accepted, or refused.
async fn becomes(mesh: &Mesh, present: &Issued, welcome: bool) {
    mesh.eventually(&format!("{} welcome: {welcome}", present.svid.id), async || {
        let answer = tls::request(mesh.mtls, present).await;
        if answer.is_ok() == welcome { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}
