//! What clients of one flavour see, and the few names that only some of them have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{Contents, Flavour, NodeNames, Part, contents::Found, dot_free, name::decode_dots, table::Target};
use crate::xds::{Content, Origin, Resource, ResourceName, ResourceSet, Version};

/// How many names that depend on the node, and how many meanings of each, are kept for other nodes. Beyond it each
/// stream has its own.
const KEPT: usize = 1024;

type Made = BTreeMap<ResourceName, BTreeMap<Target, Arc<Resource>>>;

/// Everything that one state is to clients of one flavour.
///
/// Names that depend on the client are a layer over what all share, and are made when a client that has them asks.
/// They share its contents: such a name costs no new encoding of a certificate, and its frames are shared by all
/// clients that have the same name for the same thing.
pub struct View {
    /// `None` when there are no certificates and contexts.
    contents: Option<Arc<Contents>>,
    /// `None` when nothing is known.
    tokens: Option<Part>,
    flavour: Flavour,
    set: Arc<ResourceSet>,
    origin: Arc<Origin>,
    /// Never held across anything that waits, and gone with the state.
    made: Mutex<Made>,
    /// The same without certificates, for those who are not to have them yet.
    kept_back: OnceLock<(Arc<BTreeSet<Version>>, Arc<ResourceSet>)>,
}

impl View {
    pub(super) fn new(
        contents: Option<Arc<Contents>>,
        flavour: Flavour,
        x509: &Part,
        tokens: &Part,
        files: &Part,
        origin: Arc<Origin>,
    ) -> Self {
        let set = Arc::new(ResourceSet::from(x509.join(tokens).join(files)));
        Self {
            contents,
            tokens: Some(tokens.clone()),
            flavour,
            set,
            origin,
            made: Mutex::default(),
            kept_back: OnceLock::new(),
        }
    }

    pub(super) fn pending(files: &Part, origin: Arc<Origin>) -> Self {
        let set = Arc::new(ResourceSet::pending_but(files.resources()));
        Self {
            contents: None,
            tokens: None,
            flavour: Flavour::Spiffe,
            set,
            origin,
            made: Mutex::default(),
            kept_back: OnceLock::new(),
        }
    }

    /// What all clients share.
    #[must_use]
    pub fn set(&self) -> &Arc<ResourceSet> {
        &self.set
    }

    /// Whether no client could tell the two apart.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        // Names that depend on the node may stand for what no other name does, such as an identity by its hint.
        let contents = |view: &Self| view.contents.as_ref().map(|contents| contents.snapshot().clone());
        self.set.state() == other.set.state() && contents(self) == contents(other)
    }

    /// What the client whose names these are sees.
    #[must_use]
    pub fn for_node(&self, names: &NodeNames) -> Arc<ResourceSet> {
        let Some(tokens) = self.tokens.as_ref().filter(|_| !names.names.is_empty()) else {
            return self.set.clone();
        };
        let mut resources = Vec::new();
        let mut withheld = Vec::new();
        let mut awaited = BTreeSet::new();
        for (name, target) in &names.names {
            let spellings = || [name.clone()].into_iter().chain(dot_free(name)).map(ResourceName::from);
            let made: Option<Vec<_>> = spellings().map(|name| self.made(&name, target)).collect();
            if let Some(made) = made {
                resources.extend(made);
                continue;
            }
            match self.find(target, tokens) {
                Found::Here(content) => resources.extend(spellings().map(|name| self.make(name, target, &content))),
                Found::Withheld => withheld.extend(spellings()),
                Found::Absent => {
                    awaited.insert(name.clone());
                }
                Found::Impossible => {}
            }
        }
        let possible = Arc::new(move |name: &str| awaited.contains(&*decode_dots(name)));
        Arc::new(ResourceSet::over(&self.set, resources, withheld, possible))
    }

    /// The same for a client that must not have its certificates yet. They are withheld, and known to be there.
    #[must_use]
    pub fn for_node_without_certificates(&self, names: &NodeNames) -> Arc<ResourceSet> {
        let (certificates, shared) = self.kept_back.get_or_init(|| {
            let contents = self.contents.as_ref().map(|contents| contents.certificates().cloned().collect());
            let contents: Arc<BTreeSet<_>> = Arc::new(contents.unwrap_or_default());
            (contents.clone(), Arc::new(ResourceSet::keeping_back(&self.set, contents)))
        });
        if names.names.is_empty() {
            return shared.clone();
        }
        Arc::new(ResourceSet::keeping_back(&self.for_node(names), certificates.clone()))
    }

    fn find(&self, target: &Target, tokens: &Part) -> Found {
        match (target, &self.contents) {
            (Target::Jwt(jwt), _) => {
                let name = jwt.to_string();
                match tokens.resource(&name) {
                    Some(resource) => Found::Here(resource.content().clone()),
                    None if tokens.withholds(&name) => Found::Withheld,
                    None => Found::Impossible,
                }
            }
            // What cannot be encoded is there all the same; it cannot happen for what the source's checks let through.
            (_, Some(contents)) => contents.find(target, self.flavour).unwrap_or(Found::Withheld),
            (_, None) => Found::Absent,
        }
    }

    fn made(&self, name: &ResourceName, target: &Target) -> Option<Arc<Resource>> {
        self.lock().get(name)?.get(target).cloned()
    }

    fn make(&self, name: ResourceName, target: &Target, content: &Arc<Content>) -> Arc<Resource> {
        let resource = Arc::new(Resource::new(name.clone(), false, content.clone(), self.origin.clone()));
        let mut made = self.lock();
        if made.len() >= KEPT && !made.contains_key(&name) {
            return resource;
        }
        let targets = made.entry(name).or_default();
        if targets.len() >= KEPT {
            return resource;
        }
        // Another client may have been faster: all must have the same one.
        targets.entry(target.clone()).or_insert(resource).clone()
    }

    /// How many names that depend on the node are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        // Whoever panicked with the lock left a map of whole entries.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("flavour", &self.flavour).field("set", &self.set).finish_non_exhaustive()
    }
}
