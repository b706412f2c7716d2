//! Resources: named, versioned bytes, encoded once and shared by every stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::{
    ResourceName, Variant,
    response::{self, Frames},
};

/// A resource's version: opaque to clients, a content digest to us, so that it is equal on every replica and after a
/// restart and a reconnecting client that already holds it is not sent it again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// The digest of `parts`; each part's length counts, so moving a byte between parts changes it.
    /// Parts must be public: a version ends up in logs, statistics and dumps.
    #[must_use]
    pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let full = context.finish();
        let hex: String = full.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self(Arc::from(hex))
    }

    /// A version as a client claims it.
    #[must_use]
    pub fn claimed(version: &str) -> Self {
        Self(Arc::from(version))
    }

    /// The version as it goes on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The order in which resources of one change are sent: trust before the certificates that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// Validation contexts.
    Trust,
    /// Certificates and everything else.
    Credential,
}

/// What every response says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    /// The type URL of the resources.
    pub type_url: &'static str,
    /// `ControlPlane.identifier`; shown by Envoy as `control_plane.identifier`.
    pub control_plane: String,
}

/// One version of what a resource says, without its name: encoded once, shared by all its names. Wiped when the last
/// of them is gone.
pub struct Content {
    version: Version,
    rank: Rank,
    body: Zeroizing<Vec<u8>>,
}

impl Content {
    /// A content whose `body` is an encoded message without its name, which is field 1 of every named xDS resource.
    #[must_use]
    pub fn new(version: Version, rank: Rank, body: Zeroizing<Vec<u8>>) -> Self {
        Self { version, rank, body }
    }

    /// The digest of its public part.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// When it is sent among others.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The encoded message but for its name.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({}, {} bytes)", self.version, self.body.len())
    }
}

/// One version of one named resource.
///
/// Its frames are built on first use and then shared by every stream: the number of copies of a private key depends on
/// the number of names in use and not on the number of clients. All of them are wiped when the last stream lets go.
pub struct Resource {
    name: ResourceName,
    listed: bool,
    content: Arc<Content>,
    origin: Arc<Origin>,
    sotw: OnceLock<Frames>,
    delta: OnceLock<Frames>,
}

impl Resource {
    /// A name for a content that is a message of `origin.type_url`.
    #[must_use]
    pub fn new(name: ResourceName, listed: bool, content: Arc<Content>, origin: Arc<Origin>) -> Self {
        Self { name, listed, content, origin, sotw: OnceLock::new(), delta: OnceLock::new() }
    }

    /// The name it is asked by.
    #[must_use]
    pub fn name(&self) -> &ResourceName {
        &self.name
    }

    /// The digest of its public content.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.content.version
    }

    /// When it is sent among others.
    #[must_use]
    pub fn rank(&self) -> Rank {
        self.content.rank
    }

    /// Whether a wildcard subscription includes it; aliases are not listed.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// What responses that carry it say about themselves.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it says under any of its names.
    #[must_use]
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }

    pub(super) fn frames(&self, variant: Variant) -> &Frames {
        match variant {
            Variant::Sotw => self.sotw.get_or_init(|| response::encode(self, Variant::Sotw)),
            Variant::Delta => self.delta.get_or_init(|| response::encode(self, Variant::Delta)),
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({} @ {}, {} bytes)", self.name, self.version(), self.content.body.len())
    }
}

/// What a name means right now.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// Here it is.
    Available(&'a Arc<Resource>),
    /// Here it is, but not for this client yet: say nothing, whatever it holds.
    KeptBack(&'a Arc<Resource>),
    /// Not now, perhaps later: say nothing, whatever the client holds.
    Withheld,
    /// Not now, perhaps later, and what the client may hold is withdrawn.
    Absent,
    /// Never for this peer.
    Impossible,
}

/// Says of a name that is not in a set whether it could ever be.
pub type Absence = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Every resource a peer may have, as of one moment. Shared by all streams of that peer's kind.
#[derive(Clone)]
pub struct ResourceSet {
    state: Version,
    known: bool,
    resources: BTreeMap<ResourceName, Option<Arc<Resource>>>,
    possible: Absence,
    /// Says of a name that is not in the set whether it is withheld all the same.
    withholding: Option<Absence>,
    /// What many peers share, below the names of one.
    base: Option<Arc<ResourceSet>>,
    /// Contents of the base that are kept back.
    kept_back: Option<Arc<BTreeSet<Version>>>,
}

impl ResourceSet {
    /// Nothing is known yet: every name is withheld.
    #[must_use]
    pub fn pending() -> Self {
        Self { state: Version::claimed("pending"), known: false, ..Self::new([], [], Arc::new(|_| true)) }
    }

    /// The same but for these, which have another source than the rest.
    #[must_use]
    pub fn pending_but<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Self {
        let set = Self::new(resources.into_iter().cloned(), [], Arc::new(|_| true));
        if set.resources.is_empty() {
            return Self::pending();
        }
        Self { state: Version::digest([b"pending".as_slice(), set.state.as_str().as_bytes()]), known: false, ..set }
    }

    /// A complete set. `withheld` names exist but must not be sent now (an expired certificate, say);
    /// `possible` says of any other name whether it could exist later.
    #[must_use]
    pub fn new(
        resources: impl IntoIterator<Item = Arc<Resource>>,
        withheld: impl IntoIterator<Item = ResourceName>,
        possible: Absence,
    ) -> Self {
        let mut all: BTreeMap<_, _> = withheld.into_iter().map(|name| (name, None)).collect();
        all.extend(resources.into_iter().map(|resource| (resource.name.clone(), Some(resource))));
        let state = Version::digest(all.iter().flat_map(|(name, resource)| {
            let version = resource.as_ref().map_or("", |resource| resource.version().as_str());
            [name.as_str().as_bytes(), version.as_bytes()]
        }));
        Self { state, known: true, resources: all, possible, withholding: None, base: None, kept_back: None }
    }

    /// The same, but of what is not there, names for which `withholding` holds are withheld.
    #[must_use]
    pub fn withholding(self, withholding: Absence) -> Self {
        Self { withholding: Some(withholding), ..self }
    }

    /// `base` with further names for one peer or a few. What `base` knows, or knows to be possible, is as it is there.
    #[must_use]
    pub fn over(
        base: &Arc<Self>,
        resources: impl IntoIterator<Item = Arc<Resource>>,
        withheld: impl IntoIterator<Item = ResourceName>,
        possible: Absence,
    ) -> Self {
        let mut set = Self::new(resources, withheld, possible);
        set.state = Version::digest([base.state.as_str().as_bytes(), set.state.as_str().as_bytes()]);
        set.known = base.known;
        set.base = Some(Arc::clone(base));
        set
    }

    /// `base`, of which these contents are kept back for now.
    #[must_use]
    pub fn keeping_back(base: &Arc<Self>, contents: Arc<BTreeSet<Version>>) -> Self {
        let mut set = Self::over(base, [], [], Arc::new(|_| false));
        set.state = Version::digest([base.state.as_str().as_bytes(), b"kept back"]);
        set.kept_back = Some(contents);
        set
    }

    /// A digest over every name and version: equal sets have nothing new to say.
    #[must_use]
    pub fn state(&self) -> &Version {
        &self.state
    }

    /// Whether the source has spoken at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// What `name` means right now.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Lookup<'_> {
        match self.base.as_ref().map(|base| base.lookup(name)) {
            None | Some(Lookup::Impossible) => {}
            Some(Lookup::Available(resource)) if self.keeps_back(resource) => return Lookup::KeptBack(resource),
            Some(known) => return known,
        }
        match self.resources.get(name) {
            Some(Some(resource)) => Lookup::Available(resource),
            _ if !self.known => Lookup::Withheld,
            Some(None) => Lookup::Withheld,
            None if self.withholding.as_ref().is_some_and(|withholding| withholding(name)) => Lookup::Withheld,
            None if (self.possible)(name) => Lookup::Absent,
            None => Lookup::Impossible,
        }
    }

    fn keeps_back(&self, resource: &Resource) -> bool {
        self.kept_back.as_ref().is_some_and(|contents| contents.contains(resource.version()))
    }

    /// Every resource that can be sent now or is kept back, each layer by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        let base: Box<dyn Iterator<Item = &Arc<Resource>>> = match &self.base {
            Some(base) => Box::new(base.iter()),
            None => Box::new(std::iter::empty()),
        };
        base.chain(self.resources.values().flatten())
    }

    /// What a wildcard subscription includes.
    pub fn listed(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.iter().filter(|resource| resource.listed)
    }
}

impl fmt::Debug for ResourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.resources.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_depend_on_content_and_on_where_parts_end() {
        let digest = |parts: &[&[u8]]| Version::digest(parts.iter().copied());
        assert_eq!(digest(&[b"ab", b"c"]), digest(&[b"ab", b"c"]));
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_eq!(digest(&[b""]).as_str().len(), 32);
    }

    /// What holds a key is wiped: this does not compile for a type that is not.
    #[test]
    fn what_may_hold_a_key_is_wiped() {
        fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}
        let content = Content::new(Version::claimed("1"), Rank::Credential, Zeroizing::default());
        is_wiped(&content.body);
        is_wiped(&crate::xds::filled(1, |out| out.push(1)));
    }

    #[test]
    fn a_pending_set_withholds_everything() {
        assert!(matches!(ResourceSet::pending().lookup("anything"), Lookup::Withheld));
        let known = ResourceSet::new([], [ResourceName::new("w")], Arc::new(|name| name == "later"));
        assert!(matches!(known.lookup("w"), Lookup::Withheld));
        assert!(matches!(known.lookup("later"), Lookup::Absent));
        assert!(matches!(known.lookup("never"), Lookup::Impossible));
        let known = known.withholding(Arc::new(|name| name == "silent" || name == "later"));
        assert!(["w", "silent", "later"].iter().all(|name| matches!(known.lookup(name), Lookup::Withheld)));
        assert!(matches!(known.lookup("never"), Lookup::Impossible));
    }

    #[test]
    fn a_layer_adds_names_and_changes_none() {
        let resource = |name: &str, version: &str| {
            let origin = Arc::new(Origin { type_url: "t", control_plane: "c".into() });
            let content = Content::new(Version::claimed(version), Rank::Credential, Zeroizing::default());
            Arc::new(Resource::new(name.into(), true, Arc::new(content), origin))
        };
        let base = ResourceSet::new([resource("a", "1")], ["w".into()], Arc::new(|name| name == "later"));
        let base = Arc::new(base);
        let layer = |version: &str| {
            let own = [resource("a", "9"), resource("own", version), resource("w", "9"), resource("later", "9")];
            ResourceSet::over(&base, own, [], Arc::new(|name| name == "soon"))
        };
        let set = layer("1");
        let found = |name: &str| match set.lookup(name) {
            Lookup::Available(resource) => resource.version().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            ["a", "own", "w", "later", "soon", "x"].map(found),
            ["1", "1", "Withheld", "Absent", "Absent", "Impossible"]
        );
        assert_eq!(set.state(), layer("1").state());
        assert_ne!(set.state(), layer("2").state());
        assert_ne!(set.state(), base.state());
        let pending = ResourceSet::over(&Arc::new(ResourceSet::pending()), [], [], Arc::new(|_| false));
        assert!(!pending.is_known() && matches!(pending.lookup("x"), Lookup::Withheld));
    }
}
