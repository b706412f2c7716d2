//! What the issuer holds: its CAs and JWT keys, the leaves it gave out, and the messages that say so. Pure but for key generation.

mod jwt;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    identity::{Certificate, Hint, SpiffeId, TrustBundle, TrustDomain},
    workload_api_proto::{X509BundlesResponse, X509svid, X509svidResponse},
};

use super::{CaStep, Config, DevError, Event, Issued, Template, ca::Ca, jwt::Jwt};

/// Shorter lives would be a matter of luck: certificates count whole seconds.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Everything that the issuer knows. A call that fails changes nothing.
#[derive(Debug)]
pub(super) struct State {
    ttl: Duration,
    intermediate: bool,
    ca: Ca,
    federated: BTreeMap<TrustDomain, Federated>,
    /// In the order of the messages; IDs and hints are unique.
    svids: Vec<Issued>,
    jwt: Jwt,
}

/// A trust domain other than our own.
#[derive(Debug)]
enum Federated {
    /// Its CA lives here.
    Ca(Box<Ca>),
    /// Its CA lives elsewhere; only the bundle is here.
    Bundle(TrustBundle),
}

impl State {
    pub(super) fn new(config: &Config, now: SystemTime) -> Result<(Self, Vec<Event>), DevError> {
        let mut state = Self {
            ttl: checked_ttl(config.ttl)?,
            intermediate: config.intermediate,
            ca: Ca::new(config.trust_domain.clone(), config.intermediate, now)?,
            federated: BTreeMap::new(),
            svids: Vec::new(),
            jwt: Jwt::new(config.jwt),
        };
        checked_ttl(config.jwt.ttl)?;
        state.jwt.add(config.trust_domain.clone())?;
        let mut events = Vec::new();
        for trust_domain in &config.federated {
            events.push(state.federate(trust_domain.clone(), now)?);
        }
        for identity in &config.identities {
            events.push(state.issue(&identity.id, identity.hint.as_deref(), now)?);
        }
        Ok((state, events))
    }

    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(super) fn svids(&self) -> &[Issued] {
        &self.svids
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    pub(super) fn set_ttl(&mut self, ttl: Duration) -> Result<(), DevError> {
        self.ttl = checked_ttl(ttl)?;
        Ok(())
    }

    /// Appends an identity; one that is there already keeps its place and gets a new leaf and this hint.
    pub(super) fn issue(&mut self, id: &SpiffeId, hint: Option<&str>, now: SystemTime) -> Result<Event, DevError> {
        if !id.is_member_of(self.trust_domain()) {
            return Err(DevError::ForeignId { id: id.clone(), trust_domain: self.trust_domain().clone() });
        }
        if id.path().is_empty() {
            return Err(DevError::NoPath(id.clone()));
        }
        let hint = hint.and_then(Hint::new);
        if let Some(owner) = self.svids.iter().find(|it| hint.is_some() && it.svid.hint == hint && it.svid.id != *id) {
            let hint = hint.as_ref().map(|hint| hint.as_str().to_owned()).unwrap_or_default();
            return Err(DevError::DuplicateHint { hint, id: owner.svid.id.clone() });
        }
        let mut issued = self.leaf(id, now)?;
        issued.svid.hint = hint;
        let event = match self.svids.iter_mut().find(|it| it.svid.id == *id) {
            Some(held) => rotated(std::mem::replace(held, issued.clone()), &issued),
            None => {
                let not_after = issued.svid.validity.not_after;
                let event = Event::Issued { id: id.clone(), serial: issued.serial.clone(), not_after };
                self.svids.push(issued);
                event
            }
        };
        Ok(event)
    }

    pub(super) fn revoke(&mut self, id: &SpiffeId) -> Result<Event, DevError> {
        let index = self.position(id)?;
        let gone = self.svids.remove(index);
        Ok(Event::Revoked { id: gone.svid.id, serial: gone.serial })
    }

    /// A new leaf and a new key for every identity, all or none.
    pub(super) fn rotate(&mut self, now: SystemTime) -> Result<Vec<Event>, DevError> {
        let fresh: Vec<_> = self.svids.iter().map(|held| self.successor(held, now)).collect::<Result<_, _>>()?;
        let held = std::mem::replace(&mut self.svids, fresh);
        Ok(held.into_iter().zip(&self.svids).map(|(old, new)| rotated(old, new)).collect())
    }

    pub(super) fn rotate_one(&mut self, id: &SpiffeId, now: SystemTime) -> Result<Event, DevError> {
        let index = self.position(id)?;
        let held = self.svids.get(index).ok_or_else(|| DevError::UnknownId(id.clone()))?;
        let fresh = self.successor(held, now)?;
        self.svids.push(fresh.clone());
        Ok(rotated(self.svids.swap_remove(index), &fresh))
    }

    /// The listed identities come first, in this order; the others keep theirs.
    pub(super) fn set_order(&mut self, order: &[SpiffeId]) {
        let rank = |held: &Issued| order.iter().position(|id| *id == held.svid.id).unwrap_or(order.len());
        self.svids.sort_by_key(rank);
    }

    /// One step of a CA's roll-over. Activating our own re-signs every leaf in the same change.
    pub(super) fn ca_step(
        &mut self,
        trust_domain: &TrustDomain,
        step: CaStep,
        now: SystemTime,
    ) -> Result<Vec<Event>, DevError> {
        let serial = self.ca_mut(trust_domain)?.step(step, now)?;
        let mut events = vec![Event::Ca { trust_domain: trust_domain.clone(), step, serial }];
        if step == CaStep::Activate && trust_domain == self.trust_domain() {
            events.extend(self.rotate(now)?);
        }
        Ok(events)
    }

    pub(super) fn federate(&mut self, trust_domain: TrustDomain, now: SystemTime) -> Result<Event, DevError> {
        self.refuse_own(&trust_domain)?;
        let ca = Ca::new(trust_domain.clone(), self.intermediate, now)?;
        self.jwt.add(trust_domain.clone())?;
        self.federated.insert(trust_domain.clone(), Federated::Ca(Box::new(ca)));
        Ok(Event::Federated(trust_domain))
    }

    pub(super) fn federate_with(&mut self, bundle: TrustBundle) -> Result<Event, DevError> {
        let trust_domain = bundle.trust_domain().clone();
        self.refuse_own(&trust_domain)?;
        self.jwt.remove(&trust_domain);
        self.federated.insert(trust_domain.clone(), Federated::Bundle(bundle));
        Ok(Event::Federated(trust_domain))
    }

    pub(super) fn defederate(&mut self, trust_domain: &TrustDomain) -> Result<Event, DevError> {
        match self.federated.remove(trust_domain) {
            Some(_) => {
                self.jwt.remove(trust_domain);
                Ok(Event::Defederated(trust_domain.clone()))
            }
            None => Err(DevError::UnknownTrustDomain(trust_domain.clone())),
        }
    }

    /// Signs anything with any CA that lives here.
    pub(super) fn sign(&self, template: &Template, signed_by: &TrustDomain) -> Result<Issued, DevError> {
        if signed_by == self.trust_domain() {
            return self.ca.sign(template);
        }
        match self.federated.get(signed_by) {
            Some(Federated::Ca(ca)) => ca.sign(template),
            _ => Err(DevError::UnknownTrustDomain(signed_by.clone())),
        }
    }

    /// The trusted roots of our own or of a federated trust domain.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Option<TrustBundle> {
        if trust_domain == self.trust_domain() {
            return Some(TrustBundle::new(trust_domain.clone(), self.ca.roots().cloned().collect()));
        }
        self.federated.get(trust_domain).map(|federated| match federated {
            Federated::Ca(ca) => TrustBundle::new(trust_domain.clone(), ca.roots().cloned().collect()),
            Federated::Bundle(bundle) => bundle.clone(),
        })
    }

    /// The whole state as `FetchX509SVID` says it; `None` while no identity is issued.
    pub(super) fn svid_response(&self) -> Option<X509svidResponse> {
        if self.svids.is_empty() {
            return None;
        }
        let bundle = concatenated(self.ca.roots());
        let svids = self.svids.iter().map(|issued| wire_svid(issued, bundle.clone())).collect();
        Some(X509svidResponse { svids, crl: Vec::new(), federated_bundles: self.federated_bundles() })
    }

    /// The whole state as `FetchX509Bundles` says it.
    pub(super) fn bundles_response(&self) -> X509BundlesResponse {
        let mut bundles = self.federated_bundles();
        bundles.insert(self.trust_domain().id_string(), concatenated(self.ca.roots()));
        X509BundlesResponse { crl: Vec::new(), bundles }
    }

    fn federated_bundles(&self) -> HashMap<String, Bytes> {
        let wire = |(trust_domain, federated): (&TrustDomain, &Federated)| {
            let der = match federated {
                Federated::Ca(ca) => concatenated(ca.roots()),
                Federated::Bundle(bundle) => concatenated(bundle.authorities().iter()),
            };
            (trust_domain.id_string(), der)
        };
        self.federated.iter().map(wire).collect()
    }

    fn position(&self, id: &SpiffeId) -> Result<usize, DevError> {
        self.svids.iter().position(|it| it.svid.id == *id).ok_or_else(|| DevError::UnknownId(id.clone()))
    }

    fn leaf(&self, id: &SpiffeId, now: SystemTime) -> Result<Issued, DevError> {
        self.ca.sign(&Template::leaf(id.clone(), now, self.ttl))
    }

    fn successor(&self, held: &Issued, now: SystemTime) -> Result<Issued, DevError> {
        let mut fresh = self.leaf(&held.svid.id, now)?;
        fresh.svid.hint.clone_from(&held.svid.hint);
        Ok(fresh)
    }

    fn ca_mut(&mut self, trust_domain: &TrustDomain) -> Result<&mut Ca, DevError> {
        if trust_domain == self.ca.trust_domain() {
            return Ok(&mut self.ca);
        }
        match self.federated.get_mut(trust_domain) {
            Some(Federated::Ca(ca)) => Ok(ca),
            _ => Err(DevError::UnknownTrustDomain(trust_domain.clone())),
        }
    }

    fn refuse_own(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        if trust_domain == self.trust_domain() {
            return Err(DevError::OwnTrustDomain(trust_domain.clone()));
        }
        Ok(())
    }
}

/// An SVID as the Workload API says it.
pub(super) fn wire_svid(issued: &Issued, bundle: Bytes) -> X509svid {
    let svid = &issued.svid;
    X509svid {
        spiffe_id: svid.id.to_string(),
        x509_svid: concatenated(svid.chain.iter()),
        x509_svid_key: Bytes::copy_from_slice(svid.key.pkcs8_der()),
        bundle,
        hint: svid.hint.as_ref().map(|hint| hint.as_str().to_owned()).unwrap_or_default(),
    }
}

fn concatenated<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> Bytes {
    certificates.flat_map(|certificate| certificate.der().iter().copied()).collect()
}

fn rotated(old: Issued, new: &Issued) -> Event {
    Event::Rotated {
        id: old.svid.id,
        previous: old.serial,
        serial: new.serial.clone(),
        not_after: new.svid.validity.not_after,
    }
}

fn checked_ttl(ttl: Duration) -> Result<Duration, DevError> {
    if ttl < MIN_TTL { Err(DevError::Ttl(ttl)) } else { Ok(ttl) }
}

#[cfg(test)]
mod tests;
