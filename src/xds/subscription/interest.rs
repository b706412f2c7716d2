//! The names a client wants, sorted, with what it has of each.

use std::sync::Arc;

use super::WILDCARD;
use crate::xds::{Lookup, Resource, ResourceName, ResourceSet, Variant, Version};

/// So many names are moved one by one; more of them by sorting everything.
const FEW: usize = 16;

/// How the last sending of a name went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing was sent.
    NotSent,
    /// Sent and not answered.
    Sent,
    /// Taken by the client.
    Acked,
    /// Refused by the client, in its words. Stays until other content is taken.
    Rejected(Arc<str>),
}

/// What was done about a name that the client waits for and is not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Noted {
    #[default]
    Nothing,
    /// It is waited for how long that lasts.
    Watched,
    /// An operator has heard of it.
    Said,
}

/// What is to be done about a name.
#[derive(Debug)]
pub(super) enum Plan {
    Nothing,
    /// SotW: there is none and will be none, which cannot be said to the client.
    Refuse,
    Send(Arc<Resource>),
    /// Say that there is none.
    Remove,
}

/// One name that the client wants.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) name: ResourceName,
    /// Asked for by name, not only covered by a wildcard.
    pub(super) explicit: bool,
    /// What was sent last, or what the client said that it has. A rejection does not clear it, so that bad content is not
    /// sent twice.
    pub(super) held: Option<Version>,
    /// What the client took last, or said that it has: what it uses.
    pub(super) taken: Option<Version>,
    /// Must be answered whatever the client has.
    pub(super) due: bool,
    /// The client has heard that there is no such thing.
    pub(super) told_absent: bool,
    pub(super) noted: Noted,
    pub(super) status: Status,
}

/// What a list of names asks for: names, and whether it asks for everything. Where that is allowed, an empty name is none,
/// and a list `first` on its stream that names nothing asks for everything, as with SPIRE.
pub fn asked(mut names: Vec<ResourceName>, first: bool, allowed: bool) -> (Vec<ResourceName>, bool) {
    if !allowed {
        return (names, false);
    }
    names.retain(|name| !name.as_str().is_empty());
    let everything = first && names.is_empty() || names.iter().any(|name| name.as_str() == WILDCARD);
    names.retain(|name| name.as_str() != WILDCARD);
    (names, everything)
}

impl Interest {
    fn new(name: ResourceName, explicit: bool) -> Self {
        let (noted, status) = (Noted::Nothing, Status::NotSent);
        Self { name, explicit, held: None, taken: None, due: false, told_absent: false, noted, status }
    }

    /// Asked for and not heard of: neither a resource nor that there is none.
    fn is_unheard(&self) -> bool {
        self.explicit && self.held.is_none() && !self.told_absent
    }

    pub(super) fn wants(&self, version: &Version) -> bool {
        self.due || self.held.as_ref() != Some(version)
    }

    /// What is to be done about it.
    pub(super) fn plan(&self, now: &ResourceSet, variant: Variant) -> Plan {
        let delta = variant == Variant::Delta;
        match now.lookup(self.name.as_str()) {
            lookup if !self.is_covered(&lookup) => Plan::Remove,
            Lookup::Available(resource) if self.wants(resource.version()) => Plan::Send(resource.clone()),
            Lookup::Absent if delta && self.held.is_some() => Plan::Remove,
            Lookup::Impossible if delta && !self.told_absent => Plan::Remove,
            Lookup::Impossible if !delta && self.is_unheard() && self.noted != Noted::Said => Plan::Refuse,
            // SotW cannot say no: an empty response would not end Envoy's waiting either.
            Lookup::Available(_) | Lookup::KeptBack(_) | Lookup::Withheld | Lookup::Absent | Lookup::Impossible => {
                Plan::Nothing
            }
        }
    }

    /// Whether anything asks for it still: its own subscription, or a wildcard that includes it or may do so again.
    pub(super) fn is_covered(&self, lookup: &Lookup<'_>) -> bool {
        match lookup {
            _ if self.explicit => true,
            Lookup::Available(resource) | Lookup::KeptBack(resource) => resource.is_listed(),
            Lookup::Withheld => true,
            Lookup::Absent | Lookup::Impossible => false,
        }
    }
}

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
