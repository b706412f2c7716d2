//! What nodes say of themselves, once for all their streams.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::xds::Details;

/// So few are kept whether they are needed or not.
const FEW: usize = 64;

/// All that is remembered.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    details: BTreeSet<Arc<Details>>,
    /// How many there must be until it is looked for such as nobody needs any more.
    enough: usize,
}

impl Shelf {
    /// The same details as all streams have that say the same.
    pub(super) fn share(&self, details: Details) -> Arc<Details> {
        let All { details: all, enough } = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&details) {
            return known.clone();
        }
        if all.len() >= *enough {
            all.retain(|details| Arc::strong_count(details) > 1);
            *enough = 2 * all.len() + FEW;
        }
        let details = Arc::new(details);
        all.insert(details.clone());
        details
    }

    /// A stream needs them no longer.
    pub(super) fn give_back(&self, details: Arc<Details>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever looks at this moment has one too: then they go later.
        if Arc::strong_count(&details) <= 2 {
            all.details.remove(&details);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(text: &str) -> Details {
        Details { metadata: text.as_bytes().to_vec(), ..Details::default() }
    }

    #[test]
    fn all_streams_of_a_node_share_what_it_says_and_the_last_one_takes_it_along() {
        let shelf = Shelf::default();
        let (one, two, other) = (shelf.share(details("a")), shelf.share(details("a")), shelf.share(details("b")));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        shelf.give_back(one);
        assert_eq!(shelf.0.lock().unwrap().details.len(), 2);
        shelf.give_back(two);
        shelf.give_back(other);
        assert!(shelf.0.lock().unwrap().details.is_empty());
    }

    #[test]
    fn what_somebody_looked_at_when_it_went_is_not_kept_for_ever() {
        let shelf = Shelf::default();
        for at in 0..10_000 {
            let details = shelf.share(details(&at.to_string()));
            let looked_at = details.clone();
            shelf.give_back(details);
            drop(looked_at);
        }
        assert!(shelf.0.lock().unwrap().details.len() <= FEW);
    }
}
