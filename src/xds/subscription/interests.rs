//! The names a client wants, sorted.

use super::interest::{Interest, Noted, Status};
use crate::xds::{ResourceName, ResourceSet, Variant, Version};

/// So many names are moved one by one; more of them by sorting everything.
const FEW: usize = 16;

/// Sorted by name. A vector, because nearly every stream has one name and a map's first node is a kilobyte.
#[derive(Debug, Default)]
pub(super) struct Interests {
    all: Vec<Interest>,
    /// Of all names together.
    bytes: usize,
    /// How many are asked for and not heard of.
    unheard: usize,
}

impl Interests {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Bytes of all names.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many are asked for and not heard of.
    pub(super) fn unheard(&self) -> usize {
        self.unheard
    }

    /// How many names, and bytes of names, there would be with these.
    pub(super) fn size_with(&self, names: &[ResourceName]) -> (usize, usize) {
        let mut new: Vec<_> = names.iter().filter(|name| self.get(name).is_none()).collect();
        new.sort_unstable();
        new.dedup();
        let bytes: usize = new.iter().map(|name| name.as_str().len()).sum();
        (self.all.len() + new.len(), self.bytes + bytes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Interest> {
        self.all.iter()
    }

    pub(super) fn get(&self, name: &ResourceName) -> Option<&Interest> {
        self.all.get(self.place(name).ok()?)
    }

    /// What the client holds, sorted by name.
    pub(super) fn held(&self) -> impl Iterator<Item = (&ResourceName, &Version)> {
        self.all.iter().filter_map(|interest| Some((&interest.name, interest.held.as_ref()?)))
    }

    /// Makes `names` the explicit interest; says how many came and went. What stays keeps what it has.
    pub(super) fn replace(&mut self, mut names: Vec<ResourceName>) -> (usize, usize) {
        names.sort_unstable();
        names.dedup();
        let same = self.all.iter().filter(|interest| interest.explicit).map(|interest| &interest.name).eq(names.iter());
        if same {
            return (0, 0);
        }
        let mut old = std::mem::take(&mut self.all).into_iter().peekable();
        let (mut added, mut dropped) = (0, 0);
        let mut merged = Vec::with_capacity(names.len());
        let mut leave = |interest: Interest, merged: &mut Vec<Interest>| {
            if interest.explicit { dropped += 1 } else { merged.push(interest) }
        };
        for name in names {
            while let Some(before) = old.next_if(|interest| interest.name < name) {
                leave(before, &mut merged);
            }
            match old.next_if(|interest| interest.name == name) {
                Some(interest) => {
                    added += usize::from(!interest.explicit);
                    merged.push(Interest { explicit: true, ..interest });
                }
                None => {
                    added += 1;
                    merged.push(Interest::new(name, true));
                }
            }
        }
        old.for_each(|interest| leave(interest, &mut merged));
        self.all = merged;
        self.count();
        (added, dropped)
    }

    /// Adds `names`, each of them once. Subscribing is always answered, even when the client should know the answer
    /// (xDS protocol, "Unsubscribing from resources").
    pub(super) fn subscribe(&mut self, names: Vec<ResourceName>) {
        let mut new = Vec::new();
        for name in names {
            let known = self.change(&name, |interest| {
                interest.explicit = true;
                interest.due = true;
                interest.told_absent = false;
            });
            if !known {
                new.push(Interest::new(name, true));
            }
        }
        if new.len() <= FEW {
            new.into_iter().for_each(|interest| self.insert(interest));
        } else {
            self.all.append(&mut new);
            // Stable on purpose: it merges the two sorted runs, and a thousand names cost no thousand insertions.
            self.all.sort_by(|a, b| a.name.cmp(&b.name));
            self.count();
        }
    }

    /// What the client says it holds from an earlier stream.
    pub(super) fn claim(&mut self, name: &ResourceName, version: Version, wildcard: bool) {
        let known = self.resumed(name, &version);
        if !known && wildcard {
            let (held, taken, status) = (Some(version.clone()), Some(version), Status::Acked);
            self.insert(Interest { held, taken, status, ..Interest::new(name.clone(), false) });
        }
    }

    /// Forgets `names`, or keeps them for the wildcard and owes the client a word about each.
    pub(super) fn unsubscribe(&mut self, mut names: Vec<ResourceName>, wildcard: bool) {
        if !wildcard {
            if names.len() <= FEW {
                names.iter().for_each(|name| self.remove(name));
                return;
            }
            names.sort_unstable();
            self.retain(|interest| names.binary_search(&interest.name).is_err());
            return;
        }
        for name in names {
            self.change(&name, |interest| {
                interest.explicit = false;
                interest.due = true;
            });
        }
    }

    /// Ends what only a wildcard covered.
    pub(super) fn drop_implicit(&mut self) {
        self.retain(|interest| interest.explicit);
    }

    /// Makes the implicit interest follow what is listed now. What is gone stays until the client has heard of it,
    /// where that can be said.
    pub(super) fn follow(&mut self, now: &ResourceSet, variant: Variant) {
        if !now.is_known() {
            return;
        }
        for resource in now.listed() {
            if self.get(resource.name()).is_none() {
                self.insert(Interest::new(resource.name().clone(), false));
            }
        }
        self.retain(|interest| {
            let owed = variant == Variant::Delta && (interest.held.is_some() || interest.due);
            owed || interest.is_covered(&now.lookup(interest.name.as_str()))
        });
    }

    pub(super) fn all_due(&mut self) {
        self.all.iter_mut().for_each(|interest| interest.due = true);
    }

    pub(super) fn due(&mut self, name: &ResourceName) {
        self.change(name, |interest| interest.due = true);
    }

    /// Says of these names no more that they are not there.
    pub(super) fn said(&mut self, names: &[ResourceName]) {
        for name in names {
            self.change(name, |interest| interest.noted = Noted::Said);
        }
    }

    /// Names that are waited for since this was called last, or longer; from now on it is waited for the others. Each name
    /// is returned once. Says too whether any are waited for.
    pub(super) fn overdue(&mut self) -> (Vec<ResourceName>, bool) {
        let (mut overdue, mut watched) = (Vec::new(), false);
        for interest in self.all.iter_mut().filter(|interest| interest.is_unheard()) {
            match interest.noted {
                Noted::Nothing => (interest.noted, watched) = (Noted::Watched, true),
                Noted::Watched => {
                    interest.noted = Noted::Said;
                    overdue.push(interest.name.clone());
                }
                Noted::Said => {}
            }
        }
        (overdue, watched)
    }

    pub(super) fn sent(&mut self, name: &ResourceName, version: &Version) {
        self.change(name, |interest| {
            interest.noted = Noted::Nothing;
            interest.held = Some(version.clone());
            interest.due = false;
            interest.told_absent = false;
            interest.status = Status::Sent;
        });
    }

    /// The client has this from before; says whether it wants the name.
    pub(super) fn resumed(&mut self, name: &ResourceName, version: &Version) -> bool {
        self.change(name, |interest| {
            interest.held = Some(version.clone());
            interest.taken = Some(version.clone());
            interest.status = Status::Acked;
        })
    }

    pub(super) fn acked(&mut self, name: &ResourceName, version: &Version) {
        self.change(name, |interest| {
            interest.taken = Some(version.clone());
            if interest.held.as_ref() == Some(version) {
                interest.status = Status::Acked;
            }
        });
    }

    /// The client has heard that `names` are not to be had; what only a wildcard covered is forgotten.
    pub(super) fn told_absent(&mut self, names: &[ResourceName]) {
        let mut forgotten = false;
        for name in names {
            self.change(name, |interest| {
                interest.held = None;
                interest.taken = None;
                interest.due = false;
                interest.told_absent = true;
                interest.status = Status::NotSent;
                forgotten |= !interest.explicit;
            });
        }
        if forgotten {
            self.retain(|interest| interest.explicit || !interest.told_absent);
        }
    }

    /// Changes the interest in `name`; says whether there is one.
    fn change(&mut self, name: &ResourceName, change: impl FnOnce(&mut Interest)) -> bool {
        let Some(interest) = self.place(name).ok().and_then(|at| self.all.get_mut(at)) else { return false };
        let before = usize::from(interest.is_unheard());
        change(interest);
        self.unheard = self.unheard - before + usize::from(interest.is_unheard());
        true
    }

    fn insert(&mut self, interest: Interest) {
        if let Err(at) = self.place(&interest.name) {
            self.bytes += interest.name.as_str().len();
            self.unheard += usize::from(interest.is_unheard());
            self.all.insert(at, interest);
        }
    }

    fn remove(&mut self, name: &ResourceName) {
        if let Ok(at) = self.place(name) {
            let interest = self.all.remove(at);
            self.bytes -= interest.name.as_str().len();
            self.unheard -= usize::from(interest.is_unheard());
        }
    }

    fn retain(&mut self, keep: impl FnMut(&Interest) -> bool) {
        self.all.retain(keep);
        self.count();
    }

    fn count(&mut self) {
        self.bytes = self.all.iter().map(|interest| interest.name.as_str().len()).sum();
        self.unheard = self.all.iter().filter(|interest| interest.is_unheard()).count();
    }

    /// Where `name` stands, or would.
    fn place(&self, name: &ResourceName) -> Result<usize, usize> {
        self.all.binary_search_by(|interest| interest.name.cmp(name))
    }
}
