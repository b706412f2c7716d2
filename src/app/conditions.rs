//! Conditions that show what was configured and is not there: the program is ready without them, and degraded.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::{Availability, IdentitySnapshot, JwtSnapshot, JwtState, Withdrawn},
    lifecycle::{Latch, Readiness, clock},
    output,
    secret::{CrlPolicy, vouching},
};

/// Things that one reason names; of more it says how many.
const NAMED: usize = 3;

/// What the conditions are judged by.
pub(super) struct Watched {
    pub(super) states: watch::Receiver<Availability>,
    pub(super) withdrawn: watch::Receiver<Arc<[Withdrawn]>>,
    pub(super) tokens: watch::Receiver<Arc<JwtSnapshot>>,
    pub(super) outputs: watch::Receiver<BTreeMap<Arc<Path>, output::Standing>>,
    pub(super) crls: CrlPolicy,
}

/// Keeps the optional conditions until `stop`. Their latches are taken at once.
pub(super) fn keep(
    readiness: &Readiness,
    mut watched: Watched,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let latch = |name| readiness.optional(name);
    let [svids, withdrawn, trust, tokens, outputs] = ["svids", "withdrawn", "trust", "tokens", "outputs"].map(latch);
    async move {
        let mut clock_changes = clock::changes();
        loop {
            let now = SystemTime::now();
            let state = watched.states.borrow_and_update().clone();
            let nothing = Arc::default();
            let snapshot = if let Availability::Ready(snapshot) = &state { snapshot } else { &nothing };
            let found = vouching(snapshot, watched.crls, now);
            set(&svids, listed(expired(snapshot, now), "expired, others are valid"));
            set(&trust, listed(found.faults.iter().map(ToString::to_string).collect(), ""));
            set(
                &withdrawn,
                listed(gone(&watched.withdrawn.borrow_and_update(), snapshot, now), "listed by the source no longer"),
            );
            set(&tokens, listed(missing(&watched.tokens.borrow_and_update()), "not granted"));
            set(&outputs, listed(unwritten(&watched.outputs.borrow_and_update()), ""));
            let ends = snapshot.svids.iter().map(|svid| svid.validity.not_after + Duration::from_millis(1));
            let wake = ends.filter(|at| *at > now).chain(found.next).min();
            let wake = wake.map(|at| at.duration_since(now).unwrap_or_default());
            // Who tells of them lives as long as the program.
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = watched.states.changed() => {}
                Ok(()) = watched.withdrawn.changed() => {}
                Ok(()) = watched.tokens.changed() => {}
                Ok(()) = watched.outputs.changed() => {}
                Some(()) = clock_changes.next() => {}
                () = sleep(wake.unwrap_or_default()), if wake.is_some() => {}
                else => return stop.cancelled().await,
            }
        }
    }
}

fn set(latch: &Latch, trouble: Option<String>) {
    match trouble {
        Some(reason) => latch.pending(reason),
        None => latch.ready(),
    }
}

/// `a, b, c and 2 more expired`; `None` where there is nothing.
fn listed(names: Vec<String>, what: &str) -> Option<String> {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if !what.is_empty() {
        text.push_str(&format!(": {what}"));
    }
    (!names.is_empty()).then_some(text)
}

/// Identities that are over, where others are not: without any that is valid the program is not ready at all.
fn expired(snapshot: &IdentitySnapshot, now: SystemTime) -> Vec<String> {
    let over = |svid: &&Arc<crate::identity::Svid>| svid.validity.is_expired(now);
    let names: Vec<_> = snapshot.svids.iter().filter(over).map(|svid| svid.id.to_string()).collect();
    if names.len() < snapshot.svids.len() { names } else { Vec::new() }
}

/// Withdrawn identities whose last certificate clients may use still. Where all are, the program is not ready at all.
fn gone(withdrawn: &[Withdrawn], snapshot: &IdentitySnapshot, now: SystemTime) -> Vec<String> {
    let others = !snapshot.svids.is_empty();
    let alive = withdrawn.iter().filter(|it| others && (it.in_service || !it.validity.is_expired(now)));
    alive.map(|it| it.id.to_string()).collect()
}

fn missing(tokens: &JwtSnapshot) -> Vec<String> {
    let missing = tokens.svids.iter().filter(|(_, state)| !matches!(state, JwtState::Valid(_)));
    missing.map(|(request, _)| format!("{} for {}", request.subject, audiences(request))).collect()
}

fn audiences(request: &crate::identity::JwtRequest) -> String {
    request.audience.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

fn unwritten(outputs: &BTreeMap<Arc<Path>, output::Standing>) -> Vec<String> {
    let bad = outputs.iter().filter_map(|(directory, standing)| match standing {
        output::Standing::Current => None,
        output::Standing::Waiting => Some(format!("{}: nothing written yet", directory.display())),
        output::Standing::Failed(error) => Some(format!("{}: {error}", directory.display())),
    });
    bad.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_things_some_are_named() {
        let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(names(0), "expired"), None);
        assert_eq!(listed(names(2), "expired").as_deref(), Some("0; 1: expired"));
        assert_eq!(listed(names(5), "").as_deref(), Some("0; 1; 2 and 2 more"));
    }

    #[test]
    fn outputs_are_named_with_what_is_wrong() {
        let outputs = [
            (Arc::from(Path::new("/a")), output::Standing::Current),
            (Arc::from(Path::new("/b")), output::Standing::Waiting),
            (Arc::from(Path::new("/c")), output::Standing::Failed("disk full".into())),
        ];
        assert_eq!(unwritten(&outputs.into()), ["/b: nothing written yet", "/c: disk full"]);
    }
}
