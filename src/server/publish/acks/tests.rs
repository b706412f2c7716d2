use proptest::prelude::*;

use super::*;

fn acks() -> Acks {
    Acks::counting(RolloutMetrics::default())
}

/// A stream that has answered everything so far.
fn answering(acks: &Acks, step: u64) -> AckSeat {
    let mut seat = acks.seat();
    seat.answers();
    seat.has(step);
    seat
}

#[test]
fn a_step_is_complete_when_every_stream_has_it() {
    let acks = acks();
    let (mut one, mut two) = (answering(&acks, 0), answering(&acks, 0));
    assert_eq!(acks.begin(), 1);
    one.has(1);
    assert_eq!(acks.acked(), 0);
    two.has(1);
    assert_eq!(acks.acked(), 1);
    // The second of two stands for the first, and neither is taken twice.
    assert_eq!((acks.begin(), acks.begin()), (2, 3));
    one.has(3);
    one.has(3);
    two.has(2);
    assert_eq!(acks.acked(), 2);
    two.has(3);
    assert_eq!(acks.acked(), 3);
}

#[test]
fn nobody_is_waited_for_who_has_never_answered() {
    let acks = acks();
    let mut silent = acks.seat();
    silent.has(0);
    assert_eq!((acks.begin(), acks.acked()), (1, 1));
    // From its first answer on.
    silent.answers();
    silent.has(1);
    assert_eq!((acks.begin(), acks.acked()), (2, 1));
}

#[test]
fn a_stream_that_ends_is_not_waited_for() {
    let acks = acks();
    let (one, mut two) = (answering(&acks, 0), answering(&acks, 0));
    acks.begin();
    two.has(1);
    drop(one);
    assert_eq!(acks.acked(), 1);
    acks.begin();
    drop(two);
    assert_eq!((acks.acked(), acks.begin(), acks.acked()), (2, 3, 3));
}

#[test]
fn who_is_given_up_counts_again_when_it_has_caught_up() {
    let acks = acks();
    let (mut prompt, mut late) = (answering(&acks, 0), answering(&acks, 0));
    acks.begin();
    prompt.has(1);
    acks.begin();
    assert_eq!(acks.give_up(1), 1);
    assert_eq!(acks.acked(), 1);
    prompt.has(2);
    assert_eq!(acks.acked(), 2, "it is not waited for any more");
    assert_eq!(acks.give_up(2), 0, "nor given up twice");
    assert_eq!(late.counts_from(), Some(0), "which it does not know yet");
    acks.begin();
    late.has(1);
    prompt.has(3);
    assert_eq!(acks.acked(), 2, "it has what it was waited for, and is waited for again");
    late.has(3);
    assert_eq!(acks.acked(), 3);
    assert_eq!(late.counts_from(), Some(3));
    // Ending while given up changes nothing.
    acks.begin();
    prompt.has(4);
    acks.give_up(4);
    drop(late);
    acks.begin();
    assert_eq!(acks.acked(), 4);
    prompt.has(5);
    assert_eq!(acks.acked(), 5);
}

#[test]
fn who_returns_is_waited_for_at_once() {
    let acks = acks();
    acks.begin();
    assert!(!acks.has_returned());
    let mut back = acks.seat();
    back.has(1);
    back.returns();
    assert!(acks.has_returned());
    assert_eq!(acks.acked(), 0, "what it holds may be older than the last step");
    back.has(1);
    assert_eq!(acks.acked(), 1);
    // Given up at the very step that it came back to.
    let mut stopped = acks.seat();
    stopped.returns();
    assert_eq!((acks.acked(), acks.give_up(1), acks.acked()), (0, 1, 1));
    stopped.has(1);
    acks.begin();
    drop((back, stopped));
    assert_eq!(acks.acked(), 2);
}

#[test]
fn more_steps_than_are_counted_are_complete_with_the_newest() {
    let acks = acks();
    let mut slow = answering(&acks, 0);
    let last = (0..100).fold(0, |_, _| acks.begin());
    slow.has(last - 1);
    assert!(acks.acked() < last - 1);
    assert!(acks.lock().open.len() <= OPEN);
    slow.has(last);
    assert_eq!(acks.acked(), last);
}

#[derive(Clone, Debug)]
enum Act {
    Opens,
    Returns(usize),
    Answers(usize),
    Has(usize, u64),
    Ends(usize),
    Begins,
    GivesUp,
}

fn act() -> impl Strategy<Value = Act> {
    let at = 0..6_usize;
    prop_oneof![
        2 => Just(Act::Opens),
        1 => at.clone().prop_map(Act::Returns),
        3 => at.clone().prop_map(Act::Answers),
        6 => (at.clone(), 0..4_u64).prop_map(|(at, back)| Act::Has(at, back)),
        1 => at.prop_map(Act::Ends),
        3 => Just(Act::Begins),
        1 => Just(Act::GivesUp),
    ]
}

proptest! {
    /// The counts are what looking at every stream would give.
    #[test]
    fn counts_are_those_of_the_streams(actions in proptest::collection::vec(act(), 0..120)) {
        let acks = acks();
        let mut seats: Vec<AckSeat> = Vec::new();
        for action in actions {
            match action {
                Act::Opens if seats.len() < 6 => seats.push(acks.seat()),
                Act::Returns(at) => if let Some(seat) = seats.get_mut(at) { seat.returns() },
                Act::Answers(at) => if let Some(seat) = seats.get_mut(at) { seat.answers() },
                Act::Has(at, back) => {
                    let step = acks.lock().last.saturating_sub(back);
                    if let Some(seat) = seats.get_mut(at) { seat.has(step) }
                }
                Act::Ends(at) if at < seats.len() => _ = seats.remove(at),
                Act::Begins => _ = acks.begin(),
                Act::GivesUp => {
                    let oldest = acks.lock().open.front().map(|open| open.number);
                    if let Some(number) = oldest { acks.give_up(number); }
                }
                Act::Opens | Act::Ends(_) => {}
            }
            let tally = acks.lock();
            let counted = |seat: &mut AckSeat| { seat.look(&tally); seat.counts_from() };
            let has: Vec<u64> = seats.iter_mut().filter_map(counted).collect();
            prop_assert_eq!(tally.counted, has.len());
            for open in &tally.open {
                prop_assert_eq!(open.left, has.iter().filter(|has| **has < open.number).count());
                prop_assert!(open.left > 0 && open.number > tally.acked);
            }
            prop_assert_eq!(tally.open.is_empty(), tally.acked == tally.last);
        }
    }
}
