//! Whether we are ready, and `grpc.health.v1`, which says the same.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::service::{Aggregated, Secrets};
use crate::{
    identity::Availability,
    lifecycle::{Condition, Question, Readiness, clock, heartbeat},
    secret::{CrlPolicy, vouching},
};

/// What is reported on: the whole server and both services, which always say the same.
const SERVICES: [&str; 3] = ["", Secrets::NAME, Aggregated::NAME];

/// Keeps the condition `identity`: an identity is held and valid, or there are bundles and no identity to expect.
pub(super) fn judge(
    readiness: &Readiness,
    mut states: watch::Receiver<Availability>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let latch = readiness.latch("identity", "no identity yet");
    let (heartbeat, mut responder) = heartbeat("judge of readiness");
    readiness.depends_on(heartbeat);
    let mut clock_changes = clock::changes();
    async move {
        let mut asked: Option<Question> = None;
        loop {
            let verdict = {
                let state = states.borrow_and_update();
                verdict(&state, SystemTime::now())
            };
            let wake = verdict.until.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
            match verdict.trouble {
                None => latch.ready(),
                Some(reason) => latch.pending(reason),
            }
            // Judged anew by whoever asks: what was true a moment ago is not the answer.
            if let Some(question) = asked.take() {
                question.answer();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                question = responder.question() => asked = Some(question),
                changed = states.changed() => if changed.is_err() { break },
                Some(()) = clock_changes.next() => {}
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
            }
        }
    }
}

/// Whether an identity that is valid is held, and when that may change though nobody sends anything.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// Why there is none.
    trouble: Option<Cow<'static, str>>,
    until: Option<SystemTime>,
}

fn verdict(state: &Availability, now: SystemTime) -> Verdict {
    let snapshot = match state {
        Availability::Ready(snapshot) => snapshot,
        Availability::Pending => return Verdict { trouble: Some("no identity yet".into()), until: None },
        Availability::Denied(reason) => {
            let trouble = Some(format!("the source denies us an identity: {reason}").into());
            return Verdict { trouble, until: None };
        }
    };
    // Lists are no matter of ours: they keep us from accepting others.
    let trust = vouching(snapshot, CrlPolicy::Never, now);
    let ends = snapshot.svids.iter().filter(|svid| !svid.validity.is_expired(now));
    let ends = ends.map(|svid| svid.validity.not_after + Duration::from_millis(1));
    let until = ends.chain(trust.next).min();
    // A verifier without an identity of its own serves bundles. Each identity is judged for itself.
    let last = snapshot.svids.iter().max_by_key(|svid| svid.validity.not_after);
    let trouble = match last {
        Some(last) if last.validity.is_expired(now) => Some(format!("the SVID of {} has expired", last.id).into()),
        _ if trust.broken => trust.faults.first().map(|fault| fault.to_string().into()),
        _ => None,
    };
    Verdict { trouble, until }
}

/// Tells `grpc.health.v1` how the conditions stand, until `stop`.
pub(super) async fn report(
    mut reporter: HealthReporter,
    mut conditions: watch::Receiver<Vec<Condition>>,
    stop: CancellationToken,
) {
    loop {
        let ready = !conditions.borrow_and_update().iter().any(Condition::blocks);
        set(&reporter, if ready { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
        tokio::select! {
            () = stop.cancelled() => break,
            changed = conditions.changed() => if changed.is_err() { break },
        }
    }
    set(&reporter, ServingStatus::NotServing).await;
    // Ends the watches: they are streams without an end, and would hold the drain up until its deadline.
    for service in SERVICES {
        reporter.clear_service_status(service).await;
    }
}

async fn set(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::secret::fixture;

    /// Identities with so many seconds left of their lives.
    fn state(lives: &[i64]) -> (Availability, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ids: Vec<_> = (0..lives.len()).map(|number| format!("spiffe://example.org/{number}")).collect();
        let svids: Vec<_> = ids.iter().map(|id| (id.as_str(), "leaf")).collect();
        let mut snapshot = fixture::snapshot(&svids, &[("example.org", &["root"])]);
        for (svid, left) in snapshot.svids.iter_mut().zip(lives) {
            let length = Duration::from_secs(left.unsigned_abs());
            Arc::make_mut(svid).validity.not_after = if *left < 0 { now - length } else { now + length };
        }
        (Availability::Ready(Arc::new(snapshot)), now)
    }

    #[test]
    fn one_identity_that_is_valid_is_enough() {
        let (both, now) = state(&[-10, 500]);
        let found = verdict(&both, now);
        let end = now + Duration::from_millis(500_001);
        assert_eq!(found, Verdict { trouble: None, until: Some(end) });
        let gone = verdict(&both, end);
        assert!(gone.trouble.is_some_and(|reason| reason.contains("spiffe://example.org/1 has expired")));
        assert_eq!(gone.until, None);
    }

    #[test]
    fn bundles_alone_are_enough_and_nothing_is_not() {
        let (verifier, now) = state(&[]);
        assert_eq!(verdict(&verifier, now), Verdict { trouble: None, until: None });
        assert!(verdict(&Availability::Pending, now).trouble.is_some());
        assert!(verdict(&Availability::Denied("gone".into()), now).trouble.is_some());
    }
}
