//! The names a client wants, sorted, with what it has of each.

use std::sync::Arc;

use crate::xds::{Lookup, ResourceName, ResourceSet, Variant, Version};

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

/// One name that the client wants.
#[derive(Debug)]
pub(super) struct Interest {
    pub(super) name: ResourceName,
    /// Asked for by name, not only covered by a wildcard.
    pub(super) explicit: bool,
    /// What the client has: set on sending, never cleared by a rejection, so that bad content is not sent twice.
    pub(super) held: Option<Version>,
    /// Must be answered whatever the client has.
    pub(super) due: bool,
    /// The client has heard that there is no such thing.
    pub(super) told_absent: bool,
    pub(super) status: Status,
}

impl Interest {
    fn new(name: ResourceName, explicit: bool) -> Self {
        Self { name, explicit, held: None, due: false, told_absent: false, status: Status::NotSent }
    }

    pub(super) fn wants(&self, version: &Version) -> bool {
        self.due || self.held.as_ref() != Some(version)
    }

    /// Whether anything asks for it still: its own subscription, or a wildcard that includes it or may do so again.
    pub(super) fn is_covered(&self, lookup: &Lookup<'_>) -> bool {
        match lookup {
            _ if self.explicit => true,
            Lookup::Available(resource) => resource.is_listed(),
            Lookup::Withheld => true,
            Lookup::Absent | Lookup::Impossible => false,
        }
    }
}

/// Sorted by name. A vector, because nearly every stream has one name and a map's first node is a kilobyte.
#[derive(Debug, Default)]
pub(super) struct Interests(Vec<Interest>);

impl Interests {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many there would be with these.
    pub(super) fn len_with(&self, names: &[ResourceName]) -> usize {
        let mut new: Vec<_> =
            names.iter().filter(|name| self.0.binary_search_by(|interest| interest.name.cmp(name)).is_err()).collect();
        new.sort_unstable();
        new.dedup();
        self.0.len() + new.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Interest> {
        self.0.iter()
    }

    /// What the client holds, sorted by name.
    pub(super) fn held(&self) -> impl Iterator<Item = (&ResourceName, &Version)> {
        self.0.iter().filter_map(|interest| Some((&interest.name, interest.held.as_ref()?)))
    }

    /// Makes `names` the explicit interest; says how many came and went. What stays keeps what it has.
    pub(super) fn replace(&mut self, mut names: Vec<ResourceName>) -> (usize, usize) {
        names.sort_unstable();
        names.dedup();
        let same = self.0.iter().filter(|interest| interest.explicit).map(|interest| &interest.name).eq(names.iter());
        if same {
            return (0, 0);
        }
        let mut old = std::mem::take(&mut self.0).into_iter().peekable();
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
        self.0 = merged;
        (added, dropped)
    }

    /// Adds `names`, each of them once. Subscribing is always answered, even when the client should know the answer
    /// (xDS protocol, "Unsubscribing from resources").
    pub(super) fn subscribe(&mut self, names: Vec<ResourceName>) {
        let mut new = Vec::new();
        for name in names {
            match self.find(&name) {
                Ok(interest) => {
                    interest.explicit = true;
                    interest.due = true;
                    interest.told_absent = false;
                }
                Err(_) => new.push(Interest::new(name, true)),
            }
        }
        if !new.is_empty() {
            self.0.append(&mut new);
            // Stable on purpose: it merges the two sorted runs, and a thousand names cost no thousand insertions.
            self.0.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    /// What the client says it holds from an earlier stream.
    pub(super) fn claim(&mut self, name: &ResourceName, version: Version, wildcard: bool) {
        match self.find(name) {
            Ok(interest) => {
                interest.held = Some(version);
                interest.status = Status::Acked;
            }
            Err(at) if wildcard => {
                let status = Status::Acked;
                self.0.insert(at, Interest { held: Some(version), status, ..Interest::new(name.clone(), false) });
            }
            Err(_) => {}
        }
    }

    /// Forgets `names`, or keeps them for the wildcard and owes the client a word about each.
    pub(super) fn unsubscribe(&mut self, mut names: Vec<ResourceName>, wildcard: bool) {
        if !wildcard {
            names.sort_unstable();
            self.0.retain(|interest| names.binary_search(&interest.name).is_err());
            return;
        }
        for name in names {
            if let Ok(interest) = self.find(&name) {
                interest.explicit = false;
                interest.due = true;
            }
        }
    }

    /// Ends what only a wildcard covered.
    pub(super) fn drop_implicit(&mut self) {
        self.0.retain(|interest| interest.explicit);
    }

    /// Makes the implicit interest follow what is listed now. What is gone stays until the client has heard of it,
    /// where that can be said.
    pub(super) fn follow(&mut self, now: &ResourceSet, variant: Variant) {
        if !now.is_known() {
            return;
        }
        for resource in now.listed() {
            if let Err(at) = self.find(resource.name()) {
                self.0.insert(at, Interest::new(resource.name().clone(), false));
            }
        }
        self.0.retain(|interest| {
            let owed = variant == Variant::Delta && (interest.held.is_some() || interest.due);
            owed || interest.is_covered(&now.lookup(interest.name.as_str()))
        });
    }

    pub(super) fn all_due(&mut self) {
        self.0.iter_mut().for_each(|interest| interest.due = true);
    }

    pub(super) fn due(&mut self, name: &ResourceName) {
        if let Ok(interest) = self.find(name) {
            interest.due = true;
        }
    }

    pub(super) fn sent(&mut self, name: &ResourceName, version: &Version) {
        if let Ok(interest) = self.find(name) {
            interest.held = Some(version.clone());
            interest.due = false;
            interest.told_absent = false;
            interest.status = Status::Sent;
        }
    }

    pub(super) fn resumed(&mut self, name: &ResourceName, version: &Version) {
        if let Ok(interest) = self.find(name) {
            interest.held = Some(version.clone());
            interest.status = Status::Acked;
        }
    }

    pub(super) fn acked(&mut self, name: &ResourceName, version: &Version) {
        if let Ok(interest) = self.find(name)
            && interest.held.as_ref() == Some(version)
        {
            interest.status = Status::Acked;
        }
    }

    /// The client has heard that `names` are not to be had; what only a wildcard covered is forgotten.
    pub(super) fn told_absent(&mut self, names: &[ResourceName]) {
        for name in names {
            if let Ok(interest) = self.find(name) {
                interest.held = None;
                interest.due = false;
                interest.told_absent = true;
                interest.status = Status::NotSent;
            }
        }
        self.0.retain(|interest| interest.explicit || !interest.told_absent);
    }

    /// The interest in `name`, or where it would stand.
    fn find(&mut self, name: &ResourceName) -> Result<&mut Interest, usize> {
        let at = self.0.binary_search_by(|interest| interest.name.cmp(name))?;
        self.0.get_mut(at).ok_or(at)
    }
}
