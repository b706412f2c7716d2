//! Which names have changed since somebody looked.

use std::collections::BTreeSet;

use crate::xds::ResourceName;

/// More names than this are all.
const FEW: usize = 1024;

/// Some names, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    all: bool,
    names: BTreeSet<ResourceName>,
}

impl Changes {
    /// The names; `None` for all.
    #[must_use]
    pub fn names(&self) -> Option<&BTreeSet<ResourceName>> {
        if self.all { None } else { Some(&self.names) }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    pub(super) fn note(&mut self, name: &ResourceName) {
        if self.all {
            return;
        }
        if self.names.len() == FEW {
            self.note_all();
        } else {
            self.names.insert(name.clone());
        }
    }

    pub(super) fn note_all(&mut self) {
        *self = Self { all: true, names: BTreeSet::new() };
    }
}
