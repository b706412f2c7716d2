//! What an Envoy refuses, although it is formally right: everything else goes on, nothing is pushed again, and new
//! content mends it.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use spiffe_sds::{
    dev::RawMessage,
    envoy::{Action, Listener, Tls},
    server::StreamEvent,
};

use crate::support::{
    mesh::{BOUND, CLIENT, Mesh, Plan, SERVER, everywhere, id, loopback, td},
    tls,
};

#[test]
fn a_rejected_certificate_is_not_pushed_again_and_new_content_mends_it() {
    everywhere(rejected_content);
}

#[test]
fn a_secret_of_the_wrong_kind_hurts_its_listener_alone() {
    everywhere(wrong_kind);
}

async fn rejected_content(plan: Plan) {
    let mesh = plan.serving().await;
    let load = mesh.load();
    let good = mesh.serial(SERVER);

    let bad = must_staple(&mesh);
    mesh.issuer.send_raw(bad.clone());
    let (name, version, detail) = wait_nack(&mesh).await;
    assert_eq!(name, "default", "{}", mesh.label());
    assert!(detail.contains("must-staple"), "{}: {detail}", mesh.label());

    // The client's certificate goes on changing; the rejected one is not said again with it.
    for _ in 0..3 {
        let renewed = mesh.issuer.forge(&id(CLIENT), &td("example.org")).unwrap();
        mesh.issuer.send_raw(bad.clone().replaced(1, &renewed));
        mesh.eventually("the client's new leaf", async || {
            let found = mesh.client.admin().cert_serials().await.map_err(|error| error.to_string())?;
            if found.contains(&renewed.serial) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    let deliveries = mesh.program().deliveries();
    let times = deliveries.iter().filter(|sent| sent.node == "server" && sent.version == version).count();
    assert_eq!(times, 1, "{}: {deliveries:#?}", mesh.label());
    let admin = mesh.server.admin();
    assert_eq!(admin.stat("sds.default.update_rejected").await.unwrap(), Some(1), "{}", mesh.label());
    assert!(admin.cert_serials().await.unwrap().contains(&good), "{}: the good one serves", mesh.label());

    mesh.issuer.rotate().unwrap();
    mesh.wait_leaves().await;
    mesh.wait_authorities().await;
    assert_eq!(nacks(&mesh).len(), 1, "{}", mesh.label());
    mesh.expect_no_failure(load).await;
}

/// A listener that takes a validation context for a certificate. (It must not be the one that another listener validates
/// with: over ADS, Envoy then ends its round of that resource's users at the first who objects, and the other misses
/// every update.)
async fn wrong_kind(plan: Plan) {
    let good = plan.mtls();
    let mesh = plan.serving().await;
    let load = mesh.load();

    let wrong = Listener::new("wrong", loopback(), Action::respond("never")).tls(Tls::new("ROOTCA", "ALL"));
    mesh.server.replace_listeners("1", &[good.clone(), wrong.clone()]).unwrap();
    let added = |count| count == 2;
    mesh.server.admin().wait_stat("listener_manager.listener_added", added, BOUND).await.unwrap();
    for _ in 0..2 {
        mesh.roll_at_once();
        mesh.wait_leaves().await;
        mesh.wait_authorities().await;
    }
    let (name, _, detail) = wait_nack(&mesh).await;
    assert_eq!(name, "ROOTCA", "{}: {detail}", mesh.label());

    // The same listener with the right secrets serves at once.
    let mended = wrong.tls(mesh.plan.server_tls.clone());
    mesh.server.replace_listeners("2", &[good, mended]).unwrap();
    let present = mesh.issuer.svid(&id(CLIENT)).unwrap();
    mesh.eventually("an answer from the mended listener", async || {
        let listeners = mesh.server.admin().listeners().await.map_err(|error| error.to_string())?;
        tls::request(*listeners.get("wrong").ok_or("no listener")?, &present).await
    })
    .await;
    mesh.expect_no_failure(load).await;
}

/// The present message with a server certificate that demands stapled OCSP responses (RFC 7633): right by every rule
/// of X.509-SVID, and refused by an Envoy server that has none to staple.
fn must_staple(mesh: &Mesh) -> RawMessage {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into().unwrap())];
    let root_key = KeyPair::generate().unwrap();
    let root_certificate = root.self_signed(&root_key).unwrap();

    let mut leaf = CertificateParams::default();
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names = vec![SanType::URI(SERVER.try_into().unwrap())];
    let status_request = vec![0x30, 0x03, 0x02, 0x01, 0x05];
    leaf.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], status_request)];
    let leaf_key = KeyPair::generate().unwrap();
    let leaf_certificate = leaf.signed_by(&leaf_key, &Issuer::from_params(&root, &root_key)).unwrap();

    mesh.issuer.message().tamper(|message| {
        for svid in &mut message.svids {
            svid.bundle = [&svid.bundle[..], root_certificate.der()].concat().into();
        }
        message.svids[0].x509_svid = leaf_certificate.der().to_vec().into();
        message.svids[0].x509_svid_key = leaf_key.serialize_der().into();
    })
}

async fn wait_nack(mesh: &Mesh) -> (String, String, String) {
    mesh.eventually("a rejection", async || nacks(mesh).first().cloned().ok_or_else(|| "none".to_owned())).await
}

/// Name, version and the server Envoy's words.
fn nacks(mesh: &Mesh) -> Vec<(String, String, String)> {
    let events = mesh.program().stream_events().into_iter();
    let nacked = events.filter_map(|event| match event {
        StreamEvent::Nacked { client, name, version, detail } => {
            assert_eq!(client.node, "server", "{name}: {detail}");
            Some((name.to_string(), version.to_string(), detail))
        }
        _ => None,
    });
    nacked.collect()
}
