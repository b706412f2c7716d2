//! What only state-of-the-world streams do, and what only incremental ones do.

use super::*;

#[test]
fn sotw_absence_is_never_said_and_spends_no_nonce() {
    // Had the unsayable update counted as sent, the client's next request would look stale and the stream would wedge.
    for mut client in [Client::sotw(), Client::ads()] {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.acks_all();
        client.hears(&set(&[]), &[]);
        let nonce = client.nonce.clone();
        client.sends("", &nonce, &["a", "never", "b"]);
        client.hears(&set(&["b@1"]), &["b@1"]);
        assert!(matches!(client.acks(), Answer::Acked { .. }));
        client.hears(&set(&["a@2", "b@1"]), &["a@2"]);
    }
}

#[test]
fn ads_start_hears_each_name_once() {
    // Envoy: the list grows with empty nonces, then every answer repeats the full list.
    let now = set(&["a@1", "b@1", "c@1"]);
    let mut client = Client::ads();
    client.sends("", "", &["a"]);
    client.hears(&now, &["a@1"]);
    client.sends("", "", &["a", "b"]);
    client.sends("", "", &["a", "b", "c"]);
    client.hears(&now, &["b@1", "c@1"]);
    for _ in 0..3 {
        assert!(matches!(client.acks(), Answer::Acked { .. }));
        client.hears(&now, &[]);
    }
    client.hears(&set(&["a@1", "b@2", "c@1"]), &["b@2"]);
}

#[test]
fn a_stale_nonce_edits_the_names_and_answers_nothing_twice() {
    let now = set(&["a@1", "b@1"]);
    let mut client = Client::sotw();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    assert_eq!(client.sends("", "garbage", &["a"]).answer, Answer::Stale);
    client.hears(&now, &[]);
    let heard = client.sends("", "garbage", &["b"]);
    assert_eq!((heard.answer, heard.added, heard.dropped), (Answer::Stale, 1, 1));
    client.hears(&now, &["b@1"]);
}

#[test]
fn ads_a_repeated_request_is_a_call_for_help() {
    // envoy#47309: a second consumer of a secret appears that the first delivery did not reach.
    let now = set(&["a@1", "roots@1"]);
    let mut client = Client::ads();
    client.wants(&["a", "roots"]);
    client.hears(&now, &["roots@1", "a@1"]);
    client.acks_all();
    let heard = client.repeats();
    assert_eq!((heard.answer, heard.resent), (Answer::Repeated, true));
    client.hears(&now, &["roots@1", "a@1"]);
    assert_eq!(client.unanswered.len(), 2);
    client.acks_all();
    client.hears(&now, &[]);
}

#[test]
fn ads_a_burst_of_repeated_requests_is_answered_once() {
    let now = set(&["a@1"]);
    let mut client = Client::ads();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    client.repeats();
    client.repeats();
    client.hears(&now, &["a@1"]);
}

#[test]
fn ads_repeated_requests_are_rate_limited_by_the_age_of_the_stream() {
    let now = set(&["a@1"]);
    let mut client = Client::ads();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    let granted = |client: &mut Client| {
        let mut granted = 0;
        while granted < 20 && client.repeats().resent {
            granted += 1;
            client.hears(&now, &["a@1"]);
            client.acks_all();
        }
        client.hears(&now, &[]);
        granted
    };
    assert_eq!(granted(&mut client), 8);
    client.later(1);
    assert_eq!(granted(&mut client), 1);
    client.later(1_000);
    assert_eq!(granted(&mut client), 8);
}

#[test]
fn a_repeated_request_on_a_plain_stream_is_stale() {
    let now = set(&["a@1"]);
    let mut client = Client::sotw();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    assert_eq!(client.repeats().answer, Answer::Stale);
    client.hears(&now, &[]);
}

#[test]
fn ads_a_repeated_nonce_with_other_names_is_only_an_edit() {
    let now = set(&["a@1", "b@1"]);
    let mut client = Client::ads();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    assert!(!client.wants(&["a", "b"]).resent);
    client.hears(&now, &["b@1"]);
}

#[test]
fn delta_says_impossible_once_and_again_when_asked_again() {
    let mut client = Client::delta();
    client.wants(&["never"]);
    client.hears(&ResourceSet::pending(), &[]);
    client.hears(&set(&[]), &["-never"]);
    client.acks_all();
    client.hears(&set(&["a@1"]), &[]);
    client.edits(&["never"], &[], &[]);
    client.hears(&set(&["a@1"]), &["-never"]);
}

#[test]
fn delta_says_that_a_held_name_is_gone_once() {
    let mut client = Client::delta();
    client.wants(&["a"]);
    client.hears(&set(&["a@1"]), &["a@1"]);
    client.hears(&set(&[]), &["-a"]);
    client.hears(&set(&["b@1"]), &[]);
    client.hears(&set(&["a@1"]), &["a@1"]);
}

#[test]
fn delta_is_silent_about_a_name_that_is_not_there_yet() {
    let mut client = Client::delta();
    client.wants(&["a"]);
    client.hears(&set(&[]), &[]);
    client.edits(&["a"], &[], &[]);
    client.hears(&set(&[]), &[]);
    client.hears(&set(&["a@1"]), &["a@1"]);
}

#[test]
fn delta_removals_of_one_change_are_one_response() {
    let mut client = Client::delta();
    client.wants(&["a", "b", "c"]);
    client.hears(&set(&["a@1", "b@1", "c@1"]), &["a@1", "b@1", "c@1"]);
    client.acks_all();
    client.hears(&set(&["c@2"]), &["c@2", "-a -b"]);
}

#[test]
fn delta_subscribing_to_what_is_held_is_answered() {
    let now = set(&["a@1"]);
    let mut client = Client::delta();
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
    client.edits(&["a"], &[], &[]);
    client.hears(&now, &["a@1"]);
    client.acks_all();
    client.hears(&now, &[]);
}

#[test]
fn delta_a_stale_nonce_edits_the_names() {
    let mut client = Client::delta();
    client.wants(&["a"]);
    let request = DeltaRequest { subscribe: vec!["b".into()], nonce: "garbage".into(), ..DeltaRequest::default() };
    let heard = client.server.on_delta(request, client.now).unwrap();
    assert_eq!((heard.answer, heard.added), (Answer::Stale, 1));
    client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
}

#[test]
fn delta_unsubscribing_from_what_was_never_asked_is_nothing() {
    let mut client = Client::delta();
    client.wants(&["a"]);
    client.hears(&set(&["a@1"]), &["a@1"]);
    client.edits(&[], &["b"], &[]);
    client.hears(&set(&["a@1", "b@1"]), &[]);
}

/// It cannot be said to the client, so an operator hears of it: once, however often the client repeats itself.
#[test]
fn a_name_that_can_never_be_had_is_reported_once() {
    let mut client = Client::sotw();
    client.wants(&["a", "never-1", "later"]);
    client.hears(&ResourceSet::pending(), &[]);
    assert!(client.server.take_refused().is_empty(), "nothing is known yet");
    client.hears(&set(&["a@1"]), &["a@1"]);
    assert_eq!(client.server.take_refused(), ["never-1".into()]);
    client.acks_all();
    client.hears(&set(&["a@2"]), &["a@2"]);
    client.acks_all();
    client.wants(&["a", "never-1", "never-2"]);
    client.hears(&set(&["a@2"]), &[]);
    assert_eq!(client.server.take_refused(), ["never-2".into()]);
    assert_eq!(client.server.waiting(), 2, "the client waits all the same");
    let mut delta = Client::delta();
    delta.wants(&["never-1"]);
    delta.hears(&set(&[]), &["-never-1"]);
    assert!(delta.server.take_refused().is_empty(), "the client has been told");
}

#[test]
fn what_is_waited_for_is_reported_once_and_after_it_was_watched() {
    let overdue = |client: &mut Client| {
        let (names, more) = client.server.take_overdue();
        (names.iter().map(ToString::to_string).collect::<Vec<_>>(), more)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for mut client in Client::each() {
        client.wants(&["a", "b", "c"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.acks_all();
        assert_eq!(overdue(&mut client), (vec![], true), "from now on it is watched");
        client.wants(&["a", "b", "c", "d"]);
        client.hears(&set(&["a@1", "b@1"]), &["b@1"]);
        client.acks_all();
        assert_eq!(overdue(&mut client), (names(&["c"]), true), "d has not waited for as long");
        assert_eq!(overdue(&mut client), (names(&["d"]), false));
        assert_eq!(overdue(&mut client), (vec![], false));
        client.hears(&set(&["a@1", "b@1", "c@1", "d@1"]), &["c@1", "d@1"]);
        assert_eq!(overdue(&mut client), (vec![], false));
    }
}
