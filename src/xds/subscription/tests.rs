//! Protocol transcripts: what a client says, what it hears, one rule a test.
//!
//! `a@1` is version 1 of the resource `a`, `-a` its removal. Names that begin with `roots` are trust, names that begin
//! with `alias` are not listed, names that begin with `never` cannot exist.

mod answers;
mod bounds;
mod reconnect;
mod sotw;
mod streaming;
mod wildcard;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use super::*;
use crate::xds::{Content, Origin, Rank, Rejection, SECRET_TYPE_URL};

const LIMITS: Limits = Limits { names: 20_000, name_bytes: 4 << 20 };

pub(in crate::xds) fn resource(name: &str, version: &str) -> Arc<Resource> {
    let rank = if name.starts_with("roots") { Rank::Trust } else { Rank::Credential };
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    let body = Zeroizing::new(format!("{name}@{version}").into_bytes());
    let content = Arc::new(Content::new(Version::claimed(version), rank, body));
    Arc::new(Resource::new(name.into(), !name.starts_with("alias"), content, origin))
}

/// A set as a transcript writes it: `a@1` is there, `a@-` is withheld.
pub(in crate::xds) fn set(resources: &[&str]) -> ResourceSet {
    let (withheld, available): (Vec<_>, Vec<_>) =
        resources.iter().map(|entry| entry.rsplit_once('@').unwrap()).partition(|(_, version)| *version == "-");
    ResourceSet::new(
        available.into_iter().map(|(name, version)| resource(name, version)),
        withheld.into_iter().map(|(name, _)| name.into()),
        Arc::new(|name| !name.starts_with("never")),
    )
}

/// A response that the client has received and not answered.
struct Received {
    nonce: String,
    /// SotW only.
    version_info: String,
}

/// The client's end of one subscription.
struct Client {
    server: Subscription,
    names: BTreeSet<String>,
    unanswered: VecDeque<Received>,
    /// SotW: of the last accepted response.
    version_info: String,
    /// Of the last answered response.
    nonce: String,
    now: Duration,
}

impl Client {
    fn new(variant: Variant, wildcard: bool, heals: bool) -> Self {
        Self {
            server: Subscription::new(variant, LIMITS, wildcard, heals),
            names: BTreeSet::new(),
            unanswered: VecDeque::new(),
            version_info: String::new(),
            nonce: String::new(),
            now: Duration::ZERO,
        }
    }

    fn sotw() -> Self {
        Self::new(Variant::Sotw, false, false)
    }

    fn ads() -> Self {
        Self::new(Variant::Sotw, false, true)
    }

    fn delta() -> Self {
        Self::new(Variant::Delta, false, false)
    }

    /// For the rules that hold on every stream.
    fn each() -> [Self; 3] {
        [Self::sotw(), Self::ads(), Self::delta()]
    }

    /// SotW, word for word.
    fn sends(&mut self, version_info: &str, nonce: &str, names: &[&str]) -> Heard {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        let names = names.iter().map(|name| (*name).into()).collect();
        let request = SotwRequest { version_info: version_info.into(), names, nonce: nonce.into(), rejection: None };
        self.server.on_sotw(request, self.now).unwrap()
    }

    /// Delta, word for word.
    fn edits(&mut self, subscribe: &[&str], unsubscribe: &[&str], initial: &[(&str, &str)]) -> Heard {
        unsubscribe.iter().for_each(|name| _ = self.names.remove(*name));
        self.names.extend(subscribe.iter().map(|name| (*name).to_owned()));
        let request = DeltaRequest {
            subscribe: subscribe.iter().map(|name| (*name).into()).collect(),
            unsubscribe: unsubscribe.iter().map(|name| (*name).into()).collect(),
            initial_versions: initial.iter().map(|(name, v)| ((*name).into(), Version::claimed(v))).collect(),
            ..DeltaRequest::default()
        };
        self.server.on_delta(request, self.now).unwrap()
    }

    /// Wants exactly these names from now on, as a client of its kind says it.
    fn wants(&mut self, names: &[&str]) -> Heard {
        if self.server.variant == Variant::Sotw {
            let (version_info, nonce) = (self.version_info.clone(), self.nonce.clone());
            return self.sends(&version_info, &nonce, names);
        }
        let before = std::mem::take(&mut self.names);
        let added: Vec<_> = names.iter().copied().filter(|name| !before.contains(*name)).collect();
        let dropped: Vec<_> = before.iter().map(String::as_str).filter(|name| !names.contains(name)).collect();
        self.names = before.clone();
        self.edits(&added, &dropped, &[])
    }

    /// Hears exactly this, in this order, and nothing more.
    #[track_caller]
    fn hears(&mut self, now: &ResourceSet, expected: &[&str]) {
        let mut heard = Vec::new();
        while let Some(said) = self.poll(now) {
            heard.push(said);
        }
        assert_eq!(heard, expected);
        assert!(self.poll(now).is_none(), "silence must last");
    }

    /// Hears one response.
    fn poll(&mut self, now: &ResourceSet) -> Option<String> {
        let (said, nonce, version_info) = match self.server.reconcile(now, self.now)? {
            Update::Resource { resource, version_info, nonce } => {
                (format!("{}@{}", resource.name(), resource.version()), nonce, version_info.to_string())
            }
            Update::Removed { names, nonce } => {
                assert_eq!(self.server.variant, Variant::Delta, "only delta can say that something is gone");
                (names.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(" "), nonce, String::new())
            }
        };
        assert!(self.unanswered.iter().all(|before| *before.nonce != *nonce), "two unanswered responses share a nonce");
        self.unanswered.push_back(Received { nonce: nonce.into(), version_info });
        Some(said)
    }

    /// Accepts the oldest unanswered response.
    fn acks(&mut self) -> Answer {
        let received = self.unanswered.pop_front().unwrap();
        self.version_info = received.version_info;
        self.answers(received.nonce, None)
    }

    /// Accepts everything received so far.
    fn acks_all(&mut self) {
        while !self.unanswered.is_empty() {
            assert!(matches!(self.acks(), Answer::Acked { .. }));
        }
    }

    /// Refuses the oldest unanswered response.
    fn nacks(&mut self, text: &str) -> Answer {
        let received = self.unanswered.pop_front().unwrap();
        self.answers(received.nonce, Some(Rejection { code: 13, message: text.into() }))
    }

    fn answers(&mut self, nonce: String, rejection: Option<Rejection>) -> Answer {
        self.nonce.clone_from(&nonce);
        let names = self.names.iter().map(|name| name.as_str().into()).collect();
        let heard = match self.server.variant {
            Variant::Sotw => {
                let version_info = self.version_info.clone();
                self.server.on_sotw(SotwRequest { version_info, names, nonce, rejection }, self.now)
            }
            Variant::Delta => {
                self.server.on_delta(DeltaRequest { nonce, rejection, ..DeltaRequest::default() }, self.now)
            }
        };
        heard.unwrap().answer
    }

    /// SotW: the same request once more.
    fn repeats(&mut self) -> Heard {
        let names: Vec<_> = self.names.clone().into_iter().collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (version_info, nonce) = (self.version_info.clone(), self.nonce.clone());
        self.sends(&version_info, &nonce, &names)
    }

    fn statuses(&self) -> BTreeMap<&str, Status> {
        self.server.standings().map(|standing| (standing.name.as_str(), standing.status)).collect()
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}
