//! JWT-SVIDs of the identities that are issued.

use std::{collections::BTreeSet, time::SystemTime};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{State, checked_ttl};
use crate::{
    dev::{CaStep, DevError, Event, JwtConfig, JwtFault},
    identity::{SpiffeId, TrustDomain},
    workload_api_proto::{JwtBundlesResponse, Jwtsvid, JwtsvidResponse},
};

impl State {
    /// What `FetchJWTSVID` answers; `None` if the caller has no such identity.
    pub(in crate::dev) fn jwt_response(
        &mut self,
        spiffe_id: &str,
        audience: &BTreeSet<String>,
        fault: Option<&JwtFault>,
        now: SystemTime,
    ) -> Result<Option<JwtsvidResponse>, DevError> {
        let wanted = |id: &str| spiffe_id.is_empty() || spiffe_id == id;
        let mut svids = Vec::new();
        for issued in self.svids.iter().filter(|issued| wanted(&issued.svid.id.to_string())) {
            let mut token = self.jwt.token(&issued.svid.id, audience, fault, now)?;
            let hint = issued.svid.hint.as_ref().map(|hint| hint.as_str().to_owned()).unwrap_or_default();
            svids.push(Jwtsvid { spiffe_id: issued.svid.id.to_string(), svid: std::mem::take(&mut *token), hint });
        }
        Ok((!svids.is_empty()).then_some(JwtsvidResponse { svids }))
    }

    pub(in crate::dev) fn jwt_token(
        &mut self,
        id: &SpiffeId,
        audience: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, DevError> {
        self.jwt.token(id, audience, None, now)
    }

    /// What `FetchJWTBundles` says.
    pub(in crate::dev) fn jwt_bundles_response(&self) -> JwtBundlesResponse {
        JwtBundlesResponse { bundles: self.jwt.bundles() }
    }

    /// The claims of a token that somebody here signed.
    pub(in crate::dev) fn verified_claims(&self, token: &str) -> Option<Value> {
        self.jwt.verify(token)
    }

    pub(in crate::dev) fn jwt_key_step(
        &mut self,
        trust_domain: &TrustDomain,
        step: CaStep,
    ) -> Result<Vec<Event>, DevError> {
        let kid = self.jwt.step(trust_domain, step)?;
        Ok(vec![Event::JwtKey { trust_domain: trust_domain.clone(), step, kid }])
    }

    pub(in crate::dev) fn set_jwt(&mut self, config: JwtConfig) -> Result<(), DevError> {
        checked_ttl(config.ttl)?;
        self.jwt.set_config(config);
        Ok(())
    }
}
