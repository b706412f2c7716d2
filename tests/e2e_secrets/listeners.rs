//! Listeners that come and go while Envoy runs: what is not wanted any more is not sent, what is wanted again is.

use std::time::Duration;

use spiffe_sds::envoy::{Action, Listener, Variant};

use crate::support::{
    mesh::{BOUND, CLIENT, Mesh, Plan, everywhere, id, loopback},
    tls,
};

#[test]
fn listeners_go_and_come_back() {
    everywhere(life);
}

async fn life(plan: Plan) {
    let variant = plan.variant;
    let good = plan.mtls();
    let mesh = plan.serving().await;

    // An Envoy whose last listener goes says so with an empty list of names: it wants nothing, not everything.
    mesh.replace_listeners(&[]);
    mesh.server.wait_no_listener("mtls", BOUND).await.unwrap_or_else(|error| panic!("{error}"));
    mesh.eventually("an envoy without secrets", async || {
        let held =
            mesh.server.admin().config_dump("dynamic_active_secrets").await.map_err(|error| error.to_string())?;
        if held.is_empty() { Ok(()) } else { Err(format!("{} secrets", held.len())) }
    })
    .await;
    // Its last word may be on the way.
    mesh.eventually("silence towards the server envoy", async || {
        let before = sent_to_server(&mesh);
        for _ in 0..2 {
            mesh.issuer.rotate().unwrap();
            mesh.wait_client_leaf().await;
        }
        let sent = sent_to_server(&mesh).split_off(before.len());
        if sent.is_empty() { Ok(()) } else { Err(format!("{sent:?}")) }
    })
    .await;
    let before = sent_to_server(&mesh);
    mesh.roll_at_once();
    mesh.wait_client_leaf().await;
    assert_eq!(sent_to_server(&mesh), before, "{}", mesh.label());

    // Wanted again, and answered with what is right now.
    mesh.replace_listeners(&[(mesh.server.bootstrap(), &good)]);
    serves(&mesh, "mtls").await;

    // A second user of the same secrets shares what the first one has.
    let before = sent_to_server(&mesh);
    let second = named(&good, "second");
    mesh.replace_listeners(&[(mesh.server.bootstrap(), &good), (mesh.server.bootstrap(), &second)]);
    serves(&mesh, "second").await;
    assert_eq!(sent_to_server(&mesh), before, "{}", mesh.label());

    // A user with other settings is a new subscriber to Envoy, and over ADS one that hears nothing of what came before
    // (envoy#47309). SotW sends a request that says nothing new, and is answered; delta sends nothing, so that only the
    // next change helps.
    let mut other = mesh.server.bootstrap().clone();
    other.sds = other.sds.initial_fetch_timeout(Duration::from_secs(90));
    let third = named(&good, "third");
    let bootstrap = mesh.server.bootstrap();
    mesh.replace_listeners(&[(bootstrap, &good), (bootstrap, &second), (&other, &third)]);
    if variant == Variant::AdsDelta {
        let warming = |count| count == 1;
        let admin = mesh.server.admin();
        admin.wait_stat("listener_manager.total_listeners_warming", warming, BOUND).await.unwrap();
        mesh.roll_at_once();
    }
    serves(&mesh, "third").await;
    for name in ["mtls", "second"] {
        serves(&mesh, name).await;
    }
}

/// Waits until a listener of the server Envoy answers, with the leaf of now.
async fn serves(mesh: &Mesh, name: &str) {
    let port = mesh.server.wait_listener(name, BOUND).await.unwrap_or_else(|error| panic!("{}: {error}", mesh.label()));
    mesh.eventually(&format!("an answer of listener {name}"), async || {
        let present = mesh.issuer.svid(&id(CLIENT)).unwrap();
        let serial = tls::request(port, &present).await?;
        let wanted = mesh.serial(crate::support::mesh::SERVER);
        if serial == wanted { Ok(()) } else { Err(format!("{serial}, not {wanted}")) }
    })
    .await;
}

fn named(listener: &Listener, name: &str) -> Listener {
    let mut named = Listener::new(name, loopback(), Action::respond(name));
    named.tls.clone_from(&listener.tls);
    named
}

fn sent_to_server(mesh: &Mesh) -> Vec<String> {
    let sent = mesh.program().deliveries().into_iter().filter(|sent| sent.node == "server");
    sent.map(|sent| format!("{} @ {}", sent.name, sent.version)).collect()
}
