//! No token, and no part of one, in anything that is logged or can be shown, at any level of any crate.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "jwt/fixture.rs"]
#[allow(dead_code, reason = "shared with tests/jwt.rs")]
mod fixture;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use fixture::{Client, World};
use spiffe_sds::{
    dev::{JwtConfig, JwtFault},
    source::RenewalEvent,
};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of its own, because whoever listens to the log listens to the whole process.
#[tokio::test]
async fn tokens_are_shown_nowhere() {
    let log = Captured::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).init();

    let short = JwtConfig { ttl: Duration::from_secs(2), cached_percent: 0 };
    let world = World::start("payments,billing", |issuer| issuer.jwt = short).await;
    let mut client = Client::connect(&world).await;
    let (mut renewals, mut shown) = (world.renewals(), String::new());
    client.subscribe(&["jwt:payments", "jwt-bearer:billing"]).await;
    let mut tokens = vec![client.token("jwt:payments").await, client.token("jwt-bearer:billing").await];
    tokens.push(client.token("jwt:payments").await);
    shown += &format!("{:?} {:#?}", world.tokens().borrow(), world.issuer);
    for fault in [JwtFault::AlgNone, JwtFault::Forged, JwtFault::LineBreak, JwtFault::WrongSubject, JwtFault::NoExpiry]
    {
        world.issuer.set_jwt_fault(Some(fault));
        loop {
            let heard = tokio::time::timeout(Duration::from_secs(60), renewals.recv());
            let event = heard.await.expect("nothing came in time").unwrap();
            shown += &format!("{event:?}");
            if matches!(event, RenewalEvent::JwtRenewalFailed { .. }) {
                break;
            }
        }
        world.issuer.set_jwt_fault(None);
        tokens.push(client.token("jwt:payments").await);
    }

    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("jwt svid renewed") && text.contains("jwt svid not renewed"), "the log was not captured");
    assert!(text.contains("TRACE"), "the log was not captured whole");
    // How the header of every token begins, the refused ones' too.
    assert!(!text.contains("eyJ") && !shown.contains("eyJ"));
    for token in &tokens {
        for part in token.trim_start_matches("Bearer ").split('.') {
            assert!(!text.contains(part), "in the log");
            assert!(!shown.contains(part), "in Debug");
            let bytes: Vec<_> = part.bytes().take(12).map(|byte| byte.to_string()).collect();
            assert!(!text.contains(&bytes.join(", ")), "in the log, as numbers");
            assert!(!shown.contains(&bytes.join(", ")), "in Debug, as numbers");
        }
    }
}
