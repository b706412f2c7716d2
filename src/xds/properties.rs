//! Whatever happens in whatever order, every client ends with the same content and is told nothing twice.
//!
//! One history of the world and of a client's wishes is played to a SotW, an aggregated SotW and a delta stream at once.
//! The oracle here knows only what was said and asked on the wire, nothing of the server's state. The fuzzer plays with
//! the same one.

mod client;
mod world;

use proptest::{collection::vec, prelude::*};

use world::{NAMES, Step};

fn step() -> impl Strategy<Value = Step> {
    let available = 0..NAMES.len() - 1;
    let every = 0..NAMES.len();
    prop_oneof![
        8 => available.clone().prop_map(Step::Rotate),
        1 => available.clone().prop_map(Step::Restore),
        2 => available.clone().prop_map(Step::Remove),
        2 => available.prop_map(Step::Withhold),
        2 => prop::bool::weighted(0.2).prop_map(Step::Pending),
        6 => every.clone().prop_map(Step::Want),
        3 => every.clone().prop_map(Step::Drop),
        2 => every.prop_map(Step::Again),
        2 => Just(Step::Repeat),
        1 => Just(Step::Garbage),
        16 => Just(Step::Poll),
        10 => Just(Step::Accept),
        2 => Just(Step::Refuse),
        3 => Just(Step::Reconnect),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn clients_of_every_kind_converge(pending: bool, steps in vec(step(), 1..80)) {
        client::converge(pending, steps);
    }
}
