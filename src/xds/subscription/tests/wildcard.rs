//! Asking for everything: only where it is allowed, and never by accident.

use super::*;

fn wild(variant: Variant) -> Client {
    Client::new(variant, true, false)
}

#[test]
fn an_empty_list_first_is_everything_only_where_that_is_allowed() {
    let now = set(&["a@1", "alias@1", "b@1"]);
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = Client::new(variant, false, false);
        assert!(!client.wants(&[]).wildcard);
        client.hears(&now, &[]);
        let mut client = wild(variant);
        assert!(client.wants(&[]).wildcard);
        client.hears(&ResourceSet::pending(), &[]);
        client.hears(&now, &["a@1", "b@1"]);
        client.acks_all();
        client.hears(&set(&["a@1", "alias@2", "b@2", "c@1"]), &["b@2", "c@1"]);
    }
}

#[test]
fn a_star_is_a_name_like_any_other_where_it_is_not_allowed() {
    for mut client in Client::each() {
        assert!(!client.wants(&["*"]).wildcard);
        client.hears(&set(&["a@1"]), &[]);
    }
}

#[test]
fn an_empty_list_later_is_nothing() {
    let mut client = wild(Variant::Sotw);
    client.wants(&["a"]);
    client.hears(&set(&["a@1", "b@1"]), &["a@1"]);
    client.acks_all();
    assert!(!client.wants(&[]).wildcard);
    client.hears(&set(&["a@2", "b@2"]), &[]);
}

#[test]
fn sotw_naming_something_ends_the_legacy_wildcard() {
    let mut client = wild(Variant::Sotw);
    client.wants(&[]);
    client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
    client.acks_all();
    assert!(!client.wants(&["a"]).wildcard);
    client.hears(&set(&["a@2", "b@2"]), &["a@2"]);
    client.acks_all();
    assert!(!client.wants(&[]).wildcard);
    client.hears(&set(&["a@3", "b@3"]), &[]);
}

#[test]
fn sotw_a_star_beside_names_covers_what_is_not_listed_too() {
    let mut client = wild(Variant::Sotw);
    client.wants(&["*", "alias"]);
    client.hears(&set(&["a@1", "alias@1", "alias-other@1"]), &["a@1", "alias@1"]);
}

#[test]
fn delta_the_wildcard_hears_what_goes() {
    let mut client = wild(Variant::Delta);
    client.wants(&[]);
    client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
    client.acks_all();
    client.hears(&set(&["a@-", "b@1"]), &[]);
    client.hears(&set(&["b@1"]), &["-a"]);
    client.hears(&set(&["b@2"]), &["b@2"]);
}

#[test]
fn delta_what_goes_is_said_even_when_another_change_comes_between() {
    let mut client = wild(Variant::Delta);
    client.wants(&["*"]);
    client.hears(&set(&["a@1", "b@1", "c@1"]), &["a@1", "b@1", "c@1"]);
    client.acks_all();
    assert_eq!(client.poll(&set(&["a@2"])).as_deref(), Some("a@2"));
    client.hears(&set(&["a@3", "c@1"]), &["a@3", "-b"]);
    client.hears(&set(&["a@3", "b@1", "c@1"]), &["b@1"]);
}

#[test]
fn delta_the_end_of_the_wildcard_ends_what_it_owed() {
    let mut client = wild(Variant::Delta);
    client.wants(&["*"]);
    client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
    client.acks_all();
    assert_eq!(client.poll(&set(&["a@2"])).as_deref(), Some("a@2"));
    client.edits(&[], &["*"], &[]);
    client.hears(&set(&["a@3"]), &[]);
}

#[test]
fn delta_a_star_can_come_late_and_go() {
    let mut client = wild(Variant::Delta);
    client.wants(&["a"]);
    client.hears(&set(&["a@1", "b@1"]), &["a@1"]);
    assert!(client.edits(&["*"], &[], &[]).wildcard);
    client.hears(&set(&["a@1", "b@1"]), &["b@1"]);
    client.acks_all();
    assert!(!client.edits(&[], &["*"], &[]).wildcard);
    client.hears(&set(&["a@2", "b@2"]), &["a@2"]);
}

#[test]
fn delta_unsubscribing_a_name_that_the_wildcard_covers_is_answered() {
    let now = set(&["a@1", "alias@1"]);
    let mut client = wild(Variant::Delta);
    client.wants(&["*", "a", "alias"]);
    client.hears(&now, &["a@1", "alias@1"]);
    client.acks_all();
    client.edits(&[], &["a", "alias"], &[]);
    client.hears(&now, &["a@1", "-alias"]);
    client.acks_all();
    client.hears(&set(&["a@2", "alias@2"]), &["a@2"]);
}

/// It was never sent, so that the word about it is all that is owed.
#[test]
fn delta_unsubscribing_a_name_that_never_came_is_answered_too() {
    let now = set(&["a@1"]);
    let mut client = wild(Variant::Delta);
    client.wants(&["*", "alias"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    client.edits(&[], &["alias"], &[]);
    client.hears(&now, &["-alias"]);
}

#[test]
fn delta_the_wildcard_hears_of_names_that_vanished_while_it_was_away() {
    let mut client = wild(Variant::Delta);
    client.edits(&[], &[], &[("a", "1"), ("b", "1"), ("gone", "1")]);
    client.hears(&ResourceSet::pending(), &[]);
    client.hears(&set(&["a@1", "b@2"]), &["b@2", "-gone"]);
}

#[test]
fn delta_claims_of_a_wildcard_are_limited_too() {
    let mut client = wild(Variant::Delta);
    client.server.limits = Limits { names: 2, name_bytes: 4 << 20 };
    client.edits(&[], &[], &[("a", "1"), ("b", "1"), ("c", "1")]);
    assert_eq!(client.server.names(), 2);
}

/// One reading for streams and for single answers, as SPIRE has it: an empty name is none.
#[test]
fn an_empty_name_is_none_where_everything_may_be_asked_for() {
    let read = |names: &[&str], first, allowed| {
        let (names, everything) = asked(names.iter().map(|name| (*name).into()).collect(), first, allowed);
        (names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>(), everything)
    };
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(read(&[], true, true), (vec![], true));
    assert_eq!(read(&[""], true, true), (vec![], true));
    assert_eq!(read(&[""], false, true), (vec![], false));
    assert_eq!(read(&["*", "a", ""], false, true), (named(&["a"]), true));
    assert_eq!(read(&["a", ""], true, true), (named(&["a"]), false));
    assert_eq!(read(&["*", ""], true, false), (named(&["*", ""]), false));
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut client = wild(variant);
        assert!(client.wants(&[""]).wildcard);
        client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
        assert_eq!(client.server.names(), 2);
        let mut client = wild(variant);
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        assert!(!client.wants(&[""]).wildcard, "later it is nothing");
    }
}
