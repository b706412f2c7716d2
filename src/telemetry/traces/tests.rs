use std::time::UNIX_EPOCH;

use super::{
    fixture::{Keeper, shown},
    *,
};
use crate::xds::SECRET_TYPE_URL;

fn at(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

fn cause(received: u64) -> Cause {
    Cause { trigger: "message", source: Some("unix:///agent".into()), received: at(received) }
}

fn ready() -> Availability {
    Availability::Ready(Arc::default())
}

fn push(name: &str, millis: u64) -> Push {
    Push {
        stream: [("node", "envoy-1".into())].into(),
        type_url: SECRET_TYPE_URL,
        name: name.into(),
        version: Version::claimed("v1"),
        nonce: "n1".into(),
        bytes: 7,
        at: at(millis),
        links: Vec::new(),
    }
}

fn begun(traces: &Traces) -> Rotation {
    let state = ready();
    traces.publishing(&state, || cause(1), || true);
    traces.claim(&state).unwrap()
}

#[test]
fn it_ends_with_the_last_answer_of_the_last_who_holds_it() {
    let (keeper, traces) = Keeper::traces();
    let rotation = begun(&traces);
    let stream = rotation.clone();
    // The decoding has taken until now, by the clock of this machine; answers come later.
    let later = SystemTime::now() + Duration::from_secs(1);
    let (a, b) = (stream.pushed(push("a", 2)).unwrap(), stream.pushed(push("b", 2)).unwrap());
    drop(rotation);
    stream.answered(a, Verdict::Acked, later);
    stream.answered(b, Verdict::Rejected("no way"), later + Duration::from_secs(1));
    stream.answered(b, Verdict::Acked, later + Duration::from_secs(2));
    assert!(keeper.take().is_empty(), "somebody may still push");
    drop(stream);
    let kept = keeper.take().pop().unwrap();
    assert_eq!((kept.root.start, kept.root.end), (at(1), later + Duration::from_secs(1)));
    assert_eq!(kept.root.error.as_deref(), Some("1 of 2 pushes were rejected"));
    let root = ["kind", "trigger", "source", "outcome", "pushes", "acked", "rejected", "unanswered", "untraced"];
    assert_eq!(
        root.map(|name| kept.root(name)),
        ["x509", "message", "unix:///agent", "rejected", "2", "1", "1", "0", "-"]
    );
    let names: Vec<_> = kept.children.iter().map(|child| (child.name, shown(child, "name"))).collect();
    assert_eq!(names, [("decode", "-".into()), ("push", "a".into()), ("push", "b".into())]);
    let refused = &kept.children[2];
    assert_eq!((shown(refused, "answer"), refused.error.as_deref()), ("nack".to_owned(), Some("no way")));
}

#[test]
fn a_state_is_claimed_once_and_only_if_it_was_news() {
    let (keeper, traces) = Keeper::traces();
    let state = ready();
    traces.publishing(&state, || cause(1), || false);
    assert!(traces.claim(&state).is_none(), "it was published before");
    traces.publishing(&state, || cause(1), || true);
    assert!(traces.claim(&ready()).is_none(), "equal, but another one");
    assert!(traces.claim(&state).is_some());
    assert!(traces.claim(&state).is_none());
    let denied = Availability::Denied("because".into());
    traces.publishing(&denied, || cause(2), || true);
    assert!(traces.claim(&denied).is_some());
    assert_eq!(keeper.take().len(), 2);
    let mut published = false;
    Traces::default().publishing(
        &state,
        || unreachable!(),
        || {
            published = true;
            true
        },
    );
    assert!(published, "whether it is traced or not");
}

#[test]
fn what_was_replaced_before_anybody_saw_it_is_linked_and_over() {
    let (keeper, traces) = Keeper::traces();
    let (states, tokens) = ([ready(), ready()], Arc::new(JwtSnapshot::default()));
    traces.publishing(&states[0], || cause(1), || true);
    traces.publishing_tokens(&tokens, || cause(2), || true);
    traces.publishing(&states[1], || cause(3), || true);
    drop(traces.claim(&states[1]).unwrap());
    let kept = keeper.take();
    assert_eq!(kept.iter().map(|kept| kept.root("outcome")).collect::<Vec<_>>(), ["superseded", "complete"]);
    assert_eq!(kept[1].root.links, [kept[0].context]);
    assert!(traces.claim_tokens(&tokens).is_some(), "tokens are not replaced by certificates");
}

#[test]
fn whoever_does_not_answer_is_named_in_the_end() {
    let (keeper, traces) = Keeper::traces();
    let rotation = begun(&traces);
    let number = rotation.pushed(push("slow", 2)).unwrap();
    let over = SystemTime::now() + Duration::from_secs(300);
    rotation.give_up(over);
    let kept = keeper.take().pop().unwrap();
    assert_eq!((kept.root("outcome"), kept.root("unanswered"), kept.root.end), ("timeout".into(), "1".into(), over));
    let push = &kept.children[1];
    assert_eq!((shown(push, "name"), push.error.as_deref()), ("slow".into(), Some("no answer in five minutes")));
    // What comes later is nobody's any more.
    rotation.answered(number, Verdict::Acked, over);
    assert!(rotation.pushed(push_again()).is_none());
    drop(rotation);
    assert!(keeper.take().is_empty());
}

fn push_again() -> Push {
    push("late", 3)
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_longer_than_five_minutes() {
    let (keeper, traces) = Keeper::traces();
    let rotation = begun(&traces);
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert!(keeper.take().is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(keeper.take()[0].root("outcome"), "timeout");
    drop(rotation);
}

#[test]
fn what_is_waited_for_is_bounded_over_all_rotations() {
    let (keeper, traces) = Keeper::traces();
    let (first, second) = (begun(&traces), begun(&traces));
    let taken = (0..40_000).filter(|_| first.pushed(push("a", 2)).is_some()).count();
    assert_eq!(taken, 32_768);
    assert!(second.pushed(push("b", 2)).is_none());
    drop(first);
    assert_eq!(keeper.take()[0].root("untraced"), (40_000 - 32_768).to_string());
    assert!(second.pushed(push("b", 2)).is_some(), "there is room again");
}

#[test]
fn a_step_holds_its_rotation_until_every_stream_has_looked() {
    let (keeper, traces) = Keeper::traces();
    let (mut first, second) = (traces.follow().unwrap(), traces.follow().unwrap());
    let rotation = begun(&traces);
    assert_eq!((traces.step(&rotation, HashSet::new()), traces.step(&rotation, HashSet::new())), (1, 2));
    drop(rotation);
    while first.try_recv().is_ok() {}
    assert!(keeper.take().is_empty(), "the second stream has not looked");
    drop(second);
    assert_eq!(keeper.take().len(), 1);
}
