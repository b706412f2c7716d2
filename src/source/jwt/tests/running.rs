//! The loop: what it hears from others, on a paused clock.

use tokio_util::sync::DropGuard;

use super::*;
use crate::{
    identity::{Availability, IdentitySnapshot},
    secret::DefaultIdentity,
    source::SourceStatus,
};

const HOURS: Duration = Duration::from_secs(7200);

/// A source that fails until it is well, and remembers whose tokens it was asked for.
struct Moody {
    well: watch::Sender<bool>,
    asked: Mutex<Vec<JwtSubject>>,
    zero: Instant,
}

impl JwtSource for Moody {
    fn fetch(
        &self,
        _: &Workload,
        request: &JwtRequest,
        _: &JwtBundles,
    ) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(request.subject.clone());
        let mut token = svid(&format!("{}", asked.len()), start() + self.zero.elapsed(), LIFE);
        if let JwtSubject::Id(id) = &request.subject {
            token.id = id.clone();
        }
        let answer = if *self.well.borrow() { Ok(token) } else { Err(status(Code::Unavailable)) };
        std::future::ready(answer).boxed()
    }

    fn watch_keys(&self, _: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        let td = TrustDomain::new("partner.org").unwrap();
        let keys: JwtBundles = [(td.clone(), Arc::new(JwtBundle::new(td, Vec::new())))].into();
        let answer = if *self.well.borrow() { Ok(keys.into()) } else { Err(status(Code::Unavailable)) };
        stream::iter([answer]).chain(stream::pending()).boxed()
    }
}

struct Running {
    source: Arc<Moody>,
    store: Arc<IdentityStore>,
    status: watch::Sender<SourceStatus>,
    tokens: watch::Receiver<Arc<JwtSnapshot>>,
    _stop: DropGuard,
}

impl Running {
    fn start(well: bool) -> Self {
        let zero = Instant::now();
        let source = Arc::new(Moody { well: watch::Sender::new(well), asked: Mutex::default(), zero });
        let store = Arc::new(IdentityStore::new());
        let backoff = backoff::Config { initial: HOURS, max: HOURS };
        let policy = supervisor::Config { backoff, denied_grace: HOURS };
        let config = Config { svids: [request()].into(), keys: true, ..Config::default() };
        let mut supervisor = JwtSupervisor::new(source.clone(), Workload::Own, store.clone(), &config, policy)
            .with_default(DefaultIdentity::First)
            .with_clock(move || start() + zero.elapsed());
        let status = watch::Sender::default();
        supervisor.around.follow(status.subscribe());
        let (stop, tokens) = (CancellationToken::new(), store.watch_jwt(&Workload::Own));
        tokio::spawn(supervisor.run(stop.clone()));
        Self { source, store, status, tokens, _stop: stop.drop_guard() }
    }

    fn connected(&self, connected: bool) {
        self.status.send_replace(SourceStatus { connected, ..SourceStatus::default() });
    }

    /// X.509-SVIDs of these, in this order.
    fn identities(&self, paths: &[&str]) {
        let ids: Vec<_> = paths.iter().map(|path| (format!("spiffe://example.org/{path}"), *path)).collect();
        let ids: Vec<_> = ids.iter().map(|(id, leaf)| (id.as_str(), *leaf)).collect();
        let snapshot: IdentitySnapshot = crate::secret::fixture::snapshot(&ids, &[]);
        self.store.publish(&Workload::Own, Availability::Ready(Arc::new(snapshot)));
    }

    async fn token_of(&mut self, path: &str) {
        let id = SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap();
        let held = |state: &JwtState| matches!(state, JwtState::Valid(svid) if svid.id == id);
        self.tokens.wait_for(|snapshot| snapshot.svids.values().all(held)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_tried_at_once_when_the_source_is_back() {
    let mut running = Running::start(false);
    running.connected(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.connected(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = running.source.asked.lock().unwrap().len();
    running.source.well.send_replace(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.source.asked.lock().unwrap().len(), asked, "the pause is long");
    let back = Instant::now();
    running.connected(true);
    running.token_of("web").await;
    running.tokens.wait_for(|snapshot| !snapshot.bundles.is_empty()).await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn tokens_are_those_of_the_default_identity_and_follow_it_at_once() {
    let mut running = Running::start(true);
    running.identities(&["web", "api"]);
    running.token_of("web").await;
    let changed = Instant::now();
    running.identities(&["api", "web"]);
    running.token_of("api").await;
    assert!(changed.elapsed() < Duration::from_secs(2), "{:?}", changed.elapsed());
    running.identities(&["api"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = running.source.asked.lock().unwrap().clone();
    let wanted = |path: &str| JwtSubject::Id(SpiffeId::new(format!("spiffe://example.org/{path}")).unwrap());
    assert_eq!(asked.last(), Some(&wanted("api")));
    assert!(asked.len() <= 3, "once for each: {asked:?}");
}
