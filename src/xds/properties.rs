//! Whatever happens in whatever order, every client ends with the same content and is told nothing twice.
//!
//! One history of the world and of a client's wishes is played to a SotW, an aggregated SotW and a delta stream at once.
//! The oracle here knows only what was said and asked on the wire, nothing of the server's state.

mod client;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{Lookup, ResourceSet, Variant, subscription::tests::set};
use client::{Client, Content};

const NAMES: [&str; 6] = ["a", "b", "c", "roots-a", "roots-b", "never"];

/// What happens next. Names are indices into [`NAMES`].
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The source gives the name other content; also how it first appears.
    Rotate(usize),
    /// The source goes back to the content before.
    Restore(usize),
    Remove(usize),
    Withhold(usize),
    /// The source is (not) known.
    Pending(bool),
    Want(usize),
    Drop(usize),
    /// Delta only: subscribes to what it has subscribed to.
    Again(usize),
    /// SotW: sends its last request once more. Delta: says nothing, with an old nonce.
    Repeat,
    Garbage,
    /// The server may send one response.
    Poll,
    /// The client gets to its oldest response.
    Accept,
    Refuse,
    Reconnect,
    Wait,
}

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

/// What the source says.
#[derive(Clone, Default)]
struct World {
    /// `None` is withheld.
    content: BTreeMap<&'static str, Option<u32>>,
    pending: bool,
    versions: u32,
}

impl World {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Rotate(i) => {
                self.versions += 1;
                self.content.insert(NAMES[i], Some(self.versions));
            }
            Step::Restore(i) => {
                if let Some(Some(version)) = self.content.get_mut(NAMES[i]) {
                    *version = version.saturating_sub(1).max(1);
                }
            }
            Step::Remove(i) => _ = self.content.remove(NAMES[i]),
            Step::Withhold(i) => _ = self.content.insert(NAMES[i], None),
            Step::Pending(pending) => self.pending = pending,
            _ => {}
        }
    }

    fn set(&self) -> ResourceSet {
        if self.pending {
            return ResourceSet::pending();
        }
        let entry = |(name, version): (&&str, &Option<u32>)| match version {
            Some(version) => format!("{name}@{version}"),
            None => format!("{name}@-"),
        };
        let entries: Vec<_> = self.content.iter().map(entry).collect();
        set(&entries.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn clients_of_every_kind_converge(pending: bool, steps in vec(step(), 1..80)) {
        let mut world = World { pending, ..World::default() };
        let mut clients =
            [Client::new(Variant::Sotw, false), Client::new(Variant::Sotw, true), Client::new(Variant::Delta, false)];
        for step in steps {
            world.apply(step);
            let now = world.set();
            clients.iter_mut().for_each(|client| client.apply(step, &now));
        }
        world.pending = false;
        let now = world.set();
        for client in &mut clients {
            client.settle(&now);
            client.check_settled(&now);
        }
        // Content that nobody has refused: now there is no excuse.
        (0..NAMES.len() - 1).for_each(|i| if world.content.contains_key(NAMES[i]) { world.apply(Step::Rotate(i)) });
        let now = world.set();
        for client in &mut clients {
            client.settle(&now);
            client.check_settled(&now);
            client.check_silent_reconnect(&now);
        }
        let [plain, aggregated, delta] = clients.map(|client| {
            client.held.into_iter().filter(|(name, _)| matches!(now.lookup(name), Lookup::Available(_))).collect::<Content>()
        });
        prop_assert_eq!(&plain, &aggregated);
        prop_assert_eq!(&plain, &delta);
    }
}
