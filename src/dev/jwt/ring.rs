//! The keys of one trust domain: one signs, others are published before and after their time.

use serde_json::Value;

use super::key::Key;
use crate::{
    dev::{CaStep, DevError},
    identity::TrustDomain,
};

#[derive(Debug)]
pub(in crate::dev) struct KeyRing {
    retiring: Vec<Key>,
    active: Key,
    prepared: Option<Key>,
}

impl KeyRing {
    pub(super) fn new() -> Result<Self, DevError> {
        Ok(Self { retiring: Vec::new(), active: Key::new()?, prepared: None })
    }

    /// Takes one step of a roll-over and tells the `kid` that it concerns.
    pub(super) fn step(&mut self, trust_domain: &TrustDomain, step: CaStep) -> Result<String, DevError> {
        let out_of_order = |reason| DevError::OutOfOrder { trust_domain: trust_domain.clone(), step, reason };
        match step {
            CaStep::Prepare if self.prepared.is_some() => Err(out_of_order("activate the prepared key first")),
            CaStep::Prepare => Ok(self.prepared.insert(Key::new()?).kid.clone()),
            CaStep::Activate => {
                let next = self.prepared.take().ok_or_else(|| out_of_order("prepare a key first"))?;
                self.retiring.push(std::mem::replace(&mut self.active, next));
                Ok(self.active.kid.clone())
            }
            CaStep::Retire => {
                let last = self.retiring.last().ok_or_else(|| out_of_order("activate another key first"))?;
                let kid = last.kid.clone();
                self.retiring.clear();
                Ok(kid)
            }
        }
    }

    pub(super) fn active_kid(&self) -> &str {
        &self.active.kid
    }

    pub(super) fn sign(&self, claims: &Value) -> Result<String, DevError> {
        self.active.sign(claims)
    }

    pub(super) fn verifies(&self, kid: &str, signed: &[u8], signature: &[u8]) -> bool {
        self.keys().any(|key| key.kid == kid && key.verifies(signed, signature))
    }

    /// Oldest first.
    pub(super) fn jwks(&self) -> Vec<Value> {
        self.keys().map(Key::jwk).collect()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.retiring.iter().chain([&self.active]).chain(&self.prepared)
    }
}
