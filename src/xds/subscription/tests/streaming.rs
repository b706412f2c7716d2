//! The rules of every stream, whatever its kind.

use super::*;

#[test]
fn pending_is_silence_until_the_identity_comes() {
    for mut client in Client::each() {
        client.wants(&["svid"]);
        client.hears(&ResourceSet::pending(), &[]);
        client.hears(&set(&["svid@1"]), &["svid@1"]);
    }
}

#[test]
fn nothing_is_said_before_the_client_speaks() {
    for mut client in Client::each() {
        client.hears(&set(&["svid@1"]), &[]);
    }
}

#[test]
fn an_ack_is_heard_and_not_answered() {
    for mut client in Client::each() {
        client.wants(&["svid"]);
        client.hears(&set(&["svid@1"]), &["svid@1"]);
        assert_eq!(client.statuses()["svid"], Status::Sent);
        client.later(3);
        let resource = Some(("svid".into(), Version::claimed("1")));
        assert_eq!(client.acks(), Answer::Acked { resource, latency: Duration::from_secs(3) });
        assert_eq!(client.statuses()["svid"], Status::Acked);
        client.hears(&set(&["svid@1"]), &[]);
    }
}

#[test]
fn each_change_is_one_response_with_what_changed_alone() {
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
        client.acks_all();
        client.hears(&set(&["a@1", "b@2"]), &["b@2"]);
        client.hears(&set(&["a@1", "b@2", "c@1"]), &[]);
        client.hears(&set(&["a@2", "b@2"]), &["a@2"]);
    }
}

#[test]
fn trust_goes_before_the_certificates_that_need_it() {
    for mut client in Client::each() {
        client.wants(&["a", "roots", "svid", "roots-other"]);
        let all = ["roots@1", "roots-other@1", "a@1", "svid@1"];
        client.hears(&set(&all), &all);
        client.hears(&set(&["roots@2", "roots-other@1", "a@2", "svid@1"]), &["roots@2", "a@2"]);
    }
}

#[test]
fn an_unknown_name_does_not_hold_up_a_known_one() {
    let now = set(&["svid@1"]);
    for mut client in [Client::sotw(), Client::ads()] {
        client.wants(&["never", "svid", "later"]);
        client.hears(&now, &["svid@1"]);
    }
    let mut client = Client::delta();
    client.wants(&["never", "svid", "later"]);
    client.hears(&now, &["svid@1", "-never"]);
    client.acks_all();
    client.hears(&set(&["svid@1", "later@1"]), &["later@1"]);
}

#[test]
fn a_withheld_name_is_silence_whether_held_or_not() {
    for mut client in Client::each() {
        client.wants(&["held", "new"]);
        client.hears(&set(&["held@1"]), &["held@1"]);
        client.acks_all();
        client.hears(&set(&["held@-", "new@-"]), &[]);
        client.hears(&set(&["held@1", "new@1"]), &["new@1"]);
    }
}

#[test]
fn only_the_newest_of_several_sets_is_sent() {
    for mut client in Client::each() {
        client.wants(&["a", "b", "roots"]);
        assert_eq!(client.poll(&set(&["roots@1", "a@1", "b@1"])).as_deref(), Some("roots@1"));
        // The plan is replaced, not appended to: a client that reads slowly is at most one resource behind.
        assert_eq!(client.poll(&set(&["roots@1", "a@2", "b@2"])).as_deref(), Some("a@2"));
        assert!(client.server.queue.len() <= 1);
        client.hears(&set(&["roots@2", "a@3", "b@3"]), &["roots@2", "a@3", "b@3"]);
    }
}

#[test]
fn content_that_changes_and_changes_back_between_two_looks_is_silence() {
    for mut client in Client::each() {
        client.wants(&["a"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1", "b@1"]), &["b@1"]);
        client.hears(&set(&["a@1", "b@1"]), &[]);
    }
}

#[test]
fn what_was_planned_and_is_no_longer_wanted_is_not_sent() {
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        assert_eq!(client.poll(&set(&["a@1", "b@1"])).as_deref(), Some("a@1"));
        client.wants(&["a"]);
        client.hears(&set(&["a@1", "b@1"]), &[]);
    }
}

#[test]
fn a_name_that_comes_back_is_answered_again() {
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1", "b@1"]), &["a@1", "b@1"]);
        client.acks_all();
        assert_eq!(client.wants(&["b"]).dropped, 1);
        client.hears(&set(&["a@2", "b@1"]), &[]);
        assert_eq!(client.wants(&["a", "b"]).added, 1);
        client.hears(&set(&["a@2", "b@1"]), &["a@2"]);
    }
}

#[test]
fn nothing_is_wanted_after_the_last_name_went() {
    for wildcard in [false, true] {
        for variant in [Variant::Sotw, Variant::Delta] {
            let mut client = Client::new(variant, wildcard, true);
            client.wants(&["a"]);
            client.hears(&set(&["a@1", "b@1"]), &["a@1"]);
            client.acks_all();
            client.wants(&[]);
            client.hears(&set(&["a@2", "b@2"]), &[]);
            assert_eq!(client.server.names(), 0);
        }
    }
}

#[test]
fn a_name_given_twice_is_one_name() {
    let now = set(&["a@1"]);
    let mut client = Client::sotw();
    assert_eq!(client.sends("", "", &["a", "a"]).added, 1);
    client.hears(&now, &["a@1"]);
    let mut client = Client::delta();
    assert_eq!(client.edits(&["a", "a"], &[], &[]).added, 1);
    client.hears(&now, &["a@1"]);
}

#[test]
fn a_limit_on_names_refuses_the_request_and_changes_nothing() {
    let limits = Limits { names: 2, name_bytes: 4 << 20 };
    let refused = Err(TooManyNames::Count { limit: 2 });
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<ResourceName>>();
    for mut client in Client::each() {
        client.wants(&["a", "b"]);
        client.hears(&set(&["a@1"]), &["a@1"]);
        client.server.limits = limits;
        let heard = match client.server.variant {
            Variant::Sotw => {
                let request = SotwRequest { names: names(&["b", "c", "d"]), ..SotwRequest::default() };
                client.server.on_sotw(request, client.now)
            }
            Variant::Delta => {
                client.edits(&["a", "b"], &[], &[]); // known names do not count twice
                client.hears(&set(&["a@1"]), &["a@1"]);
                let request = DeltaRequest { subscribe: names(&["c"]), ..DeltaRequest::default() };
                client.server.on_delta(request, client.now)
            }
        };
        assert_eq!(heard, refused);
        client.hears(&set(&["a@2", "b@1", "c@1", "d@1"]), &["a@2", "b@1"]);
    }
}

#[test]
fn ten_thousand_names_are_served_in_one_pass() {
    let entries: Vec<_> = (0..10_000).map(|i| format!("n{i:05}@1")).collect();
    let entries: Vec<_> = entries.iter().map(String::as_str).collect();
    let names: Vec<_> = entries.iter().map(|entry| entry.trim_end_matches("@1")).collect();
    let now = set(&entries);
    for mut client in Client::each() {
        client.wants(&names);
        let mut sent = 0;
        while client.server.reconcile(&now, client.now).is_some() {
            sent += 1;
        }
        assert_eq!(sent, names.len());
        assert_eq!(client.wants(&names[..1]).dropped, names.len() - 1);
        assert_eq!(client.server.names(), 1);
    }
}
