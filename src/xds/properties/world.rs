//! The names there are, what can happen to them, and what a source says of them. Used by the property test and by the
//! fuzzer (`fuzz/fuzz_targets/state_machine.rs`).

use std::{collections::BTreeMap, sync::Arc};

use zeroize::Zeroizing;

use crate::xds::{Content, Origin, Rank, Resource, ResourceSet, SECRET_TYPE_URL, Version};

pub(super) const NAMES: [&str; 6] = ["a", "b", "c", "roots-a", "roots-b", "never"];

/// What happens next. Names are indices into [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The source gives the name other content; also how it first appears.
    Rotate(usize),
    /// The source goes back to the content before.
    Restore(usize),
    Remove(usize),
    Withhold(usize),
    /// The source is (not) known.
    Pending(bool),
    Want(usize),
    Drop(usize),
    /// Delta only: subscribes to what it has subscribed to.
    Again(usize),
    /// SotW: sends its last request once more. Delta: says nothing, with an old nonce.
    Repeat,
    Garbage,
    /// The server may send one response.
    Poll,
    /// The client gets to its oldest response.
    Accept,
    Refuse,
    Reconnect,
    Wait,
}

/// What the source says.
#[derive(Clone, Default)]
pub(super) struct World {
    /// `None` is withheld.
    pub(super) content: BTreeMap<&'static str, Option<u32>>,
    pub(super) pending: bool,
    pub(super) versions: u32,
}

impl World {
    pub(super) fn apply(&mut self, step: Step) {
        match step {
            Step::Rotate(i) => {
                self.versions += 1;
                self.content.insert(NAMES[i], Some(self.versions));
            }
            Step::Restore(i) => {
                if let Some(Some(version)) = self.content.get_mut(NAMES[i]) {
                    *version = version.saturating_sub(1).max(1);
                }
            }
            Step::Remove(i) => _ = self.content.remove(NAMES[i]),
            Step::Withhold(i) => _ = self.content.insert(NAMES[i], None),
            Step::Pending(pending) => self.pending = pending,
            _ => {}
        }
    }

    pub(super) fn set(&self) -> ResourceSet {
        if self.pending {
            return ResourceSet::pending();
        }
        let known = self.content.iter().filter_map(|(name, version)| Some(resource(name, (*version)?)));
        let withheld = self.content.iter().filter(|(_, version)| version.is_none());
        let withheld = withheld.map(|(name, _)| (*name).into());
        ResourceSet::new(known, withheld, Arc::new(|name| !name.starts_with("never")))
    }
}

fn resource(name: &str, version: u32) -> Arc<Resource> {
    let rank = if name.starts_with("roots") { Rank::Trust } else { Rank::Credential };
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".into() });
    let body = Zeroizing::new(format!("{name}@{version}").into_bytes());
    let content = Arc::new(Content::new(Version::claimed(&version.to_string()), rank, body));
    Arc::new(Resource::new(name.into(), true, content, origin))
}
