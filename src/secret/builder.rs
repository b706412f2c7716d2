//! Parts of a resource set: what is there, what is withheld, and what else could come.

use std::{collections::BTreeMap, sync::Arc};

use super::{dot_free, encode::Payload};
use crate::xds::{Absence, Origin, Rank, Resource, ResourceName, ResourceSet};

/// Resources of one kind as of one moment. Cheap to clone; parts of different kinds make up a [`ResourceSet`].
#[derive(Clone)]
pub struct Part {
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: Vec<ResourceName>,
    possible: Absence,
}

impl Part {
    /// Everything in `self` and in `other`; where both have a name, `self` wins.
    #[must_use]
    pub fn join(&self, other: &Self) -> ResourceSet {
        let taken = |name: &ResourceName| self.resources.contains_key(name) || self.withheld.contains(name);
        let others = other.resources.iter().filter(|(name, _)| !taken(name)).map(|(_, resource)| resource);
        let resources = self.resources.values().chain(others).cloned();
        let withheld = self.withheld.iter().chain(other.withheld.iter().filter(|name| !taken(name))).cloned();
        let (one, two) = (self.possible.clone(), other.possible.clone());
        ResourceSet::new(resources, withheld, Arc::new(move |name| one(name) || two(name)))
    }
}

impl From<Part> for ResourceSet {
    fn from(part: Part) -> Self {
        Self::new(part.resources.into_values(), part.withheld, part.possible)
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.resources.keys()).finish()
    }
}

/// Collects resources under all the spellings of their names; the first claim to a name wins.
pub(super) struct Builder<'a> {
    origin: &'a Arc<Origin>,
    before: Option<&'a Part>,
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: Vec<ResourceName>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(origin: &'a Arc<Origin>) -> Self {
        Self { origin, before: None, resources: BTreeMap::new(), withheld: Vec::new() }
    }

    /// Takes what has the same name and version from an earlier part, with the frames that its streams share.
    pub(super) fn reusing(mut self, before: Option<&'a Part>) -> Self {
        self.before = before;
        self
    }

    pub(super) fn finish(self, possible: Absence) -> Part {
        Part { resources: self.resources, withheld: self.withheld, possible }
    }

    pub(super) fn add(&mut self, name: &str, listed: bool, rank: Rank, payload: &mut Payload) {
        let spellings = [(name.to_owned(), listed)].into_iter().chain(dot_free(name).map(|name| (name, false)));
        for (text, listed) in spellings {
            let name = ResourceName::from(text.as_str());
            if self.withheld.contains(&name) || self.resources.contains_key(&name) {
                continue;
            }
            let known = self.before.and_then(|before| before.resources.get(&name));
            let resource = match known.filter(|known| known.version() == payload.version()) {
                Some(known) => known.clone(),
                None => {
                    let (version, body) = (payload.version().clone(), payload.encode(&text));
                    Arc::new(Resource::new(name.clone(), version, rank, listed, body, self.origin.clone()))
                }
            };
            self.resources.insert(name, resource);
        }
    }

    pub(super) fn add_context<'n>(&mut self, names: impl Iterator<Item = (&'n str, bool)>, payload: Option<Payload>) {
        match payload {
            Some(mut payload) => names.for_each(|(name, listed)| self.add(name, listed, Rank::Trust, &mut payload)),
            None => names.for_each(|(name, _)| self.withhold(name)),
        }
    }

    pub(super) fn withhold(&mut self, name: &str) {
        let spellings = [name.to_owned()].into_iter().chain(dot_free(name)).map(ResourceName::from);
        self.withheld.extend(spellings.filter(|name| !self.resources.contains_key(name)));
    }
}
