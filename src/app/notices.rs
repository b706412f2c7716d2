//! What happens, as callbacks are told it.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};

use crate::{
    hooks::{Notice, rfc3339},
    identity::{JwtRequest, JwtSubject, RefusedItem, SpiffeId},
    output::OutputEvent,
    source::{ErrorKind, RenewalEvent},
    telemetry::metrics::MissedEvents,
};

/// What metrics call this listener.
const LISTENER: &str = "callbacks";

/// Hands every event on to callbacks, until nothing can happen any more or nobody listens.
pub(super) async fn forward(
    mut renewals: broadcast::Receiver<RenewalEvent>,
    mut outputs: broadcast::Receiver<OutputEvent>,
    notices: mpsc::Sender<Notice>,
    missed: MissedEvents,
) {
    missed.begin(LISTENER);
    let mut sources = (true, true);
    while sources != (false, false) {
        let notice = tokio::select! {
            event = renewals.recv(), if sources.0 => received(event, of_renewal, &mut sources.0, &missed),
            event = outputs.recv(), if sources.1 => received(event, of_output, &mut sources.1, &missed),
        };
        if let Some(notice) = notice
            && notices.send(notice).await.is_err()
        {
            return;
        }
    }
}

fn received<E>(
    event: Result<E, RecvError>,
    notice: impl Fn(&E) -> Notice,
    open: &mut bool,
    missed: &MissedEvents,
) -> Option<Notice> {
    match event {
        Ok(event) => return Some(notice(&event)),
        Err(RecvError::Lagged(count)) => {
            missed.missed(LISTENER, count);
            tracing::warn!(count, "events came faster than callbacks take them, the oldest are lost");
        }
        Err(RecvError::Closed) => *open = false,
    }
    None
}

fn of_renewal(event: &RenewalEvent) -> Notice {
    let mut notice = Notice::new(event.name(), SystemTime::now());
    match event {
        RenewalEvent::Renewed { spiffe_id, serial, not_after }
        | RenewalEvent::SvidRemoved { spiffe_id, serial, not_after }
        | RenewalEvent::SvidRestored { spiffe_id, serial, not_after }
        | RenewalEvent::Expiring { spiffe_id, serial, not_after }
        | RenewalEvent::Expired { spiffe_id, serial, not_after } => {
            certificate(&mut notice, Some(spiffe_id), Some(serial), Some(*not_after));
        }
        RenewalEvent::SvidWithdrawn { spiffe_id, serial, not_after, grace } => {
            certificate(&mut notice, Some(spiffe_id), Some(serial), Some(*not_after));
            notice.grace_s = grace.map(|grace| grace.as_secs());
        }
        RenewalEvent::NotYetValid { spiffe_id, serial, .. } => {
            certificate(&mut notice, Some(spiffe_id), Some(serial), None);
        }
        RenewalEvent::DefaultChanged { from, to } => {
            certificate(&mut notice, Some(to), None, None);
            notice.reason = Some(format!("before: {from}"));
        }
        RenewalEvent::TrustDomainRefused { own, error, failures, .. } => {
            notice.trust_domain = Some(own.clone());
            failure(&mut notice, None, error, *failures);
        }
        RenewalEvent::TrustWithdrawn { trust_domain } => notice.trust_domain = Some(trust_domain.clone()),
        RenewalEvent::TrustImpaired { reason } => notice.reason = Some(reason.to_string()),
        RenewalEvent::SourceSwitched { to, reason, .. } => {
            notice.source = Some(to.to_string());
            notice.reason = Some(reason.as_str().to_owned());
        }
        RenewalEvent::StandbyDown { source, kind, error, failures } => {
            notice.source = Some(source.to_string());
            failure(&mut notice, Some(*kind), error, *failures);
        }
        RenewalEvent::SourceDown { kind, error, failures } | RenewalEvent::JwtKeysFailed { kind, error, failures } => {
            failure(&mut notice, Some(*kind), error, *failures);
        }
        RenewalEvent::RenewalFailed { error, failures } => failure(&mut notice, None, error, *failures),
        RenewalEvent::TrustChanged { trust_domain, added, removed }
        | RenewalEvent::JwtKeysChanged { trust_domain, added, removed } => {
            notice.trust_domain = Some(trust_domain.clone());
            (notice.added, notice.removed) = (Some(*added), Some(*removed));
        }
        RenewalEvent::Denied { reason, grace } => {
            notice.reason = Some(reason.to_string());
            notice.grace_s = grace.map(|grace| grace.as_secs());
        }
        RenewalEvent::Withdrawn { reason } => notice.reason = Some(reason.to_string()),
        RenewalEvent::JwtRenewed { spiffe_id, audience, not_after }
        | RenewalEvent::JwtExpiring { spiffe_id, audience, not_after }
        | RenewalEvent::JwtExpired { spiffe_id, audience, not_after } => {
            certificate(&mut notice, Some(spiffe_id), None, Some(*not_after));
            notice.audience = Some(list(audience));
        }
        RenewalEvent::JwtRenewalFailed { request, kind, error, failures } => {
            wanted(&mut notice, request);
            failure(&mut notice, Some(*kind), error, *failures);
        }
        RenewalEvent::JwtWithdrawn { request, reason } => {
            wanted(&mut notice, request);
            notice.reason = Some(reason.to_string());
        }
        RenewalEvent::WarmEnded { confirmed: false } => notice.reason = Some("denied".to_owned()),
        RenewalEvent::ItemRefused { item, reason, .. } => {
            left_out(&mut notice, item);
            notice.reason = Some(reason.to_string());
        }
        RenewalEvent::ItemAccepted { item } => left_out(&mut notice, item),
        RenewalEvent::SourceUp
        | RenewalEvent::Unchanged
        | RenewalEvent::WarmStarted { .. }
        | RenewalEvent::WarmEnded { confirmed: true } => {}
    }
    notice
}

fn of_output(event: &OutputEvent) -> Notice {
    let mut notice = Notice::new(event.name(), SystemTime::now());
    match event {
        OutputEvent::Written { directory, generation, spiffe_id, serial, not_after } => {
            notice.directory = Some(directory.display().to_string());
            notice.generation = Some(generation.to_string());
            certificate(&mut notice, spiffe_id.as_ref(), serial.as_ref(), *not_after);
        }
        OutputEvent::Failed { directory, error, failures } => {
            notice.directory = Some(directory.display().to_string());
            failure(&mut notice, None, error, *failures);
        }
    }
    notice
}

fn left_out(notice: &mut Notice, item: &RefusedItem) {
    notice.kind = Some(item.kind());
    notice.item = Some(item.to_string());
    notice.trust_domain = item.trust_domain();
}

fn certificate(notice: &mut Notice, id: Option<&SpiffeId>, serial: Option<&Arc<str>>, not_after: Option<SystemTime>) {
    notice.spiffe_id = id.cloned();
    notice.trust_domain = id.map(|id| id.trust_domain().clone());
    notice.serial = serial.map(|serial| serial.to_string());
    notice.not_after = not_after.map(rfc3339);
}

fn failure(notice: &mut Notice, kind: Option<ErrorKind>, error: &str, failures: u32) {
    notice.kind = kind.map(ErrorKind::as_str);
    notice.error = Some(error.to_owned());
    notice.failures = Some(failures);
}

/// A token that is not there: whose it would be is only known if it was asked for by SPIFFE ID.
fn wanted(notice: &mut Notice, request: &JwtRequest) {
    if let JwtSubject::Id(id) = &request.subject {
        certificate(notice, Some(id), None, None);
    }
    notice.audience = Some(list(&request.audience));
}

fn list(audience: &BTreeSet<String>) -> String {
    audience.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_of_both_kinds_arrive_until_nothing_can_happen() {
        let (renewals, outputs) = (broadcast::Sender::new(8), broadcast::Sender::new(8));
        let (sender, mut notices) = mpsc::channel(8);
        let forwarding =
            tokio::spawn(forward(renewals.subscribe(), outputs.subscribe(), sender, MissedEvents::default()));
        renewals.send(RenewalEvent::Withdrawn { reason: "gone".into() }).unwrap();
        assert_eq!(notices.recv().await.unwrap().reason.as_deref(), Some("gone"));
        let directory = std::path::Path::new("/out").into();
        outputs.send(OutputEvent::Failed { directory, error: "full".into(), failures: 2 }).unwrap();
        let notice = notices.recv().await.unwrap();
        assert_eq!((notice.event, notice.error.as_deref(), notice.failures), ("output_failed", Some("full"), Some(2)));
        drop((renewals, outputs));
        assert!(notices.recv().await.is_none());
        forwarding.await.unwrap();
    }
}
