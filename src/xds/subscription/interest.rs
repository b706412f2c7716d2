//! A name that a client wants, with what it has of it.

use std::sync::Arc;

use super::WILDCARD;
use crate::xds::{Lookup, Resource, ResourceName, ResourceSet, Variant, Version};

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
    pub(super) fn new(name: ResourceName, explicit: bool) -> Self {
        let (noted, status) = (Noted::Nothing, Status::NotSent);
        Self { name, explicit, held: None, taken: None, due: false, told_absent: false, noted, status }
    }

    /// Asked for and not heard of: neither a resource nor that there is none.
    pub(super) fn is_unheard(&self) -> bool {
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
