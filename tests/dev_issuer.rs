//! The development issuer over real sockets, seen by a plain gRPC client.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "dev_issuer/fixture.rs"]
mod fixture;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use fixture::{Fixture, bounded, certificates, channel, connect, id, ids, next, serial, td, with_header};
use spiffe_sds::{
    dev::{CaStep, Config, DevError, DevIssuer, Event, Rotation, Template},
    source::Endpoint,
    workload_api_proto::{JwtBundlesRequest, JwtsvidRequest, X509BundlesRequest, X509svidRequest},
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

#[tokio::test]
async fn the_security_header_is_required() {
    let mut fixture = Fixture::with(&["web"]).await;
    let mut wrong = Request::new(X509svidRequest {});
    wrong.metadata_mut().insert("workload.spiffe.io", "false".parse().unwrap());
    for request in [Request::new(X509svidRequest {}), wrong] {
        let refused = bounded(fixture.api.fetch_x509svid(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let refused = bounded(fixture.api.fetch_x509_bundles(X509BundlesRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let traffic = *fixture.issuer.traffic().borrow();
    assert_eq!((traffic.refused, traffic.streams), (3, 0));
    assert!(fixture.svids().await.is_ok());
}

#[tokio::test]
async fn what_an_agent_serves_beside_the_workload_api_is_there() {
    let fixture = Fixture::with(&["web"]).await;
    let channel = channel(fixture.issuer.endpoint()).await;
    for service in ["", "SpiffeWorkloadAPI"] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        let health = bounded(HealthClient::new(channel.clone()).check(asked)).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service:?}");
    }
    let message_request = Some(MessageRequest::FileContainingSymbol("SpiffeWorkloadAPI".to_owned()));
    let asked = ServerReflectionRequest { host: String::new(), message_request };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers =
        bounded(reflection.server_reflection_info(tokio_stream::iter([asked]))).await.unwrap().into_inner();
    let answer = bounded(answers.message()).await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
}

#[tokio::test]
async fn tokens_are_asked_for_by_spiffe_ids_and_keys_are_those_of_a_plain_jwk_set() {
    let mut fixture = Fixture::with(&["web"]).await;
    let ask = |spiffe_id: &str| {
        with_header(JwtsvidRequest { audience: vec!["x".to_owned()], spiffe_id: spiffe_id.to_owned() })
    };
    for malformed in
        ["garbage", "spiffe://", "spiffe://Example.org/web", "spiffe://example.org/we b", "https://example.org/web"]
    {
        let refused = bounded(fixture.api.fetch_jwtsvid(ask(malformed))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{malformed}: {refused}");
    }
    let unknown = bounded(fixture.api.fetch_jwtsvid(ask("spiffe://example.org/nobody"))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::PermissionDenied);
    bounded(fixture.api.fetch_jwtsvid(ask("spiffe://example.org/web"))).await.unwrap();

    let mut bundles =
        bounded(fixture.api.fetch_jwt_bundles(with_header(JwtBundlesRequest {}))).await.unwrap().into_inner();
    let message = next(&mut bundles).await.unwrap();
    let set: serde_json::Value = serde_json::from_slice(&message.bundles["spiffe://example.org"]).unwrap();
    assert!(set["keys"][0]["kid"].is_string() && set["keys"][0].get("use").is_none(), "{set}");
}

#[tokio::test]
async fn the_socket_has_the_mode_that_is_asked_for() {
    let mode = |fixture: &Fixture| {
        let Endpoint::Unix(path) = fixture.issuer.endpoint() else { panic!("a Unix socket was asked for") };
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&Fixture::with(&["web"]).await), 0o600);
    assert_eq!(mode(&Fixture::start(|config| config.socket_mode = 0o660).await), 0o660);
}

#[tokio::test]
async fn the_first_message_is_the_whole_state_in_order() {
    let mut fixture = Fixture::start(|config| {
        *config = config.clone().identity(id("web"), Some("public")).identity(id("db"), None);
        config.federated = vec![td("other.org")];
        config.intermediate = true;
    })
    .await;
    let first = next(&mut fixture.svids().await.unwrap()).await.unwrap();
    assert_eq!(ids(&first), [("spiffe://example.org/web", "public"), ("spiffe://example.org/db", "")]);
    for (index, issued) in fixture.issuer.svids().iter().enumerate() {
        assert_eq!(serial(&first, index), issued.serial);
        assert_eq!(first.svids[index].x509_svid_key, issued.svid.key.pkcs8_der());
        assert_eq!(certificates(&first.svids[index].x509_svid), 2);
        assert_eq!(certificates(&first.svids[index].bundle), 1);
    }
    assert_eq!(first.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://other.org"]);

    let bundles = next(&mut fixture.bundles().await.unwrap()).await.unwrap().bundles;
    assert_eq!(bundles["spiffe://example.org"], first.svids[0].bundle);
    assert_eq!(bundles["spiffe://other.org"], first.federated_bundles["spiffe://other.org"]);
}

#[tokio::test]
async fn every_change_is_pushed_to_open_streams() {
    let mut fixture = Fixture::with(&["a"]).await;
    let mut stream = fixture.svids().await.unwrap();
    let before = next(&mut stream).await.unwrap();

    fixture.issuer.rotate().unwrap();
    let rotated = next(&mut stream).await.unwrap();
    assert_ne!(serial(&rotated, 0), serial(&before, 0));
    assert_eq!(serial(&rotated, 0), fixture.issuer.svids()[0].serial);

    fixture.issuer.issue(&id("b"), Some("blue")).unwrap();
    let issued = next(&mut stream).await.unwrap();
    assert_eq!(ids(&issued), [("spiffe://example.org/a", ""), ("spiffe://example.org/b", "blue")]);
    fixture.issuer.set_order(&[id("b")]);
    assert_eq!(ids(&next(&mut stream).await.unwrap())[0], ("spiffe://example.org/b", "blue"));

    fixture.issuer.rotate_one(&id("a")).unwrap();
    let one = next(&mut stream).await.unwrap();
    assert_eq!((serial(&one, 0), serial(&one, 1)), (serial(&issued, 1), fixture.issuer.svids()[1].serial.clone()));

    fixture.issuer.federate(&td("other.org")).unwrap();
    assert_eq!(next(&mut stream).await.unwrap().federated_bundles.len(), 1);
    fixture.issuer.defederate(&td("other.org")).unwrap();
    assert!(next(&mut stream).await.unwrap().federated_bundles.is_empty());

    let last = fixture.issuer.message();
    fixture.issuer.resend();
    let again = next(&mut stream).await.unwrap();
    assert_eq!(*last.response(), again, "the same once more");
}

#[tokio::test]
async fn bundles_are_not_repeated_for_the_sake_of_leaves() {
    let mut fixture = Fixture::with(&["a"]).await;
    let mut bundles = fixture.bundles().await.unwrap();
    let before = next(&mut bundles).await.unwrap();
    fixture.issuer.rotate().unwrap();
    fixture.issuer.prepare_ca().unwrap();
    let after = next(&mut bundles).await.unwrap();
    assert_ne!(after, before, "the rotation must not have been said");
}

#[tokio::test]
async fn a_ca_rolls_over_in_three_steps() {
    let mut fixture = Fixture::with(&["a"]).await;
    let mut events = fixture.issuer.events();
    let mut stream = fixture.svids().await.unwrap();
    let first = next(&mut stream).await.unwrap();

    fixture.issuer.prepare_ca().unwrap();
    let prepared = next(&mut stream).await.unwrap();
    assert_eq!((certificates(&prepared.svids[0].bundle), serial(&prepared, 0)), (2, serial(&first, 0)));
    fixture.issuer.activate_ca().unwrap();
    let activated = next(&mut stream).await.unwrap();
    assert_eq!(activated.svids[0].bundle, prepared.svids[0].bundle);
    assert_ne!(serial(&activated, 0), serial(&first, 0));
    fixture.issuer.retire_ca().unwrap();
    let retired = next(&mut stream).await.unwrap();
    assert_eq!((certificates(&retired.svids[0].bundle), serial(&retired, 0)), (1, serial(&activated, 0)));
    assert_ne!(retired.svids[0].bundle, first.svids[0].bundle);

    let mut steps = Vec::new();
    while let Ok(event) = events.try_recv() {
        steps.extend(match event {
            Event::Ca { step, .. } => Some(step.to_string()),
            Event::Rotated { previous, serial: new, .. } => {
                assert_eq!((previous, new), (serial(&first, 0), serial(&activated, 0)));
                Some("rotated".to_owned())
            }
            _ => None,
        });
    }
    assert_eq!(steps, ["prepare", "activate", "rotated", "retire"]);
    assert!(fixture.issuer.ca_step(&td("unknown.org"), CaStep::Prepare).is_err());
}

#[tokio::test]
async fn without_an_identity_svids_are_denied_and_bundles_are_not() {
    let mut fixture = Fixture::with(&[]).await;
    let denied = fixture.svids().await.unwrap_err();
    assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "no identity issued"));
    assert!(fixture.bundles().await.is_ok());

    fixture.issuer.issue(&id("late"), None).unwrap();
    let mut stream = fixture.svids().await.unwrap();
    assert_eq!(ids(&next(&mut stream).await.unwrap()), [("spiffe://example.org/late", "")]);
    fixture.issuer.revoke(&id("late")).unwrap();
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn bundles_can_be_denied_too() {
    let mut fixture = Fixture::start(|config| config.bundles_need_identity = true).await;
    assert_eq!(fixture.bundles().await.unwrap_err().code(), Code::PermissionDenied);
    fixture.issuer.issue(&id("late"), None).unwrap();
    assert!(fixture.bundles().await.is_ok());
}

#[tokio::test]
async fn it_fails_with_any_status_and_recovers() {
    let mut fixture = Fixture::with(&["a"]).await;
    let mut stream = fixture.svids().await.unwrap();
    next(&mut stream).await.unwrap();
    fixture.issuer.fail_with(Status::resource_exhausted("too much"));
    let ended = next(&mut stream).await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::ResourceExhausted, "too much"));
    assert_eq!(fixture.svids().await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(fixture.bundles().await.unwrap_err().code(), Code::ResourceExhausted);
    fixture.issuer.recover();
    assert!(fixture.svids().await.is_ok());
}

#[tokio::test]
async fn it_hangs_and_makes_up_for_it() {
    let mut fixture = Fixture::with(&["a"]).await;
    let mut stream = fixture.svids().await.unwrap();
    next(&mut stream).await.unwrap();
    fixture.issuer.hang();
    fixture.issuer.rotate().unwrap();
    let mut api = fixture.api.clone();
    let pending = tokio::spawn(async move { api.fetch_x509svid(with_header(X509svidRequest {})).await });
    fixture.until(|traffic| traffic.streams_open == 2).await;
    assert!(!pending.is_finished());
    assert_eq!(fixture.issuer.traffic().borrow().messages, 1);

    fixture.issuer.recover();
    let mut late = bounded(pending).await.unwrap().unwrap().into_inner();
    let current = fixture.issuer.svids()[0].serial.clone();
    assert_eq!(serial(&next(&mut late).await.unwrap(), 0), current);
    assert_eq!(serial(&next(&mut stream).await.unwrap(), 0), current);
}

#[tokio::test]
async fn malformed_messages_go_out_as_they_are() {
    let mut fixture = Fixture::with(&["a", "b"]).await;
    let mut stream = fixture.svids().await.unwrap();
    let good = next(&mut stream).await.unwrap();
    let message = fixture.issuer.message();
    assert!(!format!("{message:?}").contains("key"));

    fixture.issuer.send_raw(message.clone().garbage_chain(0).garbage_bundle(1).hint(0, "same").hint(1, "same"));
    let garbage = next(&mut stream).await.unwrap();
    assert!(X509Certificate::from_der(&garbage.svids[0].x509_svid).is_err());
    assert_eq!((garbage.svids[0].hint.as_str(), garbage.svids[1].hint.as_str()), ("same", "same"));
    assert_eq!(next(&mut fixture.svids().await.unwrap()).await.unwrap(), garbage, "new streams get it too");

    fixture.issuer.send_raw(message.clone().mismatched_key(1).unwrap());
    let mismatched = next(&mut stream).await.unwrap();
    assert_eq!(mismatched.svids[1].x509_svid, good.svids[1].x509_svid);
    assert_ne!(mismatched.svids[1].x509_svid_key, good.svids[1].x509_svid_key);

    let expired = Template::expired(id("a"), SystemTime::now());
    let expired = fixture.issuer.sign(&expired, &td("example.org")).unwrap();
    fixture.issuer.send_raw(message.clone().replaced(0, &expired));
    assert_eq!(serial(&next(&mut stream).await.unwrap(), 0), expired.serial);

    fixture.issuer.send_raw(message.clone().without_svids());
    assert!(next(&mut stream).await.unwrap().svids.is_empty());
    fixture.issuer.recover();
    assert_eq!(next(&mut stream).await.unwrap(), good);

    fixture.issuer.send_raw(message.oversized(5 << 20));
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::OutOfRange, "tonic's client takes 4 MiB");
}

#[tokio::test]
async fn leaves_and_ca_rotate_by_the_clock() {
    let mut fixture = Fixture::start(|config| {
        *config = config.clone().identity(id("a"), None);
        config.ttl = Duration::from_secs(2);
        config.rotation = Rotation::Every(Duration::from_millis(20));
        config.ca_rotate_every = Some(Duration::from_millis(60));
    })
    .await;
    let mut events = fixture.issuer.events();
    let mut stream = fixture.svids().await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let mut seen = first.clone();
    while serial(&seen, 0) == serial(&first, 0) || seen.svids[0].bundle == first.svids[0].bundle {
        seen = next(&mut stream).await.unwrap();
    }
    for expected in [CaStep::Prepare, CaStep::Activate, CaStep::Retire, CaStep::Prepare] {
        let step = async {
            loop {
                if let Event::Ca { step, .. } = events.recv().await.unwrap() {
                    break step;
                }
            }
        };
        assert_eq!(bounded(step).await, expected);
    }
}

#[tokio::test]
async fn it_counts_what_its_clients_open_and_close() {
    let mut fixture = Fixture::with(&["a"]).await;
    let stream = fixture.svids().await.unwrap();
    let bundles = fixture.bundles().await.unwrap();
    fixture.until(|it| (it.connections_open, it.streams, it.streams_open) == (1, 2, 2)).await;
    drop(stream);
    fixture.until(|it| (it.streams, it.streams_open) == (2, 1)).await;
    drop(bundles);
    fixture.api = connect(fixture.issuer.endpoint()).await;
    fixture.until(|it| (it.connections, it.connections_open, it.streams_open) == (2, 1, 0)).await;
}

#[tokio::test]
async fn stopping_cuts_streams_and_removes_the_socket() {
    let mut fixture = Fixture::with(&["a"]).await;
    let Endpoint::Unix(path) = fixture.issuer.endpoint().clone() else { panic!("not a socket") };
    let mut stream = fixture.svids().await.unwrap();
    next(&mut stream).await.unwrap();
    let traffic = fixture.issuer.traffic();
    bounded(fixture.issuer.shutdown()).await;
    assert!(next(&mut stream).await.is_err());
    assert!(!path.exists());
    assert_eq!(traffic.borrow().connections_open, 0);

    let again = DevIssuer::start(Config::new(td("example.org"), Endpoint::Unix(path.clone()))).await.unwrap();
    drop(again);
    assert!(!path.exists(), "dropping removes it too");
}

#[tokio::test]
async fn only_its_own_or_a_stale_socket_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let start = |path: &Path| DevIssuer::start(Config::new(td("example.org"), Endpoint::Unix(path.to_owned())));

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = start(&path).await.expect("a stale socket is replaced");
    assert!(matches!(start(&path).await, Err(DevError::InUse(_))));
    std::fs::remove_file(&path).unwrap();
    let second = start(&path).await.unwrap();
    drop(first);
    assert!(path.exists(), "the second one's");
    drop(second);

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(start(&path).await, Err(DevError::NotASocket(_))));
    assert!(matches!(start(&directory.path().join("none/api.sock")).await, Err(DevError::Listen { .. })));
}

#[tokio::test]
async fn tcp_is_served_on_loopback_only() {
    let any_port = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
    let issuer = DevIssuer::start(Config::new(td("example.org"), any_port).identity(id("a"), None)).await.unwrap();
    assert!(matches!(issuer.endpoint(), Endpoint::Tcp(address) if address.port() != 0));
    let mut api = connect(issuer.endpoint()).await;
    assert!(bounded(api.fetch_x509svid(with_header(X509svidRequest {}))).await.is_ok());

    let everywhere = Endpoint::Tcp("0.0.0.0:0".parse().unwrap());
    let refused = DevIssuer::start(Config::new(td("example.org"), everywhere)).await;
    assert!(matches!(refused, Err(DevError::NotLoopback(_))));
}

#[tokio::test]
async fn two_issuers_vouch_for_their_own_and_forge_for_tests() {
    let here = Fixture::with(&["a"]).await;
    let mut there = Fixture::start(|config| config.trust_domain = td("other.org")).await;
    there.issuer.federate_with(here.issuer.bundle(&td("example.org")).unwrap()).unwrap();
    let bundles = next(&mut there.bundles().await.unwrap()).await.unwrap().bundles;
    assert_eq!(bundles["spiffe://example.org"], here.issuer.message().response().svids[0].bundle);
    assert_eq!(there.issuer.bundle_pem(&td("example.org")), here.issuer.bundle_pem(&td("example.org")));

    let forged = there.issuer.forge(&id("a"), &td("other.org")).unwrap();
    let honest = here.issuer.svid(&id("a")).unwrap();
    let [forged, honest] =
        [&forged, &honest].map(|it| X509Certificate::from_der(it.svid.chain.leaf().der()).unwrap().1);
    assert_eq!(forged.subject_alternative_name().unwrap(), honest.subject_alternative_name().unwrap());
    assert_ne!(forged.issuer(), honest.issuer());
    assert!(there.issuer.forge(&id("a"), &td("example.org")).is_err(), "that CA lives elsewhere");
}
