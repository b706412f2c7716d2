//! Whether we are ready, and `grpc.health.v1`, which says the same.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::service::{Aggregated, Secrets};
use crate::{
    identity::Availability,
    lifecycle::{Condition, Question, Readiness, heartbeat},
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
    async move {
        let mut asked: Option<Question> = None;
        loop {
            let verdict = {
                let state = states.borrow_and_update();
                verdict(&state, SystemTime::now())
            };
            let wake = match verdict {
                Ok(valid_for) => {
                    latch.ready();
                    valid_for
                }
                Err(reason) => {
                    latch.pending(reason);
                    None
                }
            };
            // Judged anew by whoever asks: what was true a moment ago is not the answer.
            if let Some(question) = asked.take() {
                question.answer();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                question = responder.question() => asked = Some(question),
                changed = states.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
            }
        }
    }
}

/// For how much longer the last good identity is valid, if it ends at all; or why there is none.
fn verdict(state: &Availability, now: SystemTime) -> Result<Option<Duration>, Cow<'static, str>> {
    let snapshot = match state {
        Availability::Ready(snapshot) => snapshot,
        Availability::Pending => return Err("no identity yet".into()),
        Availability::Denied(reason) => return Err(format!("the source denies us an identity: {reason}").into()),
    };
    // A verifier without an identity of its own serves bundles.
    let Some(first) = snapshot.svids.iter().min_by_key(|svid| svid.validity.not_after) else { return Ok(None) };
    if first.validity.is_expired(now) {
        return Err(format!("the SVID of {} has expired", first.id).into());
    }
    Ok(Some(first.validity.remaining(now) + Duration::from_millis(1)))
}

/// Tells `grpc.health.v1` how the conditions stand, until `stop`.
pub(super) async fn report(
    mut reporter: HealthReporter,
    mut conditions: watch::Receiver<Vec<Condition>>,
    stop: CancellationToken,
) {
    loop {
        let ready = conditions.borrow_and_update().iter().all(|condition| condition.pending.is_none());
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
