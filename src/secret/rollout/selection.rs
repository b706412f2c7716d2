//! Which certificates are presented while some have to wait.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::identity::{Hint, SpiffeId, Svid, TrustDomain};

/// Which of several identities: by name, hint, and place among those that have the same of both.
type Key = (SpiffeId, Option<Hint>, usize);

/// The certificates of the next step.
#[derive(Debug)]
pub(super) struct Selection {
    old: Vec<Arc<Svid>>,
    new: Vec<Entry>,
    svids: Vec<Arc<Svid>>,
    whole_list: bool,
}

/// One certificate of the source.
#[derive(Debug)]
struct Entry {
    key: Key,
    svid: Arc<Svid>,
    /// The one that it replaces.
    before: Option<Arc<Svid>>,
    ready: bool,
}

/// Certificates that wait, and since when.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Key, Duration>);

impl Selection {
    /// `old` on the way to `new`, of which those that are not ready stay as they are.
    pub(super) fn of(old: &[Arc<Svid>], new: &[Arc<Svid>], is_ready: impl Fn(&Svid) -> bool) -> Self {
        let mut former: BTreeMap<_, VecDeque<&Arc<Svid>>> = BTreeMap::new();
        for svid in old {
            former.entry((&svid.id, &svid.hint)).or_default().push_back(svid);
        }
        let mut seen: BTreeMap<_, usize> = BTreeMap::new();
        let entries = new.iter().map(|svid| {
            let before = former.get_mut(&(&svid.id, &svid.hint)).and_then(VecDeque::pop_front).cloned();
            let place = seen.entry((&svid.id, &svid.hint)).or_default();
            let key = (svid.id.clone(), svid.hint.clone(), *place);
            *place += 1;
            let ready = before.as_ref() == Some(svid) || is_ready(svid);
            Entry { key, svid: svid.clone(), before, ready }
        });
        Self { new: entries.collect(), old: old.to_vec(), svids: Vec::new(), whole_list: true }
    }

    /// All of them are those of the source.
    pub(super) fn is_whole(&self) -> bool {
        self.new.iter().all(|entry| entry.ready)
    }

    /// There is one for each of the source, and no other.
    pub(super) fn is_whole_list(&self) -> bool {
        self.whole_list
    }

    pub(super) fn svids(&self) -> &[Arc<Svid>] {
        &self.svids
    }

    pub(super) fn into_svids(self) -> Vec<Arc<Svid>> {
        self.svids
    }

    /// An identity that is new and has to wait would leave its place to another one: until it is there, all others
    /// stay where they are, those that are to go included.
    fn choose(&mut self) {
        self.whole_list = self.new.iter().all(|entry| entry.ready || entry.before.is_some());
        let present = |entry: &Entry| if entry.ready { Some(entry.svid.clone()) } else { entry.before.clone() };
        if self.whole_list {
            self.svids = self.new.iter().filter_map(present).collect();
            return;
        }
        let successor = |old: &Arc<Svid>| {
            let entry = self.new.iter().find(|entry| entry.before.as_ref().is_some_and(|it| Arc::ptr_eq(it, old)));
            entry.and_then(present).unwrap_or_else(|| old.clone())
        };
        let mut svids: Vec<_> = self.old.iter().map(successor).collect();
        svids.extend(self.new.iter().filter(|entry| entry.before.is_none()).filter_map(present));
        self.svids = svids;
    }
}

impl Pending {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Since when the one waits that has waited longest.
    pub(super) fn first(&self) -> Option<Duration> {
        self.0.values().min().copied()
    }

    /// Whether one of this trust domain has been waiting since then, or longer.
    pub(super) fn any_since(&self, td: &TrustDomain, since: Duration) -> bool {
        self.0.iter().any(|((id, ..), waiting)| id.trust_domain() == td && *waiting <= since)
    }

    /// Notes which of the selection wait. One that has waited for `longest` does so no longer.
    pub(super) fn update(&mut self, mut selection: Selection, now: Duration, longest: Duration) -> Selection {
        let mut waiting = BTreeMap::new();
        for entry in selection.new.iter_mut().filter(|entry| !entry.ready) {
            let since = self.0.get(&entry.key).copied().unwrap_or(now);
            if since.saturating_add(longest) <= now {
                entry.ready = true;
            } else {
                waiting.insert(entry.key.clone(), since);
            }
        }
        self.0 = waiting;
        selection.choose();
        selection
    }
}

/// The trust domains of which other certificates are presented than before; one may be named several times.
pub(super) fn changed<'a>(old: &'a [Arc<Svid>], new: &'a [Arc<Svid>]) -> impl Iterator<Item = &'a TrustDomain> {
    let differ = |one: &'a [Arc<Svid>], two: &'a [Arc<Svid>]| one.iter().filter(move |svid| !two.contains(svid));
    differ(old, new).chain(differ(new, old)).map(|svid| svid.id.trust_domain())
}
