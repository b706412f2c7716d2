//! What the setters, the schedule and the streams share: the state behind a lock, and its newest message in a watch.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast, watch};

use crate::workload_api_proto::X509BundlesResponse;

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
        Self {
            bundles_need_identity,
            served: watch::Sender::new(Served { mode: Mode::Serving, svids, bundles }),
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
