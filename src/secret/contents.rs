//! What one state of the source has to give, and what a target of the name table is in it.

use std::{sync::Arc, time::SystemTime};

use super::{
    Config, EncodeError, Flavour,
    encode::{self, Conditions},
    revocation::Revocations,
    table::{BundleChoice, Bundles, Context, SvidChoice, Target},
};
use crate::{
    identity::{IdentitySnapshot, SpiffeId, TrustBundle, TrustDomain},
    xds::{Content, Version},
};

/// The secrets of one state, each certificate encoded once for all its names and both flavours.
#[derive(Debug)]
pub struct Contents {
    snapshot: Arc<IdentitySnapshot>,
    /// As the SVIDs are; `None` for one that has expired.
    svids: Vec<Option<Arc<Content>>>,
    default: Option<usize>,
    revocations: Revocations,
    notes: Vec<Note>,
}

/// Something about a state that its operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// None of the identities is the default one that was asked for, described here.
    NoDefault(String),
    /// Some authorities of this trust domain have a revocation list and some have none.
    IncompleteCrls(TrustDomain),
}

/// What a target is.
#[derive(Debug)]
pub(super) enum Found {
    /// This.
    Here(Arc<Content>),
    /// Something that must not be sent now.
    Withheld,
    /// Nothing yet.
    Absent,
    /// Nothing ever, for this client.
    Impossible,
}

impl Contents {
    pub(super) fn new(snapshot: &Arc<IdentitySnapshot>, config: &Config, now: SystemTime) -> Result<Self, EncodeError> {
        let svids = snapshot.svids.iter();
        let svids = svids.map(|svid| (!svid.validity.is_expired(now)).then(|| encode::certificate(svid)).transpose());
        let revocations = Revocations::of(snapshot, config.crls);
        let default = config.default_identity.choose(snapshot);
        let mut notes: Vec<_> = revocations.incomplete().iter().cloned().map(Note::IncompleteCrls).collect();
        if default.is_none() && !snapshot.svids.is_empty() {
            notes.push(Note::NoDefault(config.default_identity.to_string()));
        }
        Ok(Self { snapshot: snapshot.clone(), svids: svids.collect::<Result<_, _>>()?, default, revocations, notes })
    }

    /// What the contents were made from.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<IdentitySnapshot> {
        &self.snapshot
    }

    /// What its operator should know.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Each SVID with its encoding (`None` when it has expired) and whether it is the default one.
    pub(super) fn svids(&self) -> impl Iterator<Item = (&SpiffeId, Option<&Arc<Content>>, bool)> {
        let svids = self.snapshot.svids.iter().zip(&self.svids).enumerate();
        svids.map(|(at, (svid, content))| (&svid.id, content.as_ref(), self.default == Some(at)))
    }

    /// The versions of all certificates that can be sent.
    pub(super) fn certificates(&self) -> impl Iterator<Item = &Version> {
        self.svids.iter().flatten().map(|content| content.version())
    }

    /// What `target` is to a client of this flavour.
    pub(super) fn find(&self, target: &Target, flavour: Flavour) -> Result<Found, EncodeError> {
        match target {
            Target::Svid(choice) => Ok(self.svid(choice)),
            Target::Context(context) => self.context(context, flavour),
            // Those are no part of the identities.
            Target::Jwt(_) => Ok(Found::Impossible),
        }
    }

    /// An identity may come later if it is of a trust domain of ours; of which those are, we may not know yet.
    pub(super) fn is_possible(&self, id: &SpiffeId) -> bool {
        let (td, own) = (id.trust_domain(), self.snapshot.trust_domain.as_ref());
        let mut domains = self.snapshot.svids.iter().map(|svid| svid.id.trust_domain());
        (self.snapshot.svids.is_empty() && own.is_none()) || own == Some(td) || domains.any(|domain| domain == td)
    }

    /// A context of these bundles without any conditions.
    pub(super) fn validation(
        &self,
        bundles: &[&TrustBundle],
        flavour: Flavour,
    ) -> Result<Option<Arc<Content>>, EncodeError> {
        let revocations = &self.revocations;
        let with = Conditions { flavour, subject_alt_names: &[], suppress_client_ca_list: false, revocations };
        encode::validation(bundles, with)
    }

    fn svid(&self, choice: &SvidChoice) -> Found {
        let svids = &self.snapshot.svids;
        let at = match choice {
            SvidChoice::Default => self.default,
            SvidChoice::Id(id) => svids.iter().position(|svid| svid.id == *id),
            SvidChoice::Hint(hint) => {
                svids.iter().position(|svid| svid.hint.as_ref().is_some_and(|it| it.as_str() == hint))
            }
        };
        match (at.map(|at| self.svids.get(at)), choice) {
            (Some(Some(Some(content))), _) => Found::Here(content.clone()),
            (Some(_), _) => Found::Withheld,
            (None, SvidChoice::Id(id)) if !self.is_possible(id) => Found::Impossible,
            (None, _) => Found::Absent,
        }
    }

    fn context(&self, context: &Context, client: Flavour) -> Result<Found, EncodeError> {
        let flavour = context.flavour.unwrap_or(client);
        let known = &self.snapshot.bundles;
        let chosen: Vec<&TrustBundle> = match &context.bundles {
            Bundles::All if flavour == Flavour::Plain => return Ok(Found::Impossible),
            Bundles::All => known.values().map(AsRef::as_ref).collect(),
            // One that is not known yet would make two of it later.
            Bundles::Chosen(several) if flavour == Flavour::Plain && several.len() > 1 => return Ok(Found::Impossible),
            Bundles::Chosen(several) => {
                let own = self.snapshot.trust_domain.as_ref();
                let domain = |choice| match choice {
                    &BundleChoice::Own => own,
                    BundleChoice::Domain(td) => Some(td),
                };
                let mut domains: Vec<_> = several.iter().filter_map(domain).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.into_iter().filter_map(|td| known.get(td)).map(AsRef::as_ref).collect()
            }
        };
        if chosen.is_empty() {
            return Ok(Found::Absent);
        }
        let with = Conditions {
            flavour,
            subject_alt_names: &context.subject_alt_names,
            suppress_client_ca_list: context.suppress_client_ca_list,
            revocations: &self.revocations,
        };
        Ok(encode::validation(&chosen, with)?.map_or(Found::Withheld, Found::Here))
    }
}
