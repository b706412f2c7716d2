use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::{Certificate, CertificateChain, PrivateKey, SpiffeId, Svid, TrustBundle, TrustDomain, Validity},
    source::{Endpoint, decode::DecodeError},
};

const GRACE: Duration = Duration::from_secs(60);
const LIFE: u64 = 3000;

/// Seconds on both clocks since the same start.
struct Clock(Instant);

impl Clock {
    fn at(&self, seconds: u64) -> Moment {
        Moment { wall: wall(seconds), steady: self.0 + Duration::from_secs(seconds) }
    }
}

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn start() -> (Renewal, Clock) {
    (Renewal::new(GRACE), Clock(Instant::now()))
}

fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// What is said was seen first now.
fn say(renewal: &mut Renewal, snapshot: IdentitySnapshot, now: Moment) -> Outcome {
    let mut seen = renewal.seen.clone();
    seen.note(&snapshot.svids, now.wall);
    renewal.on_snapshot(snapshot, &seen, now)
}

/// One SVID named by its certificate's bytes, alive for `LIFE` from `since`; `roots` vouch.
fn svids(certificate: &str, since: u64, roots: &[&str]) -> IdentitySnapshot {
    let svid = Svid {
        id: SpiffeId::new("spiffe://example.org/web").unwrap(),
        chain: CertificateChain::new(Certificate::from_der(certificate.as_bytes()), vec![]),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
        hint: None,
        validity: Validity { not_before: wall(since), not_after: wall(since + LIFE) },
    };
    IdentitySnapshot { svids: vec![Arc::new(svid)], ..bundles(roots) }
}

fn bundles(roots: &[&str]) -> IdentitySnapshot {
    let roots = roots.iter().map(|root| Certificate::from_der(root.as_bytes())).collect();
    IdentitySnapshot {
        bundles: [(td("example.org"), Arc::new(TrustBundle::new(td("example.org"), roots)))].into(),
        trust_domain: Some(td("example.org")),
        ..IdentitySnapshot::default()
    }
}

fn status(code: tonic::Code) -> SourceError {
    let endpoint: Endpoint = "unix:///agent.sock".parse().unwrap();
    SourceError::Status { endpoint, code, reason: "no identity issued".to_owned() }
}

fn denied() -> SourceError {
    status(tonic::Code::PermissionDenied)
}

fn names(outcome: &Outcome) -> Vec<&'static str> {
    outcome.events.iter().map(RenewalEvent::name).collect()
}

fn ready(snapshot: IdentitySnapshot) -> Option<Availability> {
    Some(Availability::Ready(Arc::new(snapshot)))
}

#[test]
fn only_other_content_is_published() {
    let (mut renewal, clock) = start();
    let first = say(&mut renewal, svids("a", 0, &["r"]), clock.at(1));
    assert_eq!(names(&first), ["source_up", "svid_renewed", "trust_changed"]);
    assert_eq!(first.publish, ready(svids("a", 0, &["r"])));
    let same = say(&mut renewal, svids("a", 0, &["r"]), clock.at(2));
    assert_eq!((names(&same), same.publish), (vec!["identity_unchanged"], None));
    let rotated = say(&mut renewal, svids("b", 10, &["r"]), clock.at(11));
    assert_eq!(names(&rotated), ["svid_renewed"]);
    let rolled = say(&mut renewal, svids("b", 10, &["s", "t"]), clock.at(12));
    let change = RenewalEvent::TrustChanged { trust_domain: td("example.org"), added: 2, removed: 1 };
    assert_eq!(rolled.events, [change]);
    assert_eq!(rolled.publish, ready(svids("b", 10, &["s", "t"])));
}

#[test]
fn transient_failures_and_bad_messages_keep_what_is_served() {
    let (mut renewal, clock) = start();
    say(&mut renewal, svids("a", 0, &["r"]), clock.at(0));
    let lost = renewal.on_failure(&SourceError::Closed, clock.at(1));
    assert_eq!((names(&lost), lost.publish), (vec!["source_down"], None));
    let bad = renewal.on_failure(&DecodeError::NoBundles.into(), clock.at(2));
    assert_eq!((names(&bad), bad.publish), (vec!["renewal_failed"], None));
    assert_eq!(renewal.failures(), 2);
    let back = say(&mut renewal, svids("a", 0, &["r"]), clock.at(3));
    assert_eq!((names(&back), back.publish), (vec!["source_up", "identity_unchanged"], None));
    assert_eq!(renewal.failures(), 0);
}

#[test]
fn what_has_expired_is_taken_out_for_itself() {
    let clock = Clock(Instant::now());
    let mut both = svids("a", 0, &["r"]);
    let mut other = Svid::clone(&svids("b", 500, &[]).svids[0]);
    other.id = SpiffeId::new("spiffe://example.org/other").unwrap();
    both.svids.push(Arc::new(other));
    assert!(admit(&mut both, clock.at(LIFE)).is_ok() && both.svids.len() == 2);
    assert!(admit(&mut both, clock.at(LIFE + 1)).is_ok());
    let left: Vec<_> = both.svids.iter().map(|svid| svid.id.path()).collect();
    assert_eq!(left, ["/other"]);
    let error = admit(&mut both, clock.at(LIFE + 501)).unwrap_err();
    assert!(error.is_bad_message() && error.to_string().contains("spiffe://example.org/other"), "{error}");
    assert!(admit(&mut bundles(&["r"]), clock.at(LIFE + 501)).is_ok(), "bundles alone never expire");
}

#[test]
fn a_denial_withdraws_after_the_grace_time_and_is_reported_once() {
    let (mut renewal, clock) = start();
    say(&mut renewal, svids("a", 0, &["r"]), clock.at(0));
    renewal.session_started();
    let first = renewal.on_failure(&denied(), clock.at(10));
    assert!(matches!(first.events.as_slice(), [RenewalEvent::Denied { grace: Some(GRACE), .. }]), "{first:?}");
    // Neither asking again nor another failure prolongs it.
    assert_eq!(names(&renewal.on_failure(&denied(), clock.at(40))), [""; 0]);
    renewal.on_failure(&SourceError::Closed, clock.at(50));
    assert_eq!(renewal.next_alarm().1, Some(clock.at(70).steady));
    assert!(renewal.on_alarm(clock.at(69)).publish.is_none());
    let over = renewal.on_alarm(clock.at(70));
    assert_eq!(names(&over), ["identity_withdrawn"]);
    assert!(matches!(over.publish, Some(Availability::Denied(reason)) if reason.contains("no identity issued")));
    assert_eq!(renewal.next_alarm(), (None, None));
    assert!(renewal.on_alarm(clock.at(99)).publish.is_none());
    // The same SVID comes back: it must be served again.
    let again = say(&mut renewal, svids("a", 0, &["r"]), clock.at(100));
    assert_eq!(again.publish, ready(svids("a", 0, &["r"])));
}

#[test]
fn an_identity_that_comes_back_in_time_ends_the_denial() {
    let (mut renewal, clock) = start();
    say(&mut renewal, svids("a", 0, &["r"]), clock.at(0));
    renewal.on_failure(&denied(), clock.at(10));
    say(&mut renewal, svids("a", 0, &["r"]), clock.at(20));
    assert_eq!(renewal.next_alarm().1, None);
    assert!(renewal.on_alarm(clock.at(100)).publish.is_none());
    let later = renewal.on_failure(&denied(), clock.at(200));
    assert_eq!((names(&later), renewal.next_alarm().1), (vec!["identity_denied"], Some(clock.at(260).steady)));
}

#[test]
fn bundles_alone_are_served_at_once_or_after_the_grace_time() {
    let (mut renewal, clock) = start();
    let first = say(&mut renewal, bundles(&["r"]), clock.at(0));
    assert_eq!(names(&first), ["source_up", "identity_denied", "trust_changed"]);
    assert_eq!(first.publish, ready(bundles(&["r"])));
    // The end of such a session changes nothing: only SVIDs are denied.
    renewal.on_failure(&denied(), clock.at(5));
    assert_eq!(renewal.next_alarm(), (None, None));

    say(&mut renewal, svids("a", 0, &["r"]), clock.at(10));
    renewal.session_started();
    let revoked = say(&mut renewal, bundles(&["s"]), clock.at(20));
    assert_eq!((names(&revoked), revoked.publish), (vec!["identity_denied"], None));
    let over = renewal.on_alarm(clock.at(80));
    assert_eq!(names(&over), ["identity_withdrawn", "trust_changed"]);
    assert_eq!(over.publish, ready(bundles(&["s"])));
    // Then the bundles too are denied.
    renewal.session_started();
    renewal.on_failure(&denied(), clock.at(90));
    let over = renewal.on_alarm(clock.at(150));
    assert!(matches!(over.publish, Some(Availability::Denied(_))));
}

#[test]
fn a_denial_before_anything_came_is_waited_out() {
    let (mut renewal, clock) = start();
    let outcome = renewal.on_failure(&denied(), clock.at(0));
    assert!(matches!(outcome.events.as_slice(), [RenewalEvent::Denied { grace: None, .. }]));
    assert!(outcome.publish.is_none() && renewal.next_alarm() == (None, None));
}

#[test]
fn misconfiguration_is_fatal_only_before_the_first_good_data() {
    let (mut renewal, clock) = start();
    renewal.on_failure(&SourceError::Closed, clock.at(0));
    assert!(renewal.is_fatal(ErrorKind::Misconfigured) && !renewal.is_fatal(ErrorKind::NotEntitled));
    assert!(!renewal.is_fatal(ErrorKind::Transient));
    say(&mut renewal, bundles(&["r"]), clock.at(0));
    assert!(!renewal.is_fatal(ErrorKind::Misconfigured));
}

#[test]
fn expiry_is_announced_at_two_thirds_and_at_the_end_once_each() {
    let (mut renewal, clock) = start();
    say(&mut renewal, svids("a", 0, &["r"]), clock.at(0));
    assert_eq!(renewal.next_alarm().0, Some(wall(2000)));
    assert!(renewal.on_alarm(clock.at(1999)).events.is_empty());
    assert_eq!(names(&renewal.on_alarm(clock.at(2000))), ["svid_expiring"]);
    // The same content again is no renewal.
    assert_eq!(names(&say(&mut renewal, svids("a", 0, &["r"]), clock.at(2001))), ["identity_unchanged"]);
    assert_eq!(names(&say(&mut renewal, svids("a", 0, &["s"]), clock.at(2002))), ["trust_changed"]);
    assert_eq!(renewal.next_alarm().0, Some(wall(3000)));
    let over = renewal.on_alarm(clock.at(3000));
    assert_eq!((names(&over), over.publish), (vec!["svid_expired"], None));
    assert_eq!(renewal.next_alarm().0, None);
    // A renewal starts the watch again; one that comes late in its life is reported at once.
    let late = say(&mut renewal, svids("b", 0, &["s"]), clock.at(2500));
    assert_eq!(names(&late), ["svid_renewed", "svid_expiring"]);
}

#[test]
fn renewal_in_time_is_never_announced_as_expiring() {
    let (mut renewal, clock) = start();
    for round in 0..5 {
        let since = round * LIFE / 2;
        say(&mut renewal, svids(&round.to_string(), since, &["r"]), clock.at(since));
        assert!(renewal.on_alarm(clock.at(since + LIFE / 2)).events.is_empty());
    }
}
