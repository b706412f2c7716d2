//! Histories of the world and of clients, judged by the oracle of the property test: whatever happens in whatever order,
//! every client ends with the same content and is told nothing twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_sds::xds;

#[path = "../../src/xds/properties/client.rs"]
mod client;
#[path = "../../src/xds/properties/world.rs"]
mod world;

use world::{NAMES, Step};

fn step(byte: u8) -> Step {
    let (every, available) = (usize::from(byte >> 4) % NAMES.len(), usize::from(byte >> 4) % (NAMES.len() - 1));
    match byte & 0xf {
        0 | 15 => Step::Rotate(available),
        1 => Step::Restore(available),
        2 => Step::Remove(available),
        3 => Step::Withhold(available),
        4 => Step::Pending(byte >> 4 == 0),
        5 => Step::Want(every),
        6 => Step::Drop(every),
        7 => Step::Again(every),
        8 => Step::Repeat,
        9 => Step::Garbage,
        10 => Step::Poll,
        11 => Step::Accept,
        12 => Step::Refuse,
        13 => Step::Reconnect,
        _ => Step::Wait,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    client::converge(first & 1 == 1, rest.iter().take(400).map(|byte| step(*byte)));
});
