use super::*;

const A: Owner = Owner::User(1);
const B: Owner = Owner::User(2);

fn connections(all: usize, of_peer: usize, interrupts: bool) -> Connections {
    Connections::new(Bounds { all, of_peer, interrupts }, ConnectionMetrics::default(), "test")
}

fn is_closed(place: &Place) -> bool {
    place.close.is_cancelled()
}

/// So many of one owner, each with a request under way, a moment after the other.
async fn busy(connections: &Connections, owner: Owner, count: usize) -> Vec<(Place, Busy)> {
    let mut places = Vec::new();
    for _ in 0..count {
        let place = connections.enter(owner).unwrap();
        let busy = place.activity.begin();
        places.push((place, busy));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    places
}

#[tokio::test(start_paused = true)]
async fn the_idlest_gives_way() {
    let it = connections(3, 3, false);
    let first = it.enter(A).unwrap();
    let served = first.activity.begin();
    tokio::time::advance(Duration::from_secs(1)).await;
    let (second, third) = (it.enter(A).unwrap(), it.enter(B).unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(second.activity.begin());
    // `second` has had a request since.
    let fourth = it.enter(A).unwrap();
    assert_eq!([&first, &second, &third, &fourth].map(is_closed), [false, false, true, false]);
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(served);
    let fifth = it.enter(B).unwrap();
    assert_eq!([&first, &second, &fourth, &fifth].map(is_closed), [false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_request_under_way_keeps_it() {
    let it = connections(2, 2, false);
    let held = busy(&it, A, 2).await;
    assert_eq!(it.enter(A).unwrap_err(), Full::Peer);
    assert!(held.iter().all(|(place, _)| !is_closed(place)));
}

#[tokio::test(start_paused = true)]
async fn nobody_keeps_another_user_out() {
    let it = connections(4, 4, false);
    let held = busy(&it, A, 4).await;
    let _theirs = busy(&it, B, 2).await;
    let closed: Vec<_> = held.iter().map(|(place, _)| is_closed(place)).collect();
    assert_eq!(closed, [false, false, true, true], "the newest of who has most");
    assert_eq!(it.enter(B).unwrap_err(), Full::All, "both have the same");
}

#[tokio::test(start_paused = true)]
async fn a_peer_makes_room_for_itself_only() {
    let it = connections(10, 2, false);
    let (theirs, first) = (it.enter(B).unwrap(), it.enter(A).unwrap());
    tokio::time::advance(Duration::from_secs(1)).await;
    let (second, third) = (it.enter(A).unwrap(), it.enter(A).unwrap());
    assert_eq!([&theirs, &first, &second, &third].map(is_closed), [false, true, false, false]);
}

#[tokio::test(start_paused = true)]
async fn where_answers_take_no_time_the_longest_request_gives_way() {
    let it = connections(2, 2, true);
    let held = busy(&it, A, 2).await;
    let _newcomer = it.enter(A).unwrap();
    assert_eq!([&held[0].0, &held[1].0].map(is_closed), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_waited_for_and_not_for_ever() {
    let it = connections(1, 1, false);
    let mut held = busy(&it, A, 1).await;
    let waiting = tokio::spawn({
        let it = it.clone();
        async move { it.enter_soon(A).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    held.clear();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let _held = busy(&it, A, 1).await;
    assert_eq!(it.enter_soon(A).await.unwrap_err(), Full::Peer);
    assert_eq!(it.crowd().map(|crowd| crowd.refused), Some(1));
    assert!(it.crowd().is_none(), "it has been said");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_who_is_gone() {
    let it = connections(2, 2, false);
    let held = busy(&it, A, 2).await;
    drop(held);
    let table = it.table();
    assert!(table.open.is_empty() && table.owners.is_empty());
}
