//! A client with its end of the wire, and the oracle: what may be said to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{NAMES, Step, world::World};
use crate::xds::{
    Answer, DeltaRequest, Heard, Limits, Lookup, Rejection, ResourceName, ResourceSet, SotwRequest, Subscription,
    Update, Variant, Version,
};

type Content = BTreeMap<String, String>;

/// Plays a history to a client of each kind; panics where the oracle objects.
pub(super) fn converge(pending: bool, steps: impl IntoIterator<Item = Step>) {
    let mut world = World { pending, ..World::default() };
    let mut clients =
        [Client::new(Variant::Sotw, false), Client::new(Variant::Sotw, true), Client::new(Variant::Delta, false)];
    for step in steps {
        world.apply(step);
        let now = world.set();
        clients.iter_mut().for_each(|client| client.apply(step, &now));
    }
    world.pending = false;
    let now = world.set();
    for client in &mut clients {
        client.settle(&now);
        client.check_settled(&now);
    }
    // Content that nobody has refused: now there is no excuse.
    (0..NAMES.len() - 1).for_each(|i| {
        if world.content.contains_key(NAMES[i]) {
            world.apply(Step::Rotate(i));
        }
    });
    let now = world.set();
    for client in &mut clients {
        client.settle(&now);
        client.check_settled(&now);
        client.check_silent_reconnect(&now);
    }
    let [plain, aggregated, delta] = clients.map(|client| {
        let available = |name: &str| matches!(now.lookup(name), Lookup::Available(_));
        client.held.into_iter().filter(|(name, _)| available(name)).collect::<Content>()
    });
    assert_eq!(plain, aggregated);
    assert_eq!(plain, delta);
}

/// A response under way to the client.
struct Received {
    nonce: String,
    version_info: String,
    /// Name and version, or names that are gone.
    says: Result<(String, String), Vec<String>>,
    /// Everything available that the stream had said by then.
    stands_for: Content,
}

/// A client with its end of the wire, and the server's end.
struct Client {
    variant: Variant,
    heals: bool,
    server: Subscription,
    wanted: BTreeSet<String>,
    held: Content,
    /// SotW: the last accepted version, and what it stands for.
    version_info: (String, Content),
    nonce: String,
    under_way: VecDeque<Received>,
    refused: BTreeSet<(String, String)>,
    /// What this stream was told, or said itself when it began: not to be said again.
    told: Content,
    /// What may be said again.
    due: BTreeSet<String>,
    now: Duration,
}

impl Client {
    fn new(variant: Variant, heals: bool) -> Self {
        Self {
            variant,
            heals,
            server: Subscription::new(variant, Limits { names: 64, name_bytes: 4 << 20 }, false, heals),
            wanted: BTreeSet::new(),
            held: Content::new(),
            version_info: Default::default(),
            nonce: String::new(),
            under_way: VecDeque::new(),
            refused: BTreeSet::new(),
            told: Content::new(),
            due: BTreeSet::new(),
            now: Duration::ZERO,
        }
    }

    fn apply(&mut self, step: Step, now: &ResourceSet) {
        match step {
            Step::Want(i) => self.edit(&[NAMES[i]], &[]),
            Step::Drop(i) => self.edit(&[], &[NAMES[i]]),
            Step::Again(i) if self.variant == Variant::Delta && self.wanted.contains(NAMES[i]) => {
                self.edit(&[NAMES[i]], &[]);
            }
            Step::Repeat => _ = self.request(&self.nonce.clone(), None, &[], &[]),
            Step::Garbage => {
                let heard = self.request("garbage", None, &[], &[]);
                assert_eq!(heard.answer, Answer::Stale);
            }
            Step::Poll => _ = self.poll(now),
            Step::Accept => self.accept(),
            Step::Refuse => self.refuse(),
            Step::Reconnect => self.reconnect(),
            Step::Wait => self.now += Duration::from_secs(2),
            _ => {}
        }
    }

    fn edit(&mut self, subscribe: &[&str], unsubscribe: &[&str]) {
        for name in subscribe {
            if self.wanted.insert((*name).to_owned()) || self.variant == Variant::Delta {
                self.due.insert((*name).to_owned());
            }
        }
        for name in unsubscribe {
            self.wanted.remove(*name);
            self.held.remove(*name);
            self.told.remove(*name);
            self.due.remove(*name);
        }
        let nonce = if self.variant == Variant::Sotw { self.nonce.clone() } else { String::new() };
        self.request(&nonce, None, subscribe, unsubscribe);
    }

    fn request(&mut self, nonce: &str, rejection: Option<Rejection>, add: &[&str], remove: &[&str]) -> Heard {
        let nonce = nonce.to_owned();
        let heard = match self.variant {
            Variant::Sotw => {
                let names = self.wanted.iter().map(|name| name.as_str().into()).collect();
                let version_info = self.version_info.0.clone();
                self.server.on_sotw(SotwRequest { version_info, names, nonce, rejection }, self.now)
            }
            Variant::Delta => {
                let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
                let (subscribe, unsubscribe) = (names(add), names(remove));
                let request = DeltaRequest { subscribe, unsubscribe, nonce, rejection, ..DeltaRequest::default() };
                self.server.on_delta(request, self.now)
            }
        };
        let heard = heard.unwrap();
        assert!(self.heals || !heard.resent, "only aggregated SotW streams heal");
        if heard.resent {
            self.due.extend(self.wanted.iter().cloned());
        }
        heard
    }

    /// Lets the server say one thing, and checks that it may.
    fn poll(&mut self, now: &ResourceSet) -> bool {
        let Some(update) = self.server.reconcile(now, self.now) else { return false };
        let (nonce, version_info, says) = match update {
            Update::Resource { resource, version_info, nonce } => {
                let (name, version) = (resource.name().to_string(), resource.version().to_string());
                assert!(
                    matches!(now.lookup(&name), Lookup::Available(newest) if *newest.version() == *resource.version())
                );
                assert!(self.wanted.contains(&name), "{name} is not wanted");
                let due = self.due.remove(&name);
                let before = self.told.insert(name.clone(), version.clone());
                assert!(due || before.as_ref() != Some(&version), "{name} is sent twice");
                (nonce, version_info.to_string(), Ok((name, version)))
            }
            Update::Removed { names, nonce } => {
                assert_eq!(self.variant, Variant::Delta);
                let names: Vec<_> = names.iter().map(|name| name.as_str().to_owned()).collect();
                for name in &names {
                    self.check_removal(name, now);
                }
                (nonce, String::new(), Err(names))
            }
        };
        assert!(self.under_way.iter().all(|before| *before.nonce != *nonce), "two unanswered responses share a nonce");
        let available = |name: &str| matches!(now.lookup(name), Lookup::Available(_));
        let stands_for = self.told.clone().into_iter().filter(|(name, _)| available(name)).collect();
        self.under_way.push_back(Received { nonce: nonce.into(), version_info, says, stands_for });
        true
    }

    fn check_removal(&mut self, name: &str, now: &ResourceSet) {
        assert!(self.wanted.contains(name), "{name} is not wanted");
        let told = self.told.remove(name);
        let due = self.due.remove(name);
        match now.lookup(name) {
            Lookup::Absent => assert!(told.is_some(), "{name} was never there"),
            Lookup::Impossible => assert!(told.is_some() || due, "{name} is removed twice"),
            Lookup::Available(_) | Lookup::KeptBack(_) | Lookup::Withheld => panic!("{name} is not gone"),
        }
    }

    fn accept(&mut self) {
        let Some(received) = self.under_way.pop_front() else { return };
        match received.says {
            Ok((name, version)) if self.wanted.contains(&name) => _ = self.held.insert(name, version),
            Ok(_) => {}
            Err(gone) => gone.iter().for_each(|name| _ = self.held.remove(name)),
        }
        self.version_info = (received.version_info, received.stands_for);
        self.nonce.clone_from(&received.nonce);
        let heard = self.request(&received.nonce, None, &[], &[]);
        assert!(matches!(heard.answer, Answer::Acked { .. }));
    }

    fn refuse(&mut self) {
        let Some(received) = self.under_way.pop_front() else { return };
        if let Ok(content) = received.says {
            self.refused.insert(content);
        }
        self.nonce.clone_from(&received.nonce);
        let rejection = Rejection { code: 13, message: "no".into() };
        let heard = self.request(&received.nonce, Some(rejection), &[], &[]);
        assert!(matches!(heard.answer, Answer::Nacked { .. }));
    }

    /// A new stream, whose first request says what the client holds.
    fn reconnect(&mut self) {
        self.server = Subscription::new(self.variant, Limits { names: 64, name_bytes: 4 << 20 }, false, self.heals);
        self.under_way.clear();
        self.nonce.clear();
        self.now = Duration::ZERO;
        self.told.clear();
        self.due.clone_from(&self.wanted);
        match self.variant {
            Variant::Sotw => {
                // A client that has let go of what its version stands for does not claim it.
                let stands_for = &self.version_info.1;
                let kept = stands_for.iter().all(|content| !self.wanted.contains(content.0) || self.holds(content));
                if !kept {
                    self.version_info = Default::default();
                }
                // Envoy does so even when it wants nothing at that moment.
                self.request("", None, &[], &[]);
            }
            Variant::Delta => {
                let subscribe = self.wanted.iter().map(|name| name.as_str().into()).collect();
                let claim = |(name, version): (&String, &String)| -> (ResourceName, Version) {
                    (name.as_str().into(), Version::claimed(version))
                };
                let initial_versions = self.held.iter().map(claim).collect();
                let request = DeltaRequest { subscribe, initial_versions, ..DeltaRequest::default() };
                self.server.on_delta(request, self.now).unwrap();
                self.told.clone_from(&self.held);
                self.due.retain(|name| !self.held.contains_key(name));
            }
        }
    }

    fn holds(&self, (name, version): (&String, &String)) -> bool {
        self.held.get(name) == Some(version)
    }

    /// Lets everything settle: the client accepts whatever comes until nothing does.
    fn settle(&mut self, now: &ResourceSet) {
        for _ in 0..100 {
            while !self.under_way.is_empty() {
                self.accept();
            }
            if !self.poll(now) {
                return;
            }
        }
        panic!("never settles");
    }

    /// Everything wanted and available is held in its newest version, unless that was refused.
    fn check_settled(&self, now: &ResourceSet) {
        for resource in now.iter() {
            let (name, version) = (resource.name().to_string(), resource.version().to_string());
            let exempt = !self.wanted.contains(&name) || self.refused.contains(&(name.clone(), version.clone()));
            assert!(
                exempt || self.held.get(&name) == Some(&version),
                "{name}: {:?}, not {version}",
                self.held.get(&name)
            );
        }
    }

    /// A new stream of a client that holds the newest of everything hears no resource.
    fn check_silent_reconnect(&mut self, now: &ResourceSet) {
        self.reconnect();
        for _ in 0..2 {
            if let Some(Update::Resource { resource, .. }) = self.server.reconcile(now, self.now) {
                panic!("{resource:?} is sent to a client that has it: {:?}", self.held);
            }
        }
    }
}
