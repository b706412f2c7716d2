//! A client that comes back says what it holds, and what it holds is not sent again.

use super::*;

impl Client {
    /// A new stream of the same client, which repeats what it accepted last.
    fn reconnects(&self) -> Self {
        let mut next = Self::new(Variant::Sotw, self.server.wildcard_allowed, self.server.heals);
        let names: Vec<_> = self.names.iter().map(String::as_str).collect();
        next.sends(&self.version_info, "", &names);
        next.version_info.clone_from(&self.version_info);
        next
    }
}

/// A client that has accepted what is in the set.
fn settled(names: &[&str], now: &ResourceSet) -> Client {
    let mut client = Client::ads();
    client.wants(names);
    while client.poll(now).is_some() {}
    client.acks_all();
    client
}

#[test]
fn sotw_what_is_known_is_not_sent_and_later_changes_are() {
    let now = set(&["a@1"]);
    let mut client = settled(&["a"], &now).reconnects();
    client.hears(&now, &[]);
    assert_eq!(client.statuses()["a"], Status::Acked);
    client.hears(&set(&["a@2"]), &["a@2"]);
    client.acks_all();
    client.hears(&set(&["a@2"]), &[]);
}

#[test]
fn sotw_an_unknown_state_is_answered_in_full() {
    let now = set(&["a@1", "b@1"]);
    settled(&["a", "b"], &now).reconnects().hears(&set(&["a@1", "b@2"]), &["a@1", "b@2"]);
    let mut client = Client::sotw();
    client.sends("of another server", "", &["a", "b"]);
    client.hears(&now, &["a@1", "b@1"]);
}

#[test]
fn sotw_the_last_accepted_version_stands_for_all_names() {
    let mut client = settled(&["a", "b", "roots"], &set(&["a@1", "b@1", "roots@1"]));
    client.hears(&set(&["a@1", "b@2", "roots@1"]), &["b@2"]);
    client.acks_all();
    client.reconnects().hears(&set(&["a@1", "b@2", "roots@1"]), &[]);
}

#[test]
fn sotw_names_that_are_not_to_be_had_do_not_spoil_it() {
    let mut client = settled(&["a", "b", "never", "later"], &set(&["a@1", "b@1"]));
    client.reconnects().hears(&set(&["a@1", "b@1"]), &[]);
    client.hears(&set(&["a@2", "b@-"]), &["a@2"]);
    client.acks_all();
    client.reconnects().hears(&set(&["a@2", "b@-"]), &[]);
    client.hears(&set(&["a@3"]), &["a@3"]);
    client.acks_all();
    client.reconnects().hears(&set(&["a@3"]), &[]);
}

#[test]
fn sotw_part_of_an_answer_is_not_the_whole() {
    let now = set(&["a@1", "b@1", "c@1"]);
    for accepted in 1..3 {
        let mut client = Client::ads();
        client.wants(&["a", "b", "c"]);
        client.hears(&now, &["a@1", "b@1", "c@1"]);
        (0..accepted).for_each(|_| _ = client.acks());
        client.reconnects().hears(&now, &["a@1", "b@1", "c@1"]);
    }
}

#[test]
fn sotw_a_refusal_does_not_change_what_the_client_holds() {
    let mut client = settled(&["a"], &set(&["a@1"]));
    client.hears(&set(&["a@2"]), &["a@2"]);
    client.nacks("no");
    client.reconnects().hears(&set(&["a@1"]), &[]);
    client.reconnects().hears(&set(&["a@2"]), &["a@2"]);
}

#[test]
fn sotw_the_claim_waits_for_an_identity_that_is_pending() {
    let now = set(&["a@1", "b@1"]);
    let mut client = settled(&["a", "b"], &now).reconnects();
    client.hears(&ResourceSet::pending(), &[]);
    client.hears(&now, &[]);
    client.hears(&set(&["a@1", "b@2"]), &["b@2"]);
}

#[test]
fn sotw_the_claim_counts_for_the_first_answer_only() {
    let now = set(&["a@1"]);
    let mut client = settled(&["a"], &now).reconnects();
    client.hears(&set(&["a@2"]), &["a@2"]);
    client.hears(&now, &["a@1"]);
}

#[test]
fn sotw_a_claim_in_the_middle_of_a_stream_is_nothing() {
    let now = set(&["a@1"]);
    let version_info = settled(&["a"], &now).version_info;
    let mut client = Client::sotw();
    client.sends("", "", &["b"]);
    client.sends(&version_info, "", &["a"]);
    client.hears(&now, &["a@1"]);
}

#[test]
fn sotw_the_claim_is_about_the_names_of_the_first_request() {
    // Envoy repeats the version of the type even when it has let go of every name, and wants one anew later.
    let now = set(&["a@1"]);
    let mut client = settled(&["a"], &now);
    client.names.clear();
    let mut client = client.reconnects();
    client.hears(&now, &[]);
    client.wants(&["a"]);
    client.hears(&now, &["a@1"]);
}

#[test]
fn sotw_knowing_some_of_the_names_means_all_are_sent() {
    let now = set(&["a@1", "b@1"]);
    let mut client = settled(&["a"], &now);
    client.names.insert("b".into());
    client.reconnects().hears(&now, &["a@1", "b@1"]);
    client.reconnects().hears(&set(&["a@1"]), &[]);
}

#[test]
fn sotw_the_wildcard_can_be_resumed() {
    let now = set(&["a@1", "b@1"]);
    let mut client = Client::new(Variant::Sotw, true, false);
    client.wants(&[]);
    client.hears(&now, &["a@1", "b@1"]);
    client.acks_all();
    client.reconnects().hears(&now, &[]);
}

#[test]
fn delta_what_is_known_is_not_sent() {
    let mut client = Client::delta();
    client.edits(&["a", "b", "c"], &[], &[("a", "1"), ("b", "1")]);
    client.hears(&set(&["a@1", "b@2", "c@1"]), &["b@2", "c@1"]);
    client.hears(&set(&["a@2", "b@2", "c@1"]), &["a@2"]);
}

#[test]
fn delta_what_vanished_meanwhile_is_said_once() {
    let mut client = Client::delta();
    client.edits(&["gone", "never", "later"], &[], &[("gone", "1"), ("never", "1")]);
    client.hears(&set(&["b@1"]), &["-gone -never"]);
    client.hears(&set(&["b@2"]), &[]);
}

#[test]
fn delta_what_is_known_waits_for_an_identity_that_is_pending() {
    let mut client = Client::delta();
    client.edits(&["a", "b"], &[], &[("a", "1")]);
    client.hears(&ResourceSet::pending(), &[]);
    client.hears(&set(&["a@1", "b@-"]), &[]);
    client.hears(&set(&["a@1", "b@1"]), &["b@1"]);
}

#[test]
fn delta_versions_of_names_that_are_not_asked_for_are_nothing() {
    let mut client = Client::delta();
    client.edits(&["a"], &[], &[("a", "1"), ("b", "1")]);
    client.hears(&set(&["b@2"]), &["-a"]);
    assert_eq!(client.server.names(), 1);
}

#[test]
fn delta_initial_versions_count_in_the_first_request_only() {
    let mut client = Client::delta();
    client.edits(&["b"], &[], &[]);
    client.edits(&["a"], &[], &[("a", "1")]);
    client.hears(&set(&["a@1"]), &["a@1"]);
}

#[test]
fn ads_a_repeated_request_after_a_silent_reconnect_is_a_call_for_help_too() {
    let now = set(&["a@1"]);
    let mut client = settled(&["a"], &now).reconnects();
    // A duplicate before anything was decided is a stutter.
    client.repeats();
    client.hears(&now, &[]);
    assert!(client.repeats().resent);
    client.hears(&now, &["a@1"]);
}

/// Before the source has spoken a part may be known that has another source: the claim is about the whole.
#[test]
fn sotw_a_claim_waits_until_everything_is_known() {
    let full = set(&["default@1", "file@1"]);
    let mut before = Client::sotw();
    before.wants(&["default", "file"]);
    before.hears(&full, &["default@1", "file@1"]);
    before.acks_all();
    let mut client = Client::sotw();
    client.sends(&before.version_info.clone(), "", &["default", "file"]);
    client.hears(&ResourceSet::pending_but(&[resource("file", "1")]), &["file@1"]);
    client.acks_all();
    client.hears(&full, &[]);
}

/// `now` for a client that must not have its certificates, whose version begins with `l`, yet.
fn without_leaves(now: &ResourceSet) -> ResourceSet {
    let leaves =
        now.iter().map(|resource| resource.version().clone()).filter(|version| version.as_str().starts_with('l'));
    ResourceSet::keeping_back(&Arc::new(now.clone()), Arc::new(leaves.collect()))
}

#[test]
fn what_is_kept_back_is_not_sent_and_still_known() {
    let (old, new) = (set(&["leaf@l1", "roots@r1"]), set(&["leaf@l2", "roots@r2"]));
    let client = settled(&["leaf", "roots"], &old);
    let mut same = client.reconnects();
    same.hears(&without_leaves(&old), &[]);
    same.hears(&old, &[]);
    let mut other = client.reconnects();
    other.hears(&without_leaves(&new), &["roots@r2"]);
    other.acks_all();
    other.hears(&new, &["leaf@l2"]);

    let mut delta = Client::delta();
    assert!(delta.edits(&["leaf", "roots", "other"], &[], &[("leaf", "l1"), ("roots", "r2")]).returns);
    delta.hears(&without_leaves(&new), &[]);
    delta.hears(&new, &["leaf@l2"]);
    assert!(!Client::delta().edits(&["leaf"], &[], &[]).returns && !Client::sotw().sends("", "", &["leaf"]).returns);
    assert!(Client::sotw().sends("v", "", &["leaf"]).returns);
}

#[test]
fn a_step_is_there_when_all_that_was_sent_for_it_is_answered() {
    for mut client in Client::each() {
        let step = |client: &Client| client.server.has_step();
        client.wants(&["a", "roots"]);
        client.server.looks_at(1);
        client.hears(&set(&["a@1", "roots@1"]), &["roots@1", "a@1"]);
        assert_eq!(step(&client), 0);
        client.acks();
        assert_eq!(step(&client), 0);
        client.server.looks_at(2);
        client.hears(&set(&["a@1", "roots@1"]), &[]);
        client.acks();
        assert_eq!(step(&client), 2, "nothing was new in it");
        client.server.looks_at(3);
        client.hears(&set(&["a@1", "roots@2"]), &["roots@2"]);
        client.server.looks_at(4);
        client.hears(&set(&["a@2", "roots@2"]), &["a@2"]);
        assert_eq!(step(&client), 2);
        client.nacks("no");
        assert_eq!(step(&client), 3, "a refusal is an answer");
        client.acks();
        assert_eq!(step(&client), 4);
    }
}
