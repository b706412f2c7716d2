//! The setters about JWT-SVIDs.

use std::{collections::BTreeSet, time::SystemTime};

use serde_json::Value;
use zeroize::Zeroizing;

use super::DevIssuer;
use crate::{
    dev::{CaStep, DevError, JwtConfig, JwtFault},
    identity::{SpiffeId, TrustDomain},
    workload_api_proto::JwtBundlesResponse,
};

impl DevIssuer {
    /// How tokens are issued from now on; those that were cached are forgotten.
    ///
    /// # Errors
    /// They would live shorter than 2 s.
    pub fn set_jwt(&self, config: JwtConfig) -> Result<(), DevError> {
        self.shared.change(|state, _| state.set_jwt(config).map(|()| Vec::new()))
    }

    /// One step of the roll-over of a trust domain's JWT keys, own or federated: prepare publishes a new one, activate
    /// signs with it, retire takes the old ones out of the bundle.
    ///
    /// # Errors
    /// No such trust domain has keys here, or the step is out of order.
    pub fn jwt_key_step(&self, trust_domain: &TrustDomain, step: CaStep) -> Result<(), DevError> {
        self.shared.change(|state, _| state.jwt_key_step(trust_domain, step))
    }

    /// Answers `FetchJWTSVID` wrongly or not at all; `None` ends that, and calls that hang are then answered.
    pub fn set_jwt_fault(&self, fault: Option<JwtFault>) {
        self.shared.served.send_modify(|served| served.jwt_fault = fault);
    }

    /// The present message of `FetchJWTBundles`, to tamper with.
    #[must_use]
    pub fn jwt_bundles(&self) -> JwtBundlesResponse {
        self.shared.state().jwt_bundles_response()
    }

    /// Says `message` to every open and every new `FetchJWTBundles` stream, until the state changes or
    /// [`recover`](Self::recover).
    pub fn send_raw_jwt_bundles(&self, message: JwtBundlesResponse) {
        // Under the lock, so that no setter's message is overtaken.
        let _state = self.shared.state();
        self.shared.served.send_modify(|served| served.jwt_bundles.update(Some(message), true));
    }

    /// A token as `FetchJWTSVID` would give it, whether or not the identity is issued.
    ///
    /// # Errors
    /// The trust domain has no keys here.
    pub fn jwt(&self, id: &SpiffeId, audience: &[&str]) -> Result<Zeroizing<String>, DevError> {
        let audience: BTreeSet<String> = audience.iter().map(|&it| it.to_owned()).collect();
        self.shared.state().jwt_token(id, &audience, SystemTime::now())
    }

    /// The claims of a token that a published key signed, whatever they are; `None` for any other.
    #[must_use]
    pub fn verify_jwt(&self, token: &str) -> Option<Value> {
        self.shared.state().verified_claims(token)
    }
}
