//! What the setters, the schedule and the streams share: the state behind a lock, and its newest message in a watch.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast, watch};

use crate::workload_api_proto::{JwtBundlesResponse, X509BundlesResponse};

use super::{
    CaStep, DevError, Event, Traffic,
    serve::{Mode, Offer, Served},
    state::State,
};

/// Events that a slow subscriber may fall behind before it loses the oldest.
const EVENTS: usize = 1024;

/// Whoever changes the state holds its lock until the watch has the message, so that messages keep their order.
pub(super) struct Shared {
    state: Mutex<State>,
    bundles_need_identity: bool,
    pub(super) served: watch::Sender<Served>,
    pub(super) traffic: watch::Sender<Traffic>,
    /// The life of the leaves to come, for the schedule.
    pub(super) ttl: watch::Sender<Duration>,
    pub(super) events: broadcast::Sender<Event>,
}

impl Shared {
    pub(super) fn new(state: State, bundles_need_identity: bool) -> Self {
        let svids = Offer::new(state.svid_response());
        let bundles = Offer::new(offered_bundles(&state, bundles_need_identity));
        let jwt_bundles = Offer::new(offered_jwt_bundles(&state, bundles_need_identity));
        Self {
            bundles_need_identity,
            served: watch::Sender::new(Served { mode: Mode::Serving, svids, bundles, jwt_bundles, jwt_fault: None }),
            traffic: watch::Sender::default(),
            ttl: watch::Sender::new(state.ttl()),
            events: broadcast::Sender::new(EVENTS),
            state: Mutex::new(state),
        }
    }

    pub(super) fn rotate(&self) -> Result<(), DevError> {
        self.change(State::rotate)
    }

    pub(super) fn own_ca_step(&self, step: CaStep) -> Result<(), DevError> {
        self.change(|state, now| {
            let own = state.trust_domain().clone();
            state.ca_step(&own, step, now)
        })
    }

    pub(super) fn own_jwt_key_step(&self, step: CaStep) -> Result<(), DevError> {
        self.change(|state, _| {
            let own = state.trust_domain().clone();
            state.jwt_key_step(&own, step)
        })
    }

    /// Makes one change, publishes it as one message and tells of it.
    pub(super) fn change(
        &self,
        with: impl FnOnce(&mut State, SystemTime) -> Result<Vec<Event>, DevError>,
    ) -> Result<(), DevError> {
        let mut state = self.state();
        let events = with(&mut state, SystemTime::now())?;
        self.publish(&state, false);
        for event in events {
            tracing::debug!(?event, "development issuer changed");
            // Nobody listens: nobody wants to know.
            let _ = self.events.send(event);
        }
        Ok(())
    }

    /// Offers what `state` says now where that is news, or anyway if it is to be `repeated`.
    pub(super) fn publish(&self, state: &State, repeated: bool) {
        self.served.send_modify(|served| {
            served.svids.update(state.svid_response(), repeated);
            served.bundles.update(offered_bundles(state, self.bundles_need_identity), repeated);
            served.jwt_bundles.update(offered_jwt_bundles(state, self.bundles_need_identity), repeated);
        });
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made on the whole or not at all, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offered_bundles(state: &State, need_identity: bool) -> Option<X509BundlesResponse> {
    (!need_identity || !state.svids().is_empty()).then(|| state.bundles_response())
}

fn offered_jwt_bundles(state: &State, need_identity: bool) -> Option<JwtBundlesResponse> {
    (!need_identity || !state.svids().is_empty()).then(|| state.jwt_bundles_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dev::Config,
        identity::{SpiffeId, TrustDomain},
        source::Endpoint,
    };

    fn shared() -> Shared {
        let td = TrustDomain::new("example.org").unwrap();
        let id = SpiffeId::new("spiffe://example.org/web").unwrap();
        let config = Config::new(td, Endpoint::Unix("/unused".into())).identity(id, None);
        Shared::new(State::new(&config, SystemTime::now()).unwrap().0, false)
    }

    /// How often SVIDs and bundles had news.
    fn versions(shared: &Shared) -> (u64, u64) {
        let served = shared.served.borrow();
        (served.svids.version, served.bundles.version)
    }

    #[test]
    fn only_news_is_offered_unless_repeated() {
        let shared = shared();
        shared.change(|_, _| Ok(Vec::new())).unwrap();
        assert_eq!(versions(&shared), (0, 0), "nothing new");
        shared.rotate().unwrap();
        assert_eq!(versions(&shared), (1, 0), "bundles know no leaves");
        shared.own_ca_step(CaStep::Prepare).unwrap();
        assert_eq!(versions(&shared), (2, 1));
        shared.publish(&shared.state(), true);
        assert_eq!(versions(&shared), (3, 2));
    }

    #[test]
    fn a_refused_change_says_nothing() {
        let shared = shared();
        let mut events = shared.events.subscribe();
        assert!(shared.own_ca_step(CaStep::Activate).is_err());
        assert_eq!(versions(&shared), (0, 0));
        assert!(events.try_recv().is_err());
    }
}
