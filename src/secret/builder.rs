//! Parts of a resource set: what is there, what is withheld, and what else could come.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Pattern, dot_free};
use crate::xds::{Absence, Content, Origin, Resource, ResourceName, ResourceSet};

/// Resources of one kind as of one moment. Cheap to clone; parts of different kinds make up a [`ResourceSet`].
#[derive(Clone)]
pub struct Part {
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: BTreeSet<ResourceName>,
    possible: Absence,
    /// Names that are withheld when they are not there, though nobody can list them.
    withholding: Option<Absence>,
}

impl Part {
    /// Everything in `self` and in `other`; where both have a name, `self` wins.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let taken = |name: &ResourceName| self.resources.contains_key(name) || self.withheld.contains(name);
        let mut joined = self.clone();
        let others = other.resources.iter().filter(|(name, _)| !taken(name));
        joined.resources.extend(others.map(|(name, resource)| (name.clone(), resource.clone())));
        joined.withheld.extend(other.withheld.iter().filter(|name| !taken(name)).cloned());
        joined.possible = either(&self.possible, &other.possible);
        joined.withholding = match (&self.withholding, &other.withholding) {
            (Some(one), Some(two)) => Some(either(one, two)),
            (one, two) => one.as_ref().or(two.as_ref()).cloned(),
        };
        joined
    }

    /// The same, but of what is not there, names for which `withholding` holds are withheld.
    pub(super) fn withholding(self, withholding: Absence) -> Self {
        Self { withholding: Some(withholding), ..self }
    }

    /// Everything that is there.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The resource of this name, if it is there.
    pub(super) fn resource(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }

    /// Whether there is something of this name that must not be sent now.
    pub(super) fn withholds(&self, name: &str) -> bool {
        self.withheld.contains(name)
    }
}

impl From<Part> for ResourceSet {
    fn from(part: Part) -> Self {
        let set = Self::new(part.resources.into_values(), part.withheld, part.possible);
        match part.withholding {
            Some(withholding) => set.withholding(withholding),
            None => set,
        }
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
    allowed: Option<&'a [Pattern]>,
    resources: BTreeMap<ResourceName, Arc<Resource>>,
    withheld: BTreeSet<ResourceName>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(origin: &'a Arc<Origin>) -> Self {
        Self { origin, before: None, allowed: None, resources: BTreeMap::new(), withheld: BTreeSet::new() }
    }

    /// Takes what has the same name and version from an earlier part, with the frames that its streams share.
    pub(super) fn reusing(mut self, before: Option<&'a Part>) -> Self {
        self.before = before;
        self
    }

    /// From now on only names like these.
    pub(super) fn only(&mut self, allowed: Option<&'a [Pattern]>) {
        self.allowed = allowed;
    }

    pub(super) fn finish(self, possible: Absence) -> Part {
        Part { resources: self.resources, withheld: self.withheld, possible, withholding: None }
    }

    /// A name for a content; its dot-free spelling is never listed.
    pub(super) fn add(&mut self, name: &str, listed: bool, content: &Arc<Content>) {
        if !is_allowed(name, self.allowed) {
            return;
        }
        let spellings = [(name.to_owned(), listed)].into_iter().chain(dot_free(name).map(|name| (name, false)));
        for (name, listed) in spellings {
            let name = ResourceName::from(name);
            if self.withheld.contains(&name) || self.resources.contains_key(&name) {
                continue;
            }
            let known = self.before.and_then(|before| before.resources.get(&name));
            let resource = match known.filter(|known| known.version() == content.version()) {
                Some(known) => known.clone(),
                None => Arc::new(Resource::new(name.clone(), listed, content.clone(), self.origin.clone())),
            };
            self.resources.insert(name, resource);
        }
    }

    /// A name for something that is there and must not be sent now.
    pub(super) fn withhold(&mut self, name: &str) {
        if is_allowed(name, self.allowed) {
            let spellings = [name.to_owned()].into_iter().chain(dot_free(name)).map(ResourceName::from);
            self.withheld.extend(spellings.filter(|name| !self.resources.contains_key(name)));
        }
    }

    /// Either, depending on whether there is a content.
    pub(super) fn add_or_withhold(&mut self, name: &str, listed: bool, content: Option<&Arc<Content>>) {
        match content {
            Some(content) => self.add(name, listed, content),
            None => self.withhold(name),
        }
    }
}

fn either(one: &Absence, two: &Absence) -> Absence {
    let (one, two) = (one.clone(), two.clone());
    Arc::new(move |name| one(name) || two(name))
}

/// Whether `name` is like one of those that are answered.
pub(super) fn is_allowed(name: &str, allowed: Option<&[Pattern]>) -> bool {
    allowed.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(name)))
}
