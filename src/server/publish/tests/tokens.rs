//! Tokens and certificates on one feed, on a paused clock.

use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::{
        Certificate, CertificateChain, JwtRequest, JwtState, JwtSubject, JwtSvid, PrivateKey, SpiffeId, Svid, Token,
        TrustBundle, TrustDomain, Validity,
    },
    xds::{Lookup, Origin, SECRET_TYPE_URL},
};

const HOLD: Duration = Duration::from_millis(250);

fn request() -> JwtRequest {
    JwtRequest { subject: JwtSubject::Default, audience: ["a".to_owned()].into() }
}

fn validity() -> Validity {
    Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::now() + Duration::from_secs(3600) }
}

fn state(leaf: &str, authority: &str) -> Availability {
    let id = SpiffeId::new("spiffe://example.org/web").unwrap();
    let td: TrustDomain = id.trust_domain().clone();
    let chain = CertificateChain::new(Certificate::from_der(leaf.as_bytes()), Vec::new());
    let key = PrivateKey::from_pkcs8_der(Zeroizing::new(vec![1]));
    let svid = Svid { id, chain, key, hint: None, validity: validity() };
    let bundle = TrustBundle::new(td.clone(), vec![Certificate::from_der(authority.as_bytes())]);
    Availability::Ready(Arc::new(IdentitySnapshot {
        svids: vec![Arc::new(svid)],
        bundles: [(td.clone(), Arc::new(bundle))].into(),
        trust_domain: Some(td),
        crls: Vec::new(),
        refusals: Vec::new(),
    }))
}

fn token(text: &str) -> Arc<JwtSnapshot> {
    let svid = JwtSvid {
        id: SpiffeId::new("spiffe://example.org/web").unwrap(),
        audience: request().audience,
        validity: validity(),
        hint: None,
        token: Token::new(Zeroizing::new(text.to_owned())),
    };
    let svids = [(request(), JwtState::Valid(Arc::new(svid)))].into();
    Arc::new(JwtSnapshot { svids, ..JwtSnapshot::default() })
}

/// The version of a name, if it can be had now.
fn version(feed: &watch::Receiver<Feed>, name: &str) -> Option<String> {
    match &*feed.borrow() {
        Feed::Live(view, _) => match view.set().lookup(name) {
            Lookup::Available(resource) => Some(resource.version().to_string()),
            _ => None,
        },
        Feed::Closing => None,
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_neither_wait_for_a_rollout_nor_disturb_it() {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    let config = secret::Config { jwt_svids: [request()].into(), rollout_hold: HOLD, ..secret::Config::default() };
    let (publisher, feeds) = Publisher::new(SecretCatalog::new(config.clone(), origin), &config, Streams::default());
    let (states, tokens) = (watch::Sender::new(Availability::Pending), watch::Sender::new(token("t0")));
    let stop = CancellationToken::new();
    let (_steering, settings) = live::channel(crate::server::Config::default(), config);
    let running = publisher.run(
        states.subscribe(),
        tokens.subscribe(),
        watch::Sender::default().subscribe(),
        settings.watch(),
        stop.clone(),
    );
    let running = tokio::spawn(running);
    let mut feed = feeds.of(Flavour::Spiffe);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(version(&feed, "jwt:a"), None, "nothing before the source has said who we are");

    states.send_replace(state("leaf 1", "root 1"));
    feed.changed().await.unwrap();
    let (leaf, first) = (version(&feed, "default").unwrap(), version(&feed, "jwt:a").unwrap());
    states.send_replace(state("leaf 2", "root 2"));
    feed.changed().await.unwrap();
    let rollout = Instant::now();
    for round in 1..=4 {
        tokio::time::sleep(HOLD / 5).await;
        tokens.send_replace(token(&format!("t{round}")));
        feed.changed().await.unwrap();
        assert_ne!(version(&feed, "jwt:a"), Some(first.clone()), "a token waits for nobody");
        assert_eq!(version(&feed, "default"), Some(leaf.clone()), "the leaf still waits");
    }
    feed.changed().await.unwrap();
    assert_ne!(version(&feed, "default"), Some(leaf));
    let waited = rollout.elapsed();
    assert!(waited >= HOLD && waited < HOLD + Duration::from_millis(5), "{waited:?}");

    states.send_replace(Availability::Denied(Arc::from("because")));
    feed.wait_for(|feed| matches!(feed, Feed::Live(view, _) if matches!(view.set().lookup("default"), Lookup::Absent)))
        .await
        .unwrap();
    assert!(version(&feed, "jwt:a").is_some(), "tokens have their own denial");
    stop.cancel();
    running.await.unwrap();
}
