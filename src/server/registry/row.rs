//! One name that a client wants, as it is shown.

use std::{sync::Arc, time::SystemTime};

use super::{NameView, State, View};
use crate::secret::Config;
use crate::xds::{Lookup, ResourceName, ResourceSet, Standing, Status, Version};

#[derive(Clone)]
pub(super) struct Row {
    pub(super) name: ResourceName,
    /// What the client took last.
    pub(super) held: Option<Version>,
    /// What was sent last.
    pub(super) told: Option<Version>,
    /// What it had when it was told that there is nothing any more. Envoy goes on using that.
    pub(super) left: Option<Version>,
    pub(super) status: Status,
    pub(super) sent: Option<SystemTime>,
    pub(super) acked: Option<SystemTime>,
    /// What was refused, in which words. Until other content is taken.
    pub(super) rejected: Option<Box<(Version, Arc<str>)>>,
}

impl Row {
    pub(super) fn new(name: ResourceName) -> Self {
        Self {
            name,
            held: None,
            told: None,
            left: None,
            status: Status::NotSent,
            sent: None,
            acked: None,
            rejected: None,
        }
    }
}

impl View {
    /// A name stands like this, or is wanted no longer.
    pub(super) fn want(&mut self, name: &ResourceName, standing: Option<Standing<'_>>) {
        match (self.rows.binary_search_by(|row| row.name.cmp(name)), standing) {
            (Ok(at), Some(standing)) => {
                if let Some(row) = self.rows.get_mut(at) {
                    *row = row.clone().standing(standing);
                }
            }
            (Ok(at), None) => drop(self.rows.remove(at)),
            (Err(at), Some(standing)) => self.rows.insert(at, Row::new(name.clone()).standing(standing)),
            (Err(_), None) => {}
        }
    }
}

impl Row {
    pub(super) fn standing(mut self, standing: Standing<'_>) -> Self {
        let had = self.held.take().or(self.told.take()).or(self.left.take());
        let (held, told) = (standing.held.cloned(), standing.sent.cloned());
        let left = had.filter(|_| held.is_none() && told.is_none());
        Self { held, told, left, status: standing.status, ..self }
    }

    /// Whether the client has this, as far as it was told.
    pub(super) fn has(&self, version: &Version) -> bool {
        [&self.held, &self.told, &self.left].into_iter().flatten().any(|it| it == version)
    }

    pub(super) fn current<'a>(&self, now: Option<&'a ResourceSet>) -> Option<&'a Version> {
        now.and_then(|now| match now.lookup(self.name.as_str()) {
            Lookup::Available(resource) | Lookup::KeptBack(resource) => Some(resource.version()),
            Lookup::Withheld | Lookup::Absent | Lookup::Impossible => None,
        })
    }

    pub(super) fn is_never(&self, now: Option<&ResourceSet>) -> bool {
        now.is_some_and(|now| matches!(now.lookup(self.name.as_str()), Lookup::Impossible))
    }

    /// How it stands for a client that looks at `now`.
    pub(super) fn state(&self, now: Option<&ResourceSet>) -> State {
        let newest = || self.current(now).is_none_or(|current| self.told.as_ref() == Some(current));
        match &self.status {
            _ if self.rejected.is_some() => State::Error,
            Status::NotSent if self.is_never(now) => State::Never,
            Status::NotSent => State::NotSent,
            Status::Acked if newest() => State::Synced,
            Status::Acked | Status::Sent | Status::Rejected(_) => State::Stale,
        }
    }

    /// What is shown of it; `config` says why it is not there.
    pub(super) fn view(&self, now: Option<&ResourceSet>, config: Option<&Config>) -> NameView {
        let current = self.current(now);
        let (rejected, rejection) = self.rejected.as_deref().cloned().unzip();
        NameView {
            name: self.name.clone(),
            state: self.state(now),
            held: self.held.clone(),
            sent_version: self.told.clone(),
            current: current.cloned(),
            never: self.is_never(now),
            missing: now.zip(config).and_then(|(now, config)| config.missing(self.name.as_str(), now)),
            sent: self.sent,
            acked: self.acked,
            rejection,
            rejected,
        }
    }
}
