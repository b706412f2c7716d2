mod expiry;
mod tokens;

use super::{super::live, *};
use crate::{
    secret::fixture,
    xds::{Lookup, Origin, SECRET_TYPE_URL, Version},
};

const ID: &str = "spiffe://example.org/w";
const HOLD: Duration = Duration::from_millis(250);
/// After this, clients that were there before the start are back.
const START: Duration = Duration::from_secs(2);

/// A leaf and the authorities of the own trust domain.
fn state(leaf: &str, authorities: &[&str]) -> Availability {
    // The fixture's certificates have long expired; those here must be served.
    let mut snapshot = fixture::snapshot(&[(ID, leaf)], &[("example.org", authorities)]);
    for svid in &mut snapshot.svids {
        Arc::make_mut(svid).validity.not_after = SystemTime::now() + Duration::from_secs(3600);
    }
    Availability::Ready(Arc::new(snapshot))
}

/// What streams are given, and when, as long as `drive` goes on and a second longer.
async fn published(drive: impl AsyncFnOnce(&watch::Sender<Availability>)) -> Vec<(u128, Version, Version)> {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
    let config = secret::Config { rollout_hold: HOLD, ..secret::Config::default() };
    let (publisher, feeds) = Publisher::new(SecretCatalog::new(config.clone(), origin), &config, Streams::default());
    let (_steering, settings) = live::channel(crate::server::Config::default(), config.clone());
    let (states, receiver) = watch::channel(Availability::Pending);
    let stop = CancellationToken::new();
    let task = tokio::spawn(publisher.run(
        receiver,
        watch::Sender::default().subscribe(),
        watch::Sender::default().subscribe(),
        settings.watch(),
        stop.clone(),
    ));
    let mut feed = feeds.of(Flavour::Spiffe);
    let seen = tokio::spawn(async move {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while feed.changed().await.is_ok() {
            let Feed::Live(view, _) = feed.borrow_and_update().clone() else { break };
            let version = |name| match view.set().lookup(name) {
                Lookup::Available(resource) => resource.version().clone(),
                other => panic!("{name} is {other:?}"),
            };
            seen.push((begun.elapsed().as_millis(), version("default"), version("ROOTCA")));
        }
        seen
    });
    drive(&states).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.cancel();
    task.await.unwrap();
    seen.await.unwrap()
}

/// Times, and which of certificate and trust changed, since the first state.
fn shown(seen: &[(u128, Version, Version)]) -> Vec<String> {
    let steps = seen.windows(2).map(|pair| {
        let ((begun, leaf, trust), (at, new_leaf, new_trust)) = (&pair[0], &pair[1]);
        let what = match (leaf != new_leaf, trust != new_trust) {
            (true, false) => "certificate",
            (false, true) => "trust",
            _ => "both",
        };
        format!("+{} {what}", at - begun)
    });
    steps.collect()
}

#[tokio::test(start_paused = true)]
async fn a_roll_over_in_one_message_holds_between_its_steps() {
    let seen = published(async |states| {
        states.send_replace(state("l1", &["a"]));
        tokio::time::sleep(START).await;
        states.send_replace(state("l2", &["b"]));
    })
    .await;
    assert_eq!(shown(&seen), ["+2000 trust", "+250 certificate", "+250 trust"]);
}

#[tokio::test(start_paused = true)]
async fn a_roll_over_in_hasty_messages_holds_all_the_same() {
    let seen = published(async |states| {
        states.send_replace(state("l1", &["a"]));
        tokio::time::sleep(START).await;
        for next in [state("l1", &["a", "b"]), state("l2", &["a", "b"]), state("l2", &["b"])] {
            states.send_replace(next);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await;
    assert_eq!(shown(&seen), ["+2000 trust", "+250 certificate", "+250 trust"]);
}

#[tokio::test(start_paused = true)]
async fn leaves_that_rotate_fast_do_not_wait() {
    let seen = published(async |states| {
        for leaf in ["l1", "l2", "l3"] {
            states.send_replace(state(leaf, &["a"]));
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await;
    assert_eq!(shown(&seen), ["+3 certificate", "+3 certificate"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_during_a_hold_is_not_dropped() {
    let seen = published(async |states| {
        states.send_replace(state("l1", &["a"]));
        tokio::time::sleep(START).await;
        states.send_replace(state("l2", &["a", "b"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        states.send_replace(state("l3", &["a", "b", "c"]));
    })
    .await;
    // The second authority starts a hold of its own: nobody knows which of them has signed the leaf.
    assert_eq!(shown(&seen), ["+2000 trust", "+100 trust", "+250 certificate"]);
}

/// A publisher that runs until the end of the test, and what streams of the usual flavour follow.
fn running(states: &watch::Sender<Availability>) -> (live::Steering, watch::Receiver<Feed>, CancellationToken) {
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
    let config = secret::Config { rollout_hold: HOLD, ..secret::Config::default() };
    let catalog = SecretCatalog::new(config.clone(), origin);
    let (publisher, feeds) = Publisher::new(catalog, &config, Streams::default());
    let (steering, settings) = live::channel(crate::server::Config::default(), config);
    let stop = CancellationToken::new();
    let (tokens, files) = (watch::Sender::default().subscribe(), watch::Sender::default().subscribe());
    tokio::spawn(publisher.run(states.subscribe(), tokens, files, settings.watch(), stop.clone()));
    (steering, feeds.of(Flavour::Spiffe), stop)
}

async fn until(feed: &mut watch::Receiver<Feed>, is: impl Fn(Lookup<'_>) -> bool) {
    let seen = feed.wait_for(|feed| matches!(feed, Feed::Live(view, _) if is(view.set().lookup("default"))));
    drop(tokio::time::timeout(Duration::from_secs(30), seen).await.expect("in time").unwrap());
}

#[tokio::test]
async fn every_stream_looks_up_its_flavour_after_a_reload() {
    let (states, _) = watch::channel(state("l1", &["a"]));
    let (steering, mut feed, stop) = running(&states);
    until(&mut feed, |lookup| matches!(lookup, Lookup::Available(_))).await;
    feed.mark_unchanged();
    let secrets = secret::Config { disable_spiffe_cert_validation: true, ..secret::Config::default() };
    steering.apply(crate::server::Config::default(), secrets);
    tokio::time::timeout(Duration::from_secs(30), feed.changed()).await.expect("in time").unwrap();
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told() {
    assert!(published(async |_| ()).await.is_empty());
}
