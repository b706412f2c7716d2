//! One stream, polled by hand: what is owed to clients that end early, say much at once, or are sent again what they have.

use std::{
    collections::BTreeSet,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

use futures_util::StreamExt as _;
use http_body::Body as _;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    identity::{Availability, FileStore, JwtSnapshot},
    listen::peer::{PeerStreams, StreamBounds},
    secret::{SecretCatalog, fixture},
    server::{
        self, Steering, Streams,
        budget::Budgets,
        live,
        publish::{Feeds, Publisher},
        said::Said,
        shared::Unusable,
    },
    telemetry::{journal::Journal, metrics::StreamMetrics},
    xds::{Origin, SECRET_TYPE_URL, WireSotw},
};

const BOUND: Duration = Duration::from_secs(60);
const PEER: Peer = Peer::Process { pid: 1, uid: 1, gid: 1 };

/// What streams need, with `ROOTCA` and `spiffe://example.org` in service.
struct Stage {
    shared: Arc<Shared>,
    _steering: Steering,
    _states: watch::Sender<Availability>,
    _tokens: watch::Sender<Arc<JwtSnapshot>>,
    stop: CancellationToken,
}

impl Stage {
    async fn new() -> Self {
        let secrets = crate::secret::Config::default();
        let (steering, settings) = live::channel(server::Config::default(), secrets.clone());
        let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
        let streams = Streams::default();
        let catalog = SecretCatalog::new(secrets.clone(), origin.clone());
        let (publisher, feeds) = Publisher::new(catalog, &secrets, streams.clone());
        let acks = publisher.acks().clone();
        let snapshot = fixture::snapshot(&[("spiffe://example.org/a", "leaf")], &[("example.org", &["root"])]);
        let states = watch::Sender::new(Availability::Ready(Arc::new(snapshot)));
        let (tokens, stop, files) = (watch::Sender::default(), CancellationToken::new(), Arc::new(FileStore::new()));
        let run = publisher.run(states.subscribe(), tokens.subscribe(), files.watch(), settings.watch(), stop.clone());
        tokio::spawn(run);
        Self::until_known(&feeds).await;
        let metrics = StreamMetrics::default();
        let shared = Arc::new(Shared {
            budgets: Budgets::new(settings.clone(), metrics.clone()),
            streams,
            said: Said::default(),
            acks,
            settings,
            origin,
            feeds,
            files,
            peers: PeerStreams::default(),
            events: broadcast::Sender::new(16),
            metrics,
            unusable: Unusable::new(0),
            anonymous: Arc::default(),
            journal: Journal::default(),
            traces: OnceLock::new(),
        });
        Self { shared, _steering: steering, _states: states, _tokens: tokens, stop }
    }

    async fn until_known(feeds: &Feeds) {
        let mut feed = feeds.of(Flavour::Spiffe);
        let known = feed.wait_for(|feed| matches!(feed, Feed::Live(view, _) if view.set().is_known()));
        drop(tokio::time::timeout(BOUND, known).await.unwrap().unwrap());
    }

    /// A stream on which these requests are there at once. One that `stays` does not end.
    fn drive(&self, requests: &[&[&str]], stays: bool) -> Pin<Box<Drive<WireSotw>>> {
        let whole: Vec<u8> = requests.iter().flat_map(|names| message(names)).collect();
        let first = futures_util::stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(whole)))]);
        let rest = futures_util::stream::iter(0..usize::from(stays)).then(|_| std::future::pending());
        let body = Body::new(StreamBody::new(first.chain(rest)));
        let permit = self.shared.peers.admit(PEER, StreamBounds { all: 10, of_peer: 10 });
        let permit = permit.unwrap_or_else(|refused| panic!("{refused:?}"));
        Box::pin(Drive::new(self.shared.clone(), Service::Secrets, PEER, permit, body))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn message(names: &[&str]) -> Vec<u8> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let wire = WireSotw { resource_names: names, ..WireSotw::default() }.encode_to_vec();
    let length = u32::try_from(wire.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), &wire].concat()
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The data that comes while the stream is polled as a server does it: when it had something to say, and when it was woken.
fn data(drive: &mut Pin<Box<Drive<WireSotw>>>, flag: &Arc<Flag>) -> Vec<u8> {
    let waker = Waker::from(flag.clone());
    let mut data = Vec::new();
    loop {
        flag.0.store(false, Ordering::SeqCst);
        match drive.as_mut().poll_frame(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(Ok(frame))) => data.extend(frame.into_data().unwrap_or_default()),
            Poll::Ready(Some(Err(status))) => panic!("{status}"),
            Poll::Ready(None) => return data,
            Poll::Pending if flag.0.load(Ordering::SeqCst) => {}
            Poll::Pending => return data,
        }
    }
}

/// Which of these names stand in what came.
fn named<'a>(data: &[u8], names: &[&'a str]) -> BTreeSet<&'a str> {
    let is_in = |name: &str| data.windows(name.len()).any(|window| window == name.as_bytes());
    names.iter().copied().filter(|name| is_in(name)).collect()
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_what_it_is_owed_and_then_the_end() {
    let stage = Stage::new().await;
    for names in [&["ROOTCA"][..], &["spiffe://example.org/later"], &["default", "no such thing"]] {
        let drive = stage.drive(&[names], false);
        let whole = tokio::time::timeout(BOUND, drive.collect()).await.unwrap_or_else(|_| panic!("{names:?}: no end"));
        let whole = whole.unwrap();
        let status = whole.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        assert_eq!(status.unwrap(), "0");
        assert_eq!(named(&whole.to_bytes(), &["ROOTCA"]).len(), usize::from(names == ["ROOTCA"]));
    }
    assert!(stage.shared.streams.is_empty());
}

#[tokio::test]
async fn whatever_is_said_at_once_is_heard_to_its_end() {
    let stage = Stage::new().await;
    let mut requests = vec![&["ROOTCA"][..]; 5 * BURST];
    requests.push(&["ROOTCA", "spiffe://example.org"]);
    let mut drive = stage.drive(&requests, true);
    let heard = data(&mut drive, &Arc::default());
    let names = ["ROOTCA", "spiffe://example.org"];
    assert_eq!(named(&heard, &names), names.into());
}

#[tokio::test]
async fn what_an_operator_wants_sent_again_wakes_the_stream_and_is_sent() {
    let stage = Stage::new().await;
    let (mut drive, flag) = (stage.drive(&[&["ROOTCA", "spiffe://example.org"]], true), Arc::<Flag>::default());
    assert_eq!(named(&data(&mut drive, &flag), &["ROOTCA", "spiffe://example.org"]).len(), 2);
    assert!(data(&mut drive, &flag).is_empty());
    assert_eq!(stage.shared.streams.resend(None, Some("ROOTCA")), 1);
    assert!(flag.0.load(Ordering::SeqCst), "the stream sleeps");
    assert_eq!(named(&data(&mut drive, &flag), &["ROOTCA", "spiffe://example.org"]), ["ROOTCA"].into());
    // Two wishes before the stream gets its turn are both granted.
    assert_eq!(stage.shared.streams.resend(None, Some("ROOTCA")), 1);
    assert_eq!(stage.shared.streams.resend(None, Some("spiffe://example.org")), 1);
    assert_eq!(named(&data(&mut drive, &flag), &["ROOTCA", "spiffe://example.org"]).len(), 2);
    assert!(data(&mut drive, &flag).is_empty());
}
