//! Names that a client asks for and is not given, told to the operator: once a name and client, with the reason.

use std::{collections::BTreeMap, task::Context};

use tokio::time::{Instant, sleep};

use super::StreamObserver;
use crate::{
    secret::Missing,
    server::said::Kind,
    telemetry::journal::Weight,
    xds::{ResourceName, StreamState, Variant},
};

/// Names in one line of the log.
const NAMES_SHOWN: usize = 8;
/// What stands for all names that are too long to be any.
const OVERLONG: &str = "(longer than 4096 bytes)";

impl StreamObserver {
    /// The client can never have these. Over delta it has been told.
    pub(super) fn refuse(&self, names: &[ResourceName]) {
        for (reason, names) in self.by_reason(names) {
            self.say_refused(&names, &reason.to_string());
        }
    }

    /// So many names are too long to be any.
    pub(super) fn refuse_overlong(&self, count: usize) {
        self.say_refused(&[&ResourceName::new(OVERLONG)], &format!("{count} names are longer than any name can be"));
    }

    fn say_refused(&self, names: &[&ResourceName], reason: &str) {
        let names = self.shared.said.new_ones(Kind::Refused, &self.client, names, Instant::now());
        if names.is_empty() {
            return;
        }
        let (count, shown) = (names.len(), names.get(..NAMES_SHOWN).unwrap_or(&names));
        self.note(Weight::Notice, "names_unavailable", &shown_first(shown), reason);
        let (client, peer) = (&self.client, self.client.peer);
        if self.client.variant == Variant::Delta {
            tracing::info!(%client, %peer, count, names = ?shown, reason, "names not available to this client");
        } else {
            // It cannot be told, and waits for ever.
            tracing::warn!(%client, %peer, count, names = ?shown, reason, "names not available to this client");
        }
    }

    /// Looks whether the client waits for too long. `more`: it wants other names than before.
    pub(super) fn wait(&mut self, state: &mut StreamState, more: bool, cx: &mut Context<'_>) {
        if state.secrets().waiting() == 0 {
            self.patience = None;
            return;
        }
        let bound = self.shared.metrics.starves_after();
        if more && self.patience.is_none() {
            // Nobody can have waited for longer than no time at all.
            let (_, waits) = state.take_overdue();
            self.patience = waits.then(|| Box::pin(sleep(bound)));
        }
        while self.patience.as_mut().is_some_and(|patience| patience.as_mut().poll(cx).is_ready()) {
            let (names, waits) = state.take_overdue();
            for (reason, names) in self.by_reason(&names) {
                self.say_starved(&names, reason);
            }
            self.patience = waits.then(|| Box::pin(sleep(bound)));
        }
    }

    fn say_starved(&self, names: &[&ResourceName], reason: Missing) {
        let names = self.shared.said.new_ones(Kind::Starved, &self.client, names, Instant::now());
        if names.is_empty() {
            return;
        }
        let (count, shown) = (names.len(), names.get(..NAMES_SHOWN).unwrap_or(&names));
        let reason = reason.to_string();
        self.note(Weight::Problem, "names_awaited", &shown_first(shown), &reason);
        tracing::warn!(client = %self.client, peer = %self.client.peer, count, names = ?shown, reason, "a client waits for names that nothing provides");
    }

    /// Names that are not there, by the reason why.
    fn by_reason<'a>(&self, names: &'a [ResourceName]) -> BTreeMap<Missing, Vec<&'a ResourceName>> {
        let mut reasons = BTreeMap::<_, Vec<_>>::new();
        if let Some(now) = self.now.as_ref().filter(|_| !names.is_empty()) {
            let live = self.shared.settings.now();
            for name in names {
                if let Some(reason) = live.secrets.missing(name.as_str(), now) {
                    reasons.entry(reason).or_default().push(name);
                }
            }
        }
        reasons
    }
}

fn shown_first(names: &[&ResourceName]) -> String {
    names.first().map(ToString::to_string).unwrap_or_default()
}
