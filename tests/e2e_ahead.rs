//! Renewals whose life begins a moment later, as issuers with a fast clock send them: real Envoys, each request a full handshake.
#![cfg(feature = "dev-issuer")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy.toml allows them in test functions, not in theirs"
)]

mod support;

use std::time::{Duration, SystemTime};

use spiffe_sds::{dev::Template, envoy::Variant};
use support::{
    envoy::latest,
    mesh::{CLIENT, Mesh, Plan, SERVER, each, id, td},
};

const RENEWALS: usize = 5;

#[test]
fn no_request_meets_a_certificate_before_its_time() {
    each(&latest(), &[Variant::Sotw, Variant::AdsDelta], async |plan: Plan| renew_ahead(&plan.serving().await).await);
}

async fn renew_ahead(mesh: &Mesh) {
    let load = mesh.load();
    for _ in 0..RENEWALS {
        let mut serials = Vec::new();
        let mut message = mesh.issuer.message();
        for (index, name) in [SERVER, CLIENT].into_iter().enumerate() {
            let mut template = Template::leaf(id(name), SystemTime::now(), Duration::from_secs(3600));
            template.validity.not_before += Duration::from_secs(13);
            let issued = mesh.issuer.sign(&template, &td("example.org")).unwrap();
            message = message.replaced(index, &issued);
            serials.push(issued.serial);
        }
        mesh.issuer.send_raw(message);
        for (envoy, serial) in [(&mesh.server, &serials[0]), (&mesh.client, &serials[1])] {
            mesh.eventually("the renewal", async || {
                let found = envoy.admin().cert_serials().await.map_err(|error| error.to_string())?;
                if found.contains(serial) { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        }
    }
    mesh.expect_no_failure(load).await;
}
