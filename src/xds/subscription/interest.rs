//! The names a client wants, sorted, with what it has of each.

use std::sync::Arc;

use crate::xds::{ResourceName, ResourceSet, Version};

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

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Interest> {
        self.0.iter_mut()
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

    /// Adds a name. Subscribing is always answered, even when the client should know the answer
    /// (xDS protocol, "Unsubscribing from resources").
    pub(super) fn subscribe(&mut self, name: ResourceName) {
        match self.find(&name) {
            Ok(interest) => {
                interest.explicit = true;
                interest.due = true;
                interest.told_absent = false;
            }
            Err(at) => self.0.insert(at, Interest::new(name, true)),
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

    /// Forgets a name, or keeps it for the wildcard and owes the client a word about it.
    pub(super) fn unsubscribe(&mut self, name: &ResourceName, wildcard: bool) {
        match self.find(name) {
            Ok(interest) if wildcard => {
                interest.explicit = false;
                interest.due = true;
            }
            Ok(_) => self.0.retain(|interest| interest.name != *name),
            Err(_) => {}
        }
    }

    /// Ends what only a wildcard covered.
    pub(super) fn drop_implicit(&mut self) {
        self.0.retain(|interest| interest.explicit);
    }

    /// Makes the implicit interest follow what is listed now; returns names that the client held and that are gone.
    pub(super) fn follow(&mut self, now: &ResourceSet) -> Vec<ResourceName> {
        if !now.is_known() {
            return Vec::new();
        }
        for resource in now.listed() {
            if let Err(at) = self.find(resource.name()) {
                self.0.insert(at, Interest::new(resource.name().clone(), false));
            }
        }
        let mut gone = Vec::new();
        self.0.retain(|interest| {
            let listed = matches!(now.lookup(interest.name.as_str()),
                crate::xds::Lookup::Available(resource) if resource.is_listed())
                || matches!(now.lookup(interest.name.as_str()), crate::xds::Lookup::Withheld);
            let keep = interest.explicit || listed;
            if !keep && (interest.held.is_some() || interest.due) {
                gone.push(interest.name.clone());
            }
            keep
        });
        gone
    }

    pub(super) fn all_due(&mut self) {
        self.0.iter_mut().for_each(|interest| interest.due = true);
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

    pub(super) fn told_absent(&mut self, name: &ResourceName) {
        if let Ok(interest) = self.find(name) {
            interest.held = None;
            interest.due = false;
            interest.told_absent = true;
            interest.status = Status::NotSent;
        }
    }

    /// The interest in `name`, or where it would stand.
    fn find(&mut self, name: &ResourceName) -> Result<&mut Interest, usize> {
        let at = self.0.binary_search_by(|interest| interest.name.cmp(name))?;
        self.0.get_mut(at).ok_or(at)
    }
}
