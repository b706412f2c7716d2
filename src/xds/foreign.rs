//! Resource types that are not served, on aggregated streams.
//!
//! Silence would stall a client that waits for its first answer, and an error would take its secrets away too. So every
//! question of another type is answered once, truthfully: there is nothing of that type here. In SotW that is a response
//! without resources; in delta it is `removed_resources` with the names asked for (none for a wildcard).

use std::collections::{BTreeMap, BTreeSet};

use super::{Frame, Origin, Request, ResourceName, Variant, Version, response};

/// Types beyond this many are not answered: Envoy knows about a dozen.
const TYPES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Foreign {
    types: BTreeMap<String, Interest>,
    due: Vec<(String, Vec<ResourceName>)>,
    answers: u32,
}

#[derive(Debug, Default)]
struct Interest {
    names: BTreeSet<ResourceName>,
}

impl Foreign {
    /// Takes in a request of another type; says whether it is the first one of its type.
    pub(super) fn on_request(&mut self, type_url: &str, request: Request) -> bool {
        let first = !self.types.contains_key(type_url);
        if first && self.types.len() == TYPES {
            return false;
        }
        let interest = self.types.entry(type_url.to_owned()).or_default();
        let (added, removed, replaced): (Vec<_>, _, _) = match request {
            Request::Sotw(request) => (request.names.clone(), Vec::new(), Some(request.names)),
            Request::Delta(request) => (request.subscribe, request.unsubscribe, None),
        };
        let new: Vec<_> = added.into_iter().filter(|name| !interest.names.contains(name)).collect();
        match replaced {
            Some(names) => interest.names = names.into_iter().collect(),
            None => interest.names.extend(new.iter().cloned()),
        }
        for name in removed {
            interest.names.remove(&name);
        }
        if first || !new.is_empty() {
            self.due.push((type_url.to_owned(), new));
        }
        first
    }

    /// How many names are remembered.
    pub(super) fn names(&self) -> usize {
        self.types.values().map(|interest| interest.names.len()).sum()
    }

    /// The next answer that is owed.
    pub(super) fn poll(&mut self, variant: Variant, origin: &Origin) -> Option<Frame> {
        let (type_url, names) = self.due.pop()?;
        self.answers = self.answers.wrapping_add(1);
        let nonce = format!("none.{}", self.answers);
        let removed = if variant == Variant::Delta { names } else { Vec::new() };
        let version = Version::digest([]);
        Some(response::without_resources(variant, origin, &type_url, version.as_str(), &nonce, &removed))
    }
}
