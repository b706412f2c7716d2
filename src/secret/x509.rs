//! The certificates and contexts that all clients of one flavour share.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Config, Contents, EncodeError, Flavour, Part, SecretName,
    builder::{Builder, is_allowed},
    contents::Found,
    name::decode_dots,
    table::Target,
};
use crate::{
    identity::TrustBundle,
    xds::{Absence, Origin},
};

/// Every resource that `contents` are to a client of this flavour, but for names that depend on the client.
pub(super) fn part(
    contents: &Arc<Contents>,
    flavour: Flavour,
    config: &Arc<Config>,
    origin: &Arc<Origin>,
) -> Result<Part, EncodeError> {
    let mut set = Builder::new(origin);
    set.only(config.allowed.as_deref());
    certificates(contents, config, &mut set);
    trust(contents, flavour, config, &mut set)?;
    set.only(None);
    let mut awaited = BTreeSet::new();
    for (name, target) in config.names.fixed().iter().filter(|(_, target)| !matches!(target, Target::Jwt(_))) {
        match contents.find(target, flavour)? {
            Found::Here(content) => set.add(name, false, &content),
            Found::Withheld => set.withhold(name),
            Found::Absent => {
                awaited.insert(name.clone());
            }
            Found::Impossible => {}
        }
    }
    Ok(set.finish(possible(contents, flavour, config, awaited)))
}

fn certificates(contents: &Contents, config: &Config, set: &mut Builder<'_>) {
    for (id, content, is_default) in contents.svids() {
        let id = id.to_string();
        let names = [(id.as_str(), true)].into_iter();
        for (name, listed) in names.chain(is_default.then_some((config.naming.default_svid.as_str(), false))) {
            set.add_or_withhold(name, listed, content);
        }
    }
}

fn trust(contents: &Contents, flavour: Flavour, config: &Config, set: &mut Builder<'_>) -> Result<(), EncodeError> {
    let (snapshot, naming) = (contents.snapshot(), &config.naming);
    for bundle in snapshot.bundles.values() {
        let name = format!("spiffe://{}", bundle.trust_domain());
        let own = snapshot.own_bundle().is_some_and(|own| own == bundle);
        let content = contents.validation(&[bundle], flavour)?;
        set.add_or_withhold(&name, true, content.as_ref());
        if own {
            set.add_or_withhold(&naming.default_bundle, false, content.as_ref());
        }
    }
    let all: Vec<&TrustBundle> = snapshot.bundles.values().map(AsRef::as_ref).collect();
    if flavour == Flavour::Spiffe && naming.all_bundles != naming.default_bundle && !all.is_empty() {
        set.add_or_withhold(&naming.all_bundles, false, contents.validation(&all, flavour)?.as_ref());
    }
    Ok(())
}

/// Names that may get a meaning later. Only what the grammar, the flavour, the trust domain or the operator rules out
/// is impossible: registrations are eventually consistent, and an Envoy that is told "no" opens its port without a
/// certificate instead of waiting.
fn possible(contents: &Arc<Contents>, flavour: Flavour, config: &Arc<Config>, awaited: BTreeSet<String>) -> Absence {
    let (contents, config) = (contents.clone(), config.clone());
    Arc::new(move |name| {
        let name = decode_dots(name);
        if awaited.contains(&*name) {
            return true;
        }
        if !is_allowed(&name, config.allowed.as_deref()) {
            return false;
        }
        match SecretName::parse(&name, &config.naming) {
            // Every token there is has its entry already, and files are a part of their own.
            None | Some(SecretName::Jwt(_) | SecretName::File(_)) => false,
            Some(SecretName::AllBundles) => flavour == Flavour::Spiffe,
            Some(SecretName::Svid(id)) => contents.is_possible(&id),
            Some(SecretName::DefaultSvid | SecretName::OwnBundle | SecretName::Bundle(_)) => true,
        }
    })
}
