//! From one source to another, and tokens on demand; signed ones, on a paused clock.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use futures_util::future::pending;
use serde_json::json;

use super::*;

const HANDOVER: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(1);

/// A source with a key of its own.
pub(super) struct Signing {
    pair: EcdsaKeyPair,
    kid: &'static str,
    fetches: watch::Sender<u32>,
    hangs: bool,
    zero: Instant,
}

impl Signing {
    pub(super) fn new(kid: &'static str, zero: Instant) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { pair, kid, fetches: watch::Sender::new(0), hangs: false, zero }
    }

    pub(super) fn keys(&self) -> JwtBundles {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let url = Base64UrlUnpadded::encode_string;
        let jwk = json!({ "kty": "EC", "kid": self.kid, "crv": "P-256", "x": url(x), "y": url(y) });
        let td = TrustDomain::new("example.org").unwrap();
        [(td.clone(), Arc::new(JwtBundle::new(td, vec![jwk])))].into()
    }

    /// Another one each time that it was asked.
    pub(super) fn token(&self, issued: SystemTime, life: Duration) -> JwtSvid {
        let part = |text: String| Base64UrlUnpadded::encode_string(text.as_bytes());
        let header = part(json!({ "alg": "ES256", "kid": self.kid }).to_string());
        let signed = format!("{header}.{}", part(format!("{}", *self.fetches.borrow())));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        svid(&format!("{signed}.{}", Base64UrlUnpadded::encode_string(signature.as_ref())), issued, life)
    }
}

impl JwtSource for Signing {
    fn fetch(&self, _: &Workload, _: &JwtRequest, _: &JwtBundles) -> BoxFuture<'static, Result<JwtSvid, SourceError>> {
        self.fetches.send_modify(|fetches| *fetches += 1);
        if self.hangs {
            return pending().boxed();
        }
        std::future::ready(Ok(self.token(start() + self.zero.elapsed(), LIFE))).boxed()
    }

    fn watch_keys(&self, _: &Workload) -> BoxStream<'static, Result<JwtKeys, SourceError>> {
        stream::iter([Ok(self.keys().into())]).chain(stream::pending()).boxed()
    }
}

/// A supervisor of one token that is running, on two sources.
struct World {
    sources: [Arc<Signing>; 2],
    active: watch::Sender<Option<usize>>,
    tokens: watch::Receiver<Arc<JwtSnapshot>>,
    refresh: JwtRefresh,
    zero: Instant,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    fn start(change: impl FnOnce(&mut Signing, &mut Signing)) -> Self {
        Self::with(HANDOVER, change)
    }

    fn with(handover: Duration, change: impl FnOnce(&mut Signing, &mut Signing)) -> Self {
        let zero = Instant::now();
        let (mut a, mut b) = (Signing::new("a", zero), Signing::new("b", zero));
        change(&mut a, &mut b);
        let sources = [Arc::new(a), Arc::new(b)];
        let config = Config { svids: [request()].into(), keys: true, handover };
        let (active, store) = (watch::Sender::new(None), Arc::new(IdentityStore::new()));
        let all: Vec<Arc<dyn JwtSource>> = vec![sources[0].clone(), sources[1].clone()];
        let supervisor =
            JwtSupervisor::of_several(all, active.subscribe(), Workload::Own, store.clone(), &config, policy())
                .with_clock(move || start() + zero.elapsed());
        let (stop, refresh, tokens) = (CancellationToken::new(), supervisor.refresh(), store.watch_jwt(&Workload::Own));
        tokio::spawn(supervisor.run(stop.clone()));
        Self { sources, active, tokens, refresh, zero, _stop: stop.drop_guard() }
    }

    /// Until a token of this source is in service and exactly the keys of these are shown; tells when.
    async fn until(&mut self, signer: usize, shown: &[usize]) -> Duration {
        let source = &self.sources;
        let wanted = |snapshot: &Arc<JwtSnapshot>| {
            let JwtState::Valid(svid) = &snapshot.svids[&request()] else { return false };
            let kids: BTreeSet<&str> =
                snapshot.bundles.values().flat_map(|it| it.keys()).map(|key| key["kid"].as_str().unwrap()).collect();
            crate::source::decode::jwt::vouched(svid, &source[signer].keys()).is_ok()
                && kids == shown.iter().map(|&index| source[index].kid).collect()
        };
        self.tokens.wait_for(wanted).await.unwrap();
        self.zero.elapsed()
    }

    fn fetches(&self, index: usize) -> u32 {
        *self.sources[index].fetches.borrow()
    }
}

fn about(expected: Duration, found: Duration) -> bool {
    found >= expected && found < expected + SOON
}

#[tokio::test(start_paused = true)]
async fn verifiers_know_the_new_keys_before_a_token_needs_them() {
    let mut world = World::start(|_, _| {});
    world.until(0, &[0]).await;
    world.active.send_replace(Some(0));
    tokio::time::sleep(SOON).await;
    assert_eq!((world.fetches(0), world.fetches(1)), (1, 0), "no switch");
    for (from, to) in [(0, 1), (1, 0)] {
        let (at, fetched) = (world.zero.elapsed(), world.fetches(to));
        world.active.send_replace(Some(to));
        assert!(about(at, world.until(from, &[0, 1]).await), "both keys at once, the token later");
        tokio::time::sleep(SOON).await;
        assert_eq!(world.fetches(to), fetched + 1, "fetched without delay");
        assert!(about(at + HANDOVER, world.until(to, &[0, 1]).await), "{:?}", world.zero.elapsed() - at);
        let alone = world.until(to, &[to]).await;
        assert!(about(at + 2 * HANDOVER, alone), "{:?}", alone - at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_both_have_needs_no_handover() {
    let mut world = World::start(|a, b| {
        b.kid = a.kid;
        let document = a.pair.to_pkcs8v1().unwrap();
        b.pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
    });
    world.until(0, &[0]).await;
    let before = world.tokens.borrow().svids.clone();
    let at = world.zero.elapsed();
    world.active.send_replace(Some(1));
    world.tokens.wait_for(|snapshot| snapshot.svids != before).await.unwrap();
    assert!(about(at, world.zero.elapsed()));
    assert_eq!(world.fetches(1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_never_waits_for_longer_than_its_predecessor_lasts() {
    let mut world = World::with(LONGEST_HANDOVER, |_, _| {});
    world.until(0, &[0]).await;
    tokio::time::sleep(SOON).await;
    world.active.send_replace(Some(1));
    let at = world.until(1, &[0, 1]).await;
    assert!(at < LIFE && about(LIFE - SOON, at), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_at_a_former_source_does_not_arrive() {
    let mut world = World::start(|a, _| a.hangs = true);
    world.sources[0].fetches.subscribe().wait_for(|fetches| *fetches == 1).await.unwrap();
    world.active.send_replace(Some(1));
    let at = world.until(1, &[0, 1]).await;
    assert!(at < SOON, "nothing in service, nothing to wait for: {at:?}");
    assert_eq!(world.fetches(0), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_come_anew_on_demand() {
    let mut world = World::start(|_, _| {});
    world.until(0, &[0]).await;
    let other = JwtRequest { audience: ["other".to_owned()].into(), ..request() };
    assert!(!world.refresh.one(&other));
    for _ in 0..100 {
        assert!(world.refresh.one(&request()));
        assert_eq!(world.refresh.all(), 1);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.fetches(0), 2, "once, however often it is demanded");
    assert!(world.refresh.one(&request()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.fetches(0), 3, "at once after a while");
    drop(world._stop);
    world.active.closed().await;
    assert_eq!(world.refresh.all(), 0, "nobody is there");
    assert!(!world.refresh.one(&request()));
}
