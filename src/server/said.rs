//! Of which client and name it was said that it is not given: once, however often the client connects.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::observe::Client;
use crate::{listen::Peer, xds::ResourceName};

/// For so many names of clients it is remembered, and for how long.
const KEPT: usize = 4096;
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<Digests>);

/// What is said of a name that a client is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// It never will be.
    Refused,
    /// It has waited for long.
    Starved,
}

#[derive(Debug, Default)]
struct Digests {
    hasher: RandomState,
    known: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<(Instant, u64)>,
}

impl Said {
    /// Those of `names` of which it was not said lately that this client is not given them; from now on it was.
    pub(super) fn new_ones<'a>(
        &self,
        kind: Kind,
        client: &Client,
        names: &[&'a ResourceName],
        now: Instant,
    ) -> Vec<&'a ResourceName> {
        // A client that connects again is the same one.
        let peer = match client.peer {
            Peer::Address(address) => Peer::Address((address.ip(), 0).into()),
            process @ Peer::Process { .. } => process,
        };
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.forget(now);
        let mut new = names.to_vec();
        new.retain(|name| {
            let digest = said.hasher.hash_one((kind, &client.node, peer, *name));
            said.note(digest, now)
        });
        new
    }
}

impl Digests {
    /// What was said long ago may be said again.
    fn forget(&mut self, now: Instant) {
        while let Some((at, digest)) = self.order.front()
            && now.saturating_duration_since(*at) >= REMEMBERED
        {
            self.known.remove(digest);
            self.order.pop_front();
        }
    }

    /// Says whether it is new.
    fn note(&mut self, digest: u64, now: Instant) -> bool {
        if !self.known.insert(digest) {
            return false;
        }
        if self.order.len() == KEPT
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back((now, digest));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{Service, Variant};

    fn client(node: &str, port: u16) -> Client {
        let peer = Peer::Address(([127, 0, 0, 1], port).into());
        let (node, cluster) = (node.to_owned(), String::new());
        Client { peer, node, cluster, variant: Variant::Sotw, service: Service::Secrets }
    }

    #[test]
    fn a_name_is_said_once_a_client_however_often_that_connects() {
        let (said, start) = (Said::default(), Instant::now());
        let (one, two) = (ResourceName::new("one"), ResourceName::new("two"));
        let new = |kind, node, port, names: &[&ResourceName], at| {
            let names = said.new_ones(kind, &client(node, port), names, at);
            names.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(new(Kind::Refused, "a", 1, &[&one], start), ["one"]);
        assert_eq!(new(Kind::Refused, "a", 2, &[&one, &two], start), ["two"]);
        assert!(new(Kind::Refused, "a", 3, &[&one, &two], start).is_empty());
        assert_eq!(new(Kind::Refused, "b", 3, &[&one], start), ["one"]);
        assert_eq!(new(Kind::Starved, "a", 3, &[&one], start), ["one"]);
        assert_eq!(new(Kind::Refused, "a", 3, &[&one], start + REMEMBERED), ["one"]);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (said, now) = (Said::default(), Instant::now());
        for at in 0..3 * KEPT {
            let name = ResourceName::from(at.to_string());
            assert_eq!(said.new_ones(Kind::Refused, &client("a", 1), &[&name], now).len(), 1);
        }
        let digests = said.0.lock().unwrap();
        assert_eq!((digests.known.len(), digests.order.len()), (KEPT, KEPT));
    }
}
