//! Resource types that are not served, on aggregated streams.
//!
//! Silence would stall a client that waits for its first answer, and an error would take its secrets away too. So every
//! question of another type is answered once, truthfully: there is nothing of that type here. In SotW that is a response
//! without resources; in delta it is `removed_resources` with the names asked for (none for a wildcard).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Frame, Limits, Origin, Request, ResourceName, TooManyNames, Variant, Version, response,
    subscription::{NAME_COPIES, NAME_COST, WILDCARD},
};

/// Types beyond this many are not answered: Envoy knows about a dozen.
const TYPES: usize = 32;
/// A longer type is none.
const LONGEST_TYPE: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Foreign {
    types: BTreeMap<String, BTreeSet<ResourceName>>,
    /// Answers that are owed, one a type however often it was asked for; the names are delta's.
    due: VecDeque<(String, BTreeSet<ResourceName>)>,
    answers: u32,
    /// Names that are remembered, and their bytes.
    names: usize,
    bytes: usize,
}

impl Foreign {
    /// Takes in a request of another type; says whether it is the first one of its type.
    ///
    /// # Errors
    /// [`TooManyNames`] when all types together have more than the limits allow.
    pub(super) fn on_request(
        &mut self,
        type_url: &str,
        request: Request,
        limits: Limits,
    ) -> Result<bool, TooManyNames> {
        let first = !self.types.contains_key(type_url);
        if first && (self.types.len() == TYPES || type_url.len() > LONGEST_TYPE) {
            return Ok(false);
        }
        let known = self.types.entry(type_url.to_owned()).or_default();
        let mut gone = BTreeSet::new();
        let mut unsubscribed = Vec::new();
        let asked = match request {
            Request::Sotw(request) => {
                let names: BTreeSet<_> = request.names.into_iter().collect();
                let before = std::mem::replace(known, names);
                !known.is_subset(&before)
            }
            Request::Delta(request) => {
                // Subscribing is always answered, but a wildcard is not a name that could be gone.
                let asked = !request.subscribe.is_empty();
                gone.extend(request.subscribe.into_iter().filter(|name| name.as_str() != WILDCARD));
                known.extend(gone.iter().cloned());
                unsubscribed = request.unsubscribe;
                unsubscribed.iter().for_each(|name| _ = known.remove(name));
                asked
            }
        };
        if first || asked {
            self.owe(type_url, gone);
        }
        if let Some((_, owed)) = self.due.iter_mut().find(|(due, _)| due == type_url) {
            unsubscribed.iter().for_each(|name| _ = owed.remove(name));
        }
        self.names = self.types.values().map(BTreeSet::len).sum();
        self.bytes = self.types.values().flatten().map(|name| name.as_str().len()).sum();
        limits.check(self.names, self.bytes).map(|()| first)
    }

    fn owe(&mut self, type_url: &str, names: BTreeSet<ResourceName>) {
        match self.due.iter_mut().find(|(due, _)| due == type_url) {
            Some((_, owed)) => owed.extend(names),
            None => self.due.push_back((type_url.to_owned(), names)),
        }
    }

    /// Bytes that this costs, about. What is owed is remembered too.
    pub(super) fn weight(&self) -> usize {
        self.types.len() * (LONGEST_TYPE + NAME_COST) + self.names * NAME_COST + self.bytes * NAME_COPIES
    }

    /// The next answer that is owed.
    pub(super) fn poll(&mut self, variant: Variant, origin: &Origin) -> Option<Frame> {
        let (type_url, names) = self.due.pop_front()?;
        self.answers = self.answers.wrapping_add(1);
        let nonce = format!("none.{}", self.answers);
        let removed: Vec<_> = names.into_iter().collect();
        let version = Version::digest([]);
        Some(response::without_resources(variant, origin, &type_url, version.as_str(), &nonce, &removed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{DeltaRequest, SECRET_TYPE_URL, SotwRequest};

    const LIMITS: Limits = Limits { names: 100, name_bytes: 1 << 20 };

    fn sotw(names: &[&str]) -> Request {
        let names = names.iter().map(|name| (*name).into()).collect();
        Request::Sotw(SotwRequest { names, ..SotwRequest::default() })
    }

    fn answers(foreign: &mut Foreign, variant: Variant) -> usize {
        let origin = Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() };
        std::iter::from_fn(|| foreign.poll(variant, &origin)).count()
    }

    #[test]
    fn types_beyond_the_limit_are_neither_remembered_nor_answered() {
        let mut foreign = Foreign::default();
        for i in 0..TYPES + 8 {
            assert_eq!(foreign.on_request(&format!("type{i}"), sotw(&["x"]), LIMITS), Ok(i < TYPES));
        }
        assert_eq!(foreign.names, TYPES);
        assert_eq!(answers(&mut foreign, Variant::Sotw), TYPES);
    }

    #[test]
    fn a_client_that_does_not_read_owes_us_no_memory() {
        let mut foreign = Foreign::default();
        for i in 0..100 {
            foreign.on_request("type", sotw(&[&format!("x{i}")]), LIMITS).unwrap();
        }
        assert_eq!(foreign.names, 1);
        assert_eq!(answers(&mut foreign, Variant::Sotw), 1);
        for _ in 0..10 {
            let subscribe = vec!["y".into(), "z".into()];
            let unsubscribe = vec!["z".into()];
            let request = DeltaRequest { subscribe, unsubscribe, ..DeltaRequest::default() };
            foreign.on_request("type", Request::Delta(request), LIMITS).unwrap();
        }
        assert_eq!(foreign.names, 2);
        assert_eq!(foreign.due[0].1.len(), 1);
        assert_eq!(answers(&mut foreign, Variant::Delta), 1);
    }
}
