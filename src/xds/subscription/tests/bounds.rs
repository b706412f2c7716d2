//! What a client can make us remember.

use super::*;
use crate::xds::subscription::outstanding::KEPT;

fn long(letter: char) -> String {
    std::iter::repeat_n(letter, LONGEST_NAME + 1).collect()
}

#[test]
fn a_name_that_is_too_long_is_none_and_its_neighbours_are_served() {
    let (now, long) = (set(&["a@1"]), long('x'));
    let mut sotw = Client::sotw();
    let heard = sotw.wants(&["a", &long]);
    assert_eq!((heard.added, heard.overlong), (1, 1));
    sotw.hears(&now, &["a@1"]);
    sotw.acks_all();
    assert!(!sotw.wants(&["a", &long]).resent);
    sotw.hears(&now, &[]);
    let mut delta = Client::delta();
    assert_eq!(delta.edits(&["a", &long], &[], &[]).overlong, 1);
    let shown = format!("-{}", ResourceName::new(&long));
    delta.hears(&now, &["a@1", &shown]);
    assert_eq!(delta.server.names(), 1);
    delta.edits(&[&long], &[], &[]);
    delta.edits(&[], &[&long], &[]);
    delta.hears(&now, &[]);
}

#[test]
fn the_longest_name_is_one() {
    let longest = &long('x')[1..];
    let now = set(&[&format!("{longest}@1")]);
    let mut client = Client::sotw();
    assert_eq!(client.wants(&[longest]).overlong, 0);
    assert!(client.poll(&now).is_some());
}

#[test]
fn names_that_are_too_long_are_not_collected() {
    let mut client = Client::delta();
    client.server.limits = Limits { names: 10, name_bytes: 10 * LONGEST_NAME };
    for at in 0..100 {
        client.edits(&[&format!("{}{at}", long('x'))], &[], &[]);
    }
    assert_eq!(client.server.overlong.len(), 10);
    // Longer than anybody could want an answer to.
    client.edits(&[&"y".repeat(1 << 20)], &[], &[]);
    assert!(client.server.weight() < 40 * LONGEST_NAME, "{}", client.server.weight());
}

#[test]
fn names_count_by_bytes_too() {
    let limits = Limits { names: 100, name_bytes: 10 };
    let refused = Err(TooManyNames::Bytes { limit: 10 });
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<ResourceName>>();
    for mut client in Client::each() {
        client.server.limits = limits;
        client.wants(&["12345", "54321"]);
        let more = match client.server.variant {
            Variant::Sotw => {
                let request = SotwRequest { names: names(&["12345", "54321", "1"]), ..SotwRequest::default() };
                client.server.on_sotw(request, client.now)
            }
            Variant::Delta => {
                client.edits(&["12345"], &[], &[]); // known names do not count twice
                let request = DeltaRequest { subscribe: names(&["1"]), ..DeltaRequest::default() };
                client.server.on_delta(request, client.now)
            }
        };
        assert_eq!(more, refused);
        client.wants(&["12345"]);
        client.wants(&["12345", "1"]);
        assert_eq!(client.server.names(), 2);
    }
}

#[test]
fn what_is_remembered_is_weighed_and_forgotten() {
    for mut client in Client::each() {
        let names: Vec<String> = (0..100).map(|at| format!("name-{at:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        client.wants(&names);
        let weight = client.server.weight();
        assert!(weight >= 100 * (NAME_COST + 8), "{weight}");
        client.wants(&[]);
        client.wants(&["a"]);
        assert!(client.server.weight() < 2 * NAME_COST, "{}", client.server.weight());
    }
}

#[test]
fn a_client_that_never_answers_is_remembered_to_a_bound() {
    let now = set(&["a@1"]);
    let (mut client, mut nonces) = (Client::delta(), Vec::new());
    for _ in 0..3 * KEPT {
        client.edits(&["a"], &[], &[]);
        assert!(client.poll(&now).is_some());
        nonces.extend(client.unanswered.pop_back().map(|received| received.nonce));
    }
    assert_eq!(client.server.outstanding.len(), KEPT);
    assert!(client.server.weight() >= KEPT * SENT_COST);
    assert_eq!(client.answers(nonces.swap_remove(1), None), Answer::Stale, "the oldest are forgotten");
    let newest = nonces.swap_remove(1);
    assert!(matches!(client.answers(newest, None), Answer::Acked { .. }));
}

#[test]
fn rejections_are_remembered_to_a_bound() {
    let mut client = Client::delta();
    client.server.limits = Limits { names: 10, name_bytes: 1 << 20 };
    for at in 0..100 {
        let name = format!("name-{at}");
        client.wants(&[&name]);
        assert!(client.poll(&set(&[&format!("{name}@1")])).is_some());
        client.nacks("no");
    }
    assert!(client.server.rejected.len() <= 11, "{}", client.server.rejected.len());
    assert_eq!(client.server.words, 2 * client.server.rejected.len());
    assert!(client.server.rejected.contains_key("name-99"), "what is wanted is still known to be bad");
}

#[test]
fn a_small_request_costs_little_however_much_is_wanted() {
    let names: Vec<String> = (0..5000).map(|at| format!("name-{at:04}")).collect();
    let versions: Vec<String> = names.iter().map(|name| format!("{name}@1")).collect();
    let looked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = looked.clone();
    let resources: Vec<_> =
        versions.iter().map(|it| it.split_once('@').unwrap()).map(|(n, v)| resource(n, v)).collect();
    let now = ResourceSet::new(
        resources,
        [],
        Arc::new(move |_| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            true
        }),
    );
    let mut client = Client::delta();
    let absent: Vec<String> = (0..5000).map(|at| format!("absent-{at:04}")).collect();
    let all: Vec<&str> = names.iter().chain(&absent).map(String::as_str).collect();
    client.edits(&all, &[], &[]);
    while client.poll(&now).is_some() {}
    looked.store(0, std::sync::atomic::Ordering::Relaxed);
    client.edits(&["one-more"], &["absent-0001"], &[]);
    client.hears(&now, &[]);
    let looked = looked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(looked <= 2, "{looked} names were looked up for two");
    assert_eq!(client.server.waiting(), 5000);
}
