//! Acknowledgements and rejections.

use super::*;

fn rejected(text: &str) -> Status {
    Status::Rejected(text.into())
}

#[test]
fn what_was_refused_is_not_sent_again_until_it_differs() {
    for mut client in Client::each() {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        let Answer::Nacked { resource, rejection } = client.nacks("bad key") else { panic!("not a rejection") };
        assert_eq!((resource.unwrap().0.as_str(), rejection.message.as_str()), ("a", "bad key"));
        client.hears(&set(&["a@1"]), &[]);
        client.hears(&set(&["a@1", "b@1"]), &[]);
        client.hears(&set(&["a@2"]), &["a@2"]);
    }
}

#[test]
fn taking_the_same_bytes_the_second_time_does_not_end_a_rejection() {
    // Envoy stores the payload's hash before its consumers look at it, and acknowledges bad bytes that it has seen.
    for mut client in Client::each() {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.nacks("bad key");
        client.wants(&[]);
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        assert!(matches!(client.acks(), Answer::Acked { .. }));
        assert_eq!(client.statuses()["a"], rejected("bad key"));
        client.hears(&set(&["a@2"]), &["a@2"]);
        assert_eq!(client.statuses()["a"], Status::Sent);
        client.acks_all();
        assert_eq!(client.statuses()["a"], Status::Acked);
    }
}

#[test]
fn going_back_from_refused_content_sends_the_good_one() {
    for mut client in Client::each() {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.acks_all();
        client.hears(&set(&["a@2"]), &["a@2"]);
        client.nacks("no");
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.acks_all();
        assert_eq!(client.statuses()["a"], Status::Acked);
    }
}

#[test]
fn a_rejection_is_about_one_name() {
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
        client.nacks("no");
        client.acks_all();
        assert_eq!(client.statuses(), [("a", rejected("no")), ("b", Status::Acked)].into());
        client.hears(&set(&["a@1", "b@2"]), &["b@2"]);
    }
}

#[test]
fn an_answer_that_comes_late_is_about_what_it_answers() {
    for mut client in Client::each() {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.hears(&set(&["a@2"]), &["a@2"]);
        let Answer::Acked { resource: Some((_, version)), .. } = client.acks() else { panic!("not taken") };
        assert_eq!(version.as_str(), "1");
        assert_eq!(client.statuses()["a"], Status::Sent, "version 2 is not answered yet");
        client.nacks("no");
        assert_eq!(client.statuses()["a"], rejected("no"));
    }
}

#[test]
fn an_answer_to_a_forgotten_name_changes_nothing() {
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
        client.wants(&["b"]);
        client.acks_all();
        assert_eq!(client.statuses(), [("b", Status::Acked)].into());
        client.hears(&set(&["a@1", "b@1"]), &[]);
    }
}

#[test]
fn an_answer_is_taken_once() {
    let mut client = Client::sotw();
    client.wants(&["a"]);
    client.hears(&set(&["a@1"]), &["a@1"]);
    client.acks_all();
    let nonce = client.nonce.clone();
    let rejection = Some(Rejection { code: 13, message: "changed my mind".into() });
    assert_eq!(client.answers(nonce, rejection), Answer::Stale);
    assert_eq!(client.statuses()["a"], Status::Acked);
}

#[test]
fn a_removal_can_be_refused() {
    // Envoy before the spring of 2024 did.
    let mut client = Client::delta();
    client.wants(&["never"]);
    client.hears(&set(&[]), &["-never"]);
    assert!(matches!(client.nacks("Missing SDS resources"), Answer::Nacked { resource: None, .. }));
    client.hears(&set(&["a@1"]), &[]);
}
