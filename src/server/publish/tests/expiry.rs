//! Certificates whose life ends while they are in service.

use super::{super::encoded::next_expiry, *};

fn until(leaf: &str, end: SystemTime) -> Arc<IdentitySnapshot> {
    let Availability::Ready(mut snapshot) = state(leaf, &["a"]) else { panic!("nothing is ready") };
    for svid in &mut Arc::make_mut(&mut snapshot).svids {
        Arc::make_mut(svid).validity.not_after = end;
    }
    snapshot
}

/// Nothing comes from the source, and nobody connects: the clock alone takes it away from newcomers.
#[tokio::test]
async fn a_certificate_that_expires_is_withheld_by_the_clock() {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
    let config = secret::Config::default();
    let (publisher, feeds) = Publisher::new(SecretCatalog::new(config.clone(), origin), &config, Streams::default());
    let (_steering, settings) = live::channel(crate::server::Config::default(), config);
    let end = SystemTime::now() + Duration::from_millis(500);
    let (_states, receiver) = watch::channel(Availability::Ready(until("l1", end)));
    let tokens = watch::Sender::default().subscribe();
    let files = watch::Sender::default().subscribe();
    tokio::spawn(publisher.run(receiver, tokens, files, settings.watch(), CancellationToken::new()));
    let mut feed = feeds.of(Flavour::Plain);
    let mut is = async |wanted: fn(&Lookup<'_>) -> bool| {
        let shown = |feed: &Feed| matches!(feed, Feed::Live(view, _) if view.set().is_known() && wanted(&view.set().lookup("default")));
        tokio::time::timeout(Duration::from_secs(60), feed.wait_for(shown)).await.expect("never").unwrap();
    };
    is(|lookup| matches!(lookup, Lookup::Available(_))).await;
    is(|lookup| matches!(lookup, Lookup::Withheld)).await;
    assert!(SystemTime::now() > end);
}

/// A machine that is busy lets it expire between its encoding and the plan for its end.
#[tokio::test]
async fn a_certificate_that_was_encoded_in_time_is_looked_at_again_though_it_has_expired() {
    let now = SystemTime::now();
    let gone = until("l1", now - Duration::from_secs(1));
    assert!(
        next_expiry(&gone, now - Duration::from_secs(2))
            .is_some_and(|at| at <= Instant::now() + Duration::from_secs(1))
    );
    assert!(next_expiry(&gone, now).is_none(), "it was never encoded");
}
