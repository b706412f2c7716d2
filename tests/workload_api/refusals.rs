//! What is bad in a message is left out and said, and everything beside it is served.

use std::time::{Duration, SystemTime};

use spiffe_sds::{
    dev::{DevIssuer, RawMessage, Template},
    identity::{Availability, IdentitySnapshot},
    source::{ErrorKind, RenewalEvent, decode::Limits},
};

use super::fixture::{Agent, Client, id, is_from, td};

const MINUTE: Duration = Duration::from_secs(60);

fn with_limits(issuer: &DevIssuer, limits: Limits) -> Client {
    Client::configured(issuer.endpoint(), |api| api.with_limits(limits), MINUTE)
}

impl Client {
    /// The next thing that is left out: its words, the reason, and whether its last good state is in service.
    async fn refused(&mut self) -> (String, String, bool) {
        match self.event("item_refused").await {
            RenewalEvent::ItemRefused { item, reason, kept } => (item.to_string(), reason.to_string(), kept),
            other => panic!("{other:?}"),
        }
    }
}

fn ids(snapshot: &IdentitySnapshot) -> Vec<&str> {
    snapshot.svids.iter().map(|svid| svid.id.path().trim_start_matches('/')).collect()
}

/// Every way in which one item can be bad, beside others that are good.
fn bad_items(issuer: &DevIssuer) -> Vec<(&'static str, RawMessage)> {
    let now = SystemTime::now();
    let mut ca = Template::leaf(id("db"), now, MINUTE);
    ca.authority = true;
    let mut two_names = Template::leaf(id("db"), now, MINUTE);
    two_names.uris.push("spiffe://example.org/web".to_owned());
    let signed =
        |template: &Template| issuer.message().replaced(1, &issuer.sign(template, &td("example.org")).unwrap());
    let foreign = issuer.forge(&id("db"), &td("other.org")).unwrap();
    vec![
        ("not valid DER", issuer.message().garbage_chain(1)),
        ("PKCS#8", issuer.message().garbage_key(1)),
        ("the trust bundle of its own trust domain", issuer.message().garbage_bundle(1)),
        ("does not belong to its certificate", issuer.message().mismatched_key(1).unwrap()),
        ("expired", signed(&Template::expired(id("db"), now))),
        ("valid only from", signed(&Template::not_yet_valid(id("db"), now))),
        ("may sign others", signed(&ca)),
        ("2 URI names", signed(&two_names)),
        ("does not vouch for it", issuer.message().replaced(1, &foreign)),
        ("belongs to", issuer.message().spiffe_id(1, "spiffe://example.org/other")),
        ("no SPIFFE ID", issuer.message().spiffe_id(1, "https://example.org/db")),
        ("1024 allowed", issuer.message().hint(1, &"h".repeat(1025))),
        ("cannot be read", issuer.message().federated_bundle("spiffe://bad.org", &b"garbage"[..])),
        ("it is empty", issuer.message().federated_bundle("spiffe://bad.org", &b""[..])),
        ("no trust domain ID", issuer.message().federated_bundle("spiffe://bad.org/path", &b""[..])),
        ("no DER-encoded CRL", issuer.message().tamper(|message| message.crl.push(vec![1].into()))),
    ]
}

#[tokio::test]
async fn at_the_start_what_is_good_beside_it_is_served() {
    let agent = Agent::new();
    let issuer = agent.with(&["web", "db", "api"]).await;
    issuer.federate(&td("other.org")).unwrap();
    for (expected, message) in bad_items(&issuer) {
        issuer.send_raw(message);
        let mut client = Client::of(issuer.endpoint());
        let snapshot = client.ready(|_| true).await;
        let (item, reason, kept) = client.refused().await;
        assert!(reason.contains(expected) && !kept, "{expected}: {item}: {reason}");
        let good = if item.contains("SVID") { vec!["web", "api"] } else { vec!["web", "db", "api"] };
        assert_eq!(ids(&snapshot), good, "{expected}");
        assert!(snapshot.bundles.contains_key(&td("other.org")), "{expected}");
        client.shutdown.cancel();
        issuer.recover();
    }
}

#[tokio::test]
async fn while_running_the_last_good_state_stays_and_healing_is_taken_up() {
    let agent = Agent::new();
    let issuer = agent.with(&["web", "db"]).await;
    issuer.federate(&td("other.org")).unwrap();
    let mut client = Client::of(issuer.endpoint());
    let good = client.ready(|_| true).await;
    for (expected, message) in bad_items(&issuer) {
        let renamed = message.response().svids[1].spiffe_id != id("db").to_string();
        if renamed || expected == "it is empty" {
            continue;
        }
        for _ in 0..3 {
            issuer.send_raw(message.clone());
        }
        let (item, reason, kept) = client.refused().await;
        assert!(reason.contains(expected), "{expected}: {item}: {reason}");
        assert_eq!(kept, item.contains("SVID"), "{item}");
        assert_eq!(*client.state.borrow(), Availability::Ready(good.clone()), "{expected}: nothing was pushed");
        issuer.recover();
        client.event("item_accepted").await;
        assert!(!client.event_names().contains(&"item_refused"), "{expected}: said once");
    }
    // The others go on: one is renewed while its neighbour is bad.
    let held = good.svids[1].chain.clone();
    issuer.rotate().unwrap();
    issuer.send_raw(issuer.message().garbage_chain(1));
    let renewed = issuer.svid(&id("web")).unwrap().svid.chain;
    client.ready(|snapshot| snapshot.svids[0].chain == renewed && snapshot.svids.len() == 2).await;
    issuer.recover();
    let healed = client.ready(|snapshot| is_from(&issuer, snapshot)).await;
    assert_ne!(healed.svids[1].chain, held);
}

#[tokio::test]
async fn a_message_without_anything_good_is_refused() {
    let agent = Agent::new();
    let issuer = agent.with(&["web", "db"]).await;
    let limits = Limits { message_bytes: 1 << 20, ..Limits::default() };
    let mut client = with_limits(&issuer, limits);
    let good = client.ready(|_| true).await;
    issuer.send_raw(issuer.message().garbage_chain(0).garbage_key(1));
    match client.event("renewal_failed").await {
        RenewalEvent::RenewalFailed { error, .. } => {
            assert!(error.contains("none of the 2 SVIDs") && error.contains("PKCS#8"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    issuer.recover();
    client.event("source_up").await;
    issuer.send_raw(issuer.message().oversized(2 << 20));
    match client.event("source_down").await {
        RenewalEvent::SourceDown { kind: ErrorKind::Transient, error, .. } => {
            assert!(error.contains("larger than limits.source.message_bytes"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    issuer.recover();
    client.event("source_up").await;
    assert_eq!(*client.state.borrow(), Availability::Ready(good), "nothing of that was published");
    issuer.rotate().unwrap();
    client.ready(|snapshot| is_from(&issuer, snapshot)).await;
}

#[tokio::test]
async fn one_too_many_costs_no_renewal() {
    let agent = Agent::new();
    let paths: Vec<String> = (0..101).map(|number| format!("w{number}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let issuer = agent.with(&paths).await;
    let mut client = Client::of(issuer.endpoint());
    client.ready(|snapshot| snapshot.svids.len() == 101).await;

    let mut limited = with_limits(&issuer, Limits { svids: 100, bundles: 3, ..Limits::default() });
    let before = limited.ready(|snapshot| snapshot.svids.len() == 100).await;
    let (item, reason, _) = limited.refused().await;
    assert!(item == "SVIDs beyond the limit" && reason.contains("limits.source.svids"), "{item}: {reason}");
    // A newcomer in front takes no place of those that are there, but for the default identity.
    issuer.issue(&id("a-new-one"), None).unwrap();
    let mut order: Vec<_> = vec![id("w0"), id("a-new-one")];
    order.extend(paths.iter().skip(1).map(|path| id(path)));
    issuer.set_order(&order);
    issuer.rotate().unwrap();
    let newest = issuer.svid(&id("w0")).unwrap().svid.chain;
    let after = limited.ready(|snapshot| snapshot.svids[0].chain == newest).await;
    assert_eq!(ids(&after), ids(&before));
    // Trust domains: those that are there stay too.
    for name in ["m.org", "n.org"] {
        issuer.federate(&td(name)).unwrap();
    }
    limited.ready(|snapshot| snapshot.bundles.len() == 3).await;
    issuer.federate(&td("a.org")).unwrap();
    loop {
        let (item, reason, _) = limited.refused().await;
        if item.starts_with("trust bundles") {
            assert!(reason.contains("limits.source.bundles"), "{reason}");
            break;
        }
    }
    issuer.rotate().unwrap();
    let newest = issuer.svid(&id("w0")).unwrap().svid.chain;
    let after = limited.ready(|snapshot| snapshot.svids[0].chain == newest).await;
    let domains: Vec<_> = after.bundles.keys().map(ToString::to_string).collect();
    assert_eq!(domains, ["example.org", "m.org", "n.org"]);
}

#[tokio::test]
async fn two_hundred_and_one_bundles_are_none_too_many() {
    let agent = Agent::new();
    let issuer = agent.with(&["web"]).await;
    issuer.federate(&td("other.org")).unwrap();
    let der = issuer.bundle(&td("other.org")).unwrap().authorities()[0].der().to_vec();
    let many = (0..200).fold(issuer.message(), |message, number| {
        message.federated_bundle(&format!("spiffe://td{number}.org"), der.clone())
    });
    issuer.send_raw(many);
    let mut client = Client::of(issuer.endpoint());
    let snapshot = client.ready(|_| true).await;
    assert_eq!((snapshot.bundles.len(), snapshot.refusals.len()), (202, 0));
}

/// The source does not send the same twice, so the time itself must be enough.
#[tokio::test]
async fn what_is_not_valid_yet_is_served_when_it_is() {
    let agent = Agent::new();
    let issuer = agent.with(&["web", "db"]).await;
    // Longer away than clocks may differ, so that it is refused first.
    let begins = SystemTime::now() + MINUTE + Duration::from_secs(3);
    let mut template = Template::leaf(id("db"), begins, 60 * MINUTE);
    template.validity.not_before = begins;
    let future = issuer.sign(&template, &td("example.org")).unwrap();
    issuer.send_raw(issuer.message().replaced(1, &future));
    let mut client = Client::of(issuer.endpoint());
    let snapshot = client.ready(|_| true).await;
    assert_eq!(ids(&snapshot), ["web"]);
    let (_, reason, _) = client.refused().await;
    assert!(reason.contains("valid only from"), "{reason}");
    client.ready(|snapshot| snapshot.svids.len() == 2).await;
    client.event("item_accepted").await;
    assert_eq!(issuer.traffic().borrow().streams, 1, "nobody was asked again");
}
