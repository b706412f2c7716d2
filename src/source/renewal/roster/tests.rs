//! Withdrawn identities and renewals ahead of their time, through the whole renewal engine.

use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::{Availability, Hint, PrivateKey, Refusal, RefusedItem, SpiffeId, TrustBundle, TrustDomain, Validity},
    source::{
        SourceError,
        renewal::{Outcome, Renewal, Sightings},
    },
};

const GRACE: u64 = 60;

struct Story {
    renewal: Renewal,
    start: Instant,
    seen: Sightings,
}

/// An identity `/path#hint` with a certificate of this label and life.
type Item<'a> = (&'a str, &'a str, (u64, u64));

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn snapshot(items: &[Item<'_>], roots: &[&str]) -> IdentitySnapshot {
    let td = TrustDomain::new("example.org").unwrap();
    let svid = |(name, label, life): &Item<'_>| {
        let (path, hint) = name.split_once('#').unwrap_or((name, ""));
        Arc::new(Svid {
            id: SpiffeId::new(format!("spiffe://example.org{path}")).unwrap(),
            chain: CertificateChain::new(Certificate::from_der(label.as_bytes()), vec![]),
            key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
            hint: Hint::new(hint),
            validity: Validity { not_before: wall(life.0), not_after: wall(life.1) },
        })
    };
    let roots = roots.iter().map(|root| Certificate::from_der(root.as_bytes())).collect();
    IdentitySnapshot {
        svids: items.iter().map(svid).collect(),
        bundles: [(td.clone(), Arc::new(TrustBundle::new(td.clone(), roots)))].into(),
        trust_domain: Some(td),
        ..IdentitySnapshot::default()
    }
}

impl Story {
    fn new() -> Self {
        let renewal = Renewal::new(Duration::from_secs(GRACE));
        Self { renewal, start: Instant::now(), seen: Sightings::default() }
    }

    fn now(&self, t: u64) -> Moment {
        Moment { wall: wall(t), steady: self.start + Duration::from_secs(t) }
    }

    fn says(&mut self, t: u64, items: &[Item<'_>]) -> Vec<&'static str> {
        self.says_with(t, items, &["r"])
    }

    fn says_with(&mut self, t: u64, items: &[Item<'_>], roots: &[&str]) -> Vec<&'static str> {
        let (snapshot, now) = (snapshot(items, roots), self.now(t));
        self.seen.note(&snapshot.svids, now.wall);
        names(&self.renewal.on_snapshot(snapshot, &self.seen, now))
    }

    fn rings(&mut self, t: u64) -> Vec<&'static str> {
        let now = self.now(t);
        names(&self.renewal.on_alarm(now))
    }

    /// What is in service, in its order.
    fn serves(&self) -> Vec<String> {
        let Availability::Ready(snapshot) = &self.renewal.published else { return Vec::new() };
        let label = |svid: &Arc<Svid>| String::from_utf8_lossy(svid.chain.leaf().der()).into_owned();
        snapshot.svids.iter().map(label).collect()
    }

    fn trusts(&self) -> Vec<String> {
        let Availability::Ready(snapshot) = &self.renewal.published else { return Vec::new() };
        let label = |root: &Certificate| String::from_utf8_lossy(root.der()).into_owned();
        snapshot.own_bundle().unwrap().authorities().iter().map(label).collect()
    }

    /// Withdrawn identities, and whether they are in service.
    fn gone(&self) -> Vec<(String, bool)> {
        self.renewal.withdrawn().iter().map(|it| (it.id.path().to_owned(), it.in_service)).collect()
    }
}

fn names(outcome: &Outcome) -> Vec<&'static str> {
    outcome.events.iter().map(RenewalEvent::name).collect()
}

const A: Item<'static> = ("/a", "a1", (0, 3600));
const B: Item<'static> = ("/b", "b1", (0, 3600));
const C: Item<'static> = ("/c", "c1", (0, 3600));

fn gone(paths: &[&str], in_service: bool) -> Vec<(String, bool)> {
    paths.iter().map(|path| ((*path).to_owned(), in_service)).collect()
}

#[test]
fn a_withdrawn_identity_stays_for_the_grace_time_and_is_remembered() {
    let mut story = Story::new();
    story.says(0, &[A, B]);
    assert_eq!(story.says(10, &[A]), ["svid_withdrawn", "identity_unchanged"]);
    assert_eq!((story.serves(), story.gone()), (vec!["a1".into(), "b1".into()], gone(&["/b"], true)));
    // Repetitions and renewals of the others neither prolong it nor say it again.
    assert_eq!(story.says(20, &[A]), ["identity_unchanged"]);
    assert_eq!(story.says(30, &[("/a", "a2", (25, 3600))]), ["svid_renewed"]);
    assert_eq!(story.renewal.next_alarm().1, Some(story.now(70).steady));
    assert_eq!(story.rings(69), [""; 0]);
    assert_eq!(story.rings(70), ["svid_removed"]);
    assert_eq!((story.serves(), story.gone()), (vec!["a2".to_owned()], gone(&["/b"], false)));
    assert_eq!(story.renewal.withdrawn()[0].validity.not_after, wall(3600), "its end is known still");
    assert_eq!(story.rings(3400), ["svid_expiring"], "that of the other one");
    let back = ["svid_restored", "svid_renewed", "svid_renewed", "svid_expiring"];
    assert_eq!(story.says(3500, &[("/a", "a3", (3400, 7000)), B]), back);
    assert_eq!(story.gone(), []);
}

#[test]
fn one_that_comes_back_in_time_was_never_away() {
    let mut story = Story::new();
    story.says(0, &[A, B]);
    story.says(10, &[B]);
    assert_eq!(story.serves(), ["a1", "b1"], "the default one keeps its place");
    assert_eq!(story.says(20, &[A, B]), ["svid_restored", "identity_unchanged"]);
    assert_eq!((story.gone(), story.rings(100)), (vec![], vec![]));
}

#[test]
fn the_default_identity_changes_when_the_one_before_goes_and_that_is_said() {
    let mut story = Story::new();
    story.says(0, &[A, B]);
    assert_eq!(story.says(10, &[B]), ["svid_withdrawn", "identity_unchanged"]);
    assert_eq!(story.rings(70), ["svid_removed", "default_changed"]);
    assert_eq!(story.says(80, &[C, B]), ["svid_renewed", "default_changed"], "a lower entry comes first at once");
}

#[test]
fn several_go_and_then_all() {
    let mut story = Story::new();
    story.says(0, &[A, B, C]);
    assert_eq!(story.says(10, &[B]), ["svid_withdrawn", "svid_withdrawn", "identity_unchanged"]);
    assert_eq!(story.serves(), ["a1", "b1", "c1"]);
    let denied = SourceError::Status {
        endpoint: "unix:///a.sock".parse().unwrap(),
        code: tonic::Code::PermissionDenied,
        reason: "no identity issued".to_owned(),
    };
    let now = story.now(20);
    assert_eq!(names(&story.renewal.on_failure(&denied, now)), ["identity_denied"]);
    assert_eq!(story.rings(70), ["svid_removed", "svid_removed", "default_changed"]);
    assert_eq!(story.serves(), ["b1"]);
    assert_eq!(story.rings(80), ["identity_withdrawn"]);
    assert_eq!((story.serves(), story.gone()), (vec![], gone(&["/a", "/c", "/b"], false)));
}

#[test]
fn one_that_ends_first_is_not_kept() {
    let mut story = Story::new();
    story.says(0, &[A, ("/b", "b1", (0, 40))]);
    story.says(10, &[A]);
    assert_eq!(story.rings(40), ["svid_expired", "svid_removed"]);
    assert_eq!((story.serves(), story.gone()), (vec!["a1".to_owned()], gone(&["/b"], false)));
}

#[test]
fn without_a_grace_time_it_goes_at_once() {
    let mut story = Story { renewal: Renewal::new(Duration::ZERO), ..Story::new() };
    story.says(0, &[A, B]);
    assert_eq!(story.says(10, &[A]), ["svid_withdrawn"]);
    assert_eq!((story.serves(), story.gone()), (vec!["a1".to_owned()], gone(&["/b"], false)));
}

#[test]
fn a_hint_that_goes_is_an_identity_that_goes() {
    let mut story = Story::new();
    story.says(0, &[("/a#x", "a1", (0, 3600)), B]);
    assert_eq!(story.says(10, &[("/a", "a2", (5, 3600)), B]), ["svid_withdrawn", "svid_renewed"]);
    assert_eq!(story.serves(), ["a2", "b1", "a1"], "the renewed one is the default one");
    assert_eq!(story.says(20, &[("/a#x", "a3", (15, 3600)), B]), ["svid_restored", "svid_renewed"]);
    assert_eq!(story.serves(), ["a3", "b1"]);
    // Another identity takes it over: clients that ask for it get that one.
    story.says(30, &[("/c#x", "c1", (25, 3600)), B]);
    let Availability::Ready(snapshot) = &story.renewal.published else { panic!() };
    let hinted: Vec<_> = snapshot.svids.iter().filter(|svid| svid.hint.is_some()).map(|svid| svid.id.path()).collect();
    assert_eq!((hinted, story.gone()), (vec!["/c"], gone(&["/a"], true)));
    assert_eq!(story.says(40, &[("/c#x", "c1", (25, 3600)), B]), ["identity_unchanged"]);
}

#[test]
fn a_renewal_ahead_of_its_time_waits_and_its_trust_does_not() {
    let mut story = Story::new();
    story.says(0, &[A, B]);
    let ahead = ("/a", "a2", (130, 7000));
    assert_eq!(story.says_with(100, &[ahead, B], &["s"]), ["svid_not_yet_valid", "trust_changed"]);
    assert_eq!((story.serves(), story.trusts()), (vec!["a1".into(), "b1".into()], vec!["r".to_owned(), "s".into()]));
    assert_eq!(story.says_with(110, &[ahead, B], &["s"]), ["identity_unchanged"], "said once");
    assert_eq!(story.renewal.next_alarm().0, Some(wall(130)));
    assert_eq!(story.rings(129), [""; 0]);
    assert_eq!(story.rings(130), ["svid_renewed", "trust_changed"]);
    assert_eq!((story.serves(), story.trusts()), (vec!["a2".into(), "b1".into()], vec!["s".to_owned()]));
}

#[test]
fn a_renewal_ahead_of_its_time_serves_where_nothing_else_is_valid() {
    let mut first = Story::new();
    assert_eq!(first.says(0, &[("/a", "a1", (30, 3600))]), ["source_up", "svid_renewed", "trust_changed"]);
    assert_eq!(first.says(10, &[("/a", "a1", (30, 3600))]), ["identity_unchanged"], "and is not taken out again");
    assert_eq!(first.serves(), ["a1"]);

    let mut ends = Story::new();
    ends.says(0, &[("/a", "a1", (0, 100))]);
    ends.says(90, &[("/a", "a2", (120, 3600))]);
    assert_eq!(ends.serves(), ["a1"]);
    assert_eq!(ends.renewal.next_alarm().0, Some(wall(100)));
    let rung = ends.rings(100);
    assert!(rung.contains(&"svid_renewed"), "{rung:?}");
    assert_eq!(ends.serves(), ["a2"], "the predecessor is over");
}

#[test]
fn a_newer_renewal_takes_the_place_of_one_that_waits() {
    let mut story = Story::new();
    story.says(0, &[A]);
    story.says(10, &[("/a", "a2", (60, 3600))]);
    assert_eq!(story.says(20, &[("/a", "a3", (50, 3600))]), ["svid_not_yet_valid", "identity_unchanged"]);
    assert_eq!(story.rings(50), ["svid_renewed"]);
    assert_eq!(story.serves(), ["a3"]);
    assert_eq!(story.rings(60), [""; 0]);
}

#[test]
fn what_was_good_of_a_refused_one_stays_in_its_place() {
    let mut story = Story::new();
    story.says(0, &[A, B]);
    let refused = |path: &str| {
        let item = RefusedItem::svid(&format!("spiffe://example.org{path}"));
        vec![Refusal::new(item, "its key is of another certificate")]
    };
    let only_b = IdentitySnapshot { refusals: refused("/a"), ..snapshot(&[B], &["r"]) };
    for t in [10, 20] {
        let now = story.now(t);
        assert_eq!(names(&story.renewal.on_snapshot(only_b.clone(), &story.seen.clone(), now)), ["identity_unchanged"]);
        assert_eq!((story.serves(), story.gone()), (vec!["a1".into(), "b1".into()], vec![]), "it is not withdrawn");
    }
    assert_eq!(story.rings(100), [""; 0]);
    assert_eq!(story.says(200, &[("/a", "a2", (150, 3600)), B]), ["svid_renewed"]);
    assert_eq!(story.serves(), ["a2", "b1"]);
}

#[test]
fn what_was_sealed_is_a_predecessor_too() {
    let mut story = Story::new();
    story.renewal.begin_with(Arc::new(snapshot(&[A, B], &["r"])));
    let said = story.says(10, &[("/a", "a2", (40, 3600))]);
    assert_eq!(said, ["source_up", "svid_withdrawn", "svid_not_yet_valid", "identity_unchanged"]);
    assert_eq!(story.serves(), ["a1", "b1"]);
}
