//! Renewal in the journal.

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::view;
use crate::{
    source::RenewalEvent,
    telemetry::{
        journal::{Journal, Weight},
        metrics::MissedEvents,
    },
};

/// What metrics call this listener.
const LISTENER: &str = "page";

/// Notes every outcome of renewal until `stop`.
pub async fn note_renewals(
    mut events: broadcast::Receiver<RenewalEvent>,
    journal: Journal,
    missed: MissedEvents,
    stop: CancellationToken,
) {
    missed.begin(LISTENER);
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => note(&event, &journal),
            // The newest are still to come.
            Err(broadcast::error::RecvError::Lagged(count)) => missed.missed(LISTENER, count),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn note(event: &RenewalEvent, journal: &Journal) {
    use RenewalEvent as E;
    let (weight, subject, detail) = match event {
        E::Unchanged => return,
        E::WarmStarted { sealed_at, svids } => {
            (Weight::Notice, format!("{svids} identities"), format!("sealed {}", view::seconds(*sealed_at)))
        }
        E::WarmEnded { confirmed: true } => (Weight::Notice, "confirmed by the source".to_owned(), String::new()),
        E::WarmEnded { confirmed: false } => (Weight::Problem, "refused by the source".to_owned(), String::new()),
        E::SourceUp => (Weight::Routine, String::new(), String::new()),
        E::SourceDown { kind, error, .. } => (Weight::Notice, kind.as_str().to_owned(), error.to_string()),
        E::SourceSwitched { from, to, .. } => (Weight::Notice, to.to_string(), format!("before: {from}")),
        E::StandbyDown { source, error, .. } => (Weight::Notice, source.to_string(), error.to_string()),
        E::RenewalFailed { error, .. } => (Weight::Problem, String::new(), error.to_string()),
        E::Renewed { spiffe_id, serial, not_after } => {
            (Weight::Routine, spiffe_id.to_string(), format!("serial {serial}, until {}", view::seconds(*not_after)))
        }
        E::ItemRefused { item, reason, .. } => (Weight::Problem, item.to_string(), reason.to_string()),
        E::ItemAccepted { item } => (Weight::Notice, item.to_string(), String::new()),
        E::Expiring { spiffe_id, not_after, .. } | E::Expired { spiffe_id, not_after, .. } => {
            (Weight::Problem, spiffe_id.to_string(), format!("ends {}", view::seconds(*not_after)))
        }
        E::SvidWithdrawn { spiffe_id, not_after, .. } | E::SvidRemoved { spiffe_id, not_after, .. } => {
            (Weight::Problem, spiffe_id.to_string(), format!("its last certificate ends {}", view::seconds(*not_after)))
        }
        E::SvidRestored { spiffe_id, .. } => (Weight::Notice, spiffe_id.to_string(), String::new()),
        E::NotYetValid { spiffe_id, not_before, .. } => {
            (Weight::Notice, spiffe_id.to_string(), format!("begins {}", view::seconds(*not_before)))
        }
        E::DefaultChanged { from, to } => (Weight::Notice, to.to_string(), format!("before: {from}")),
        E::TrustDomainRefused { found, error, .. } => (Weight::Problem, found.to_string(), error.to_string()),
        E::TrustWithdrawn { trust_domain } => (Weight::Notice, trust_domain.to_string(), String::new()),
        E::TrustImpaired { reason } => (Weight::Problem, String::new(), reason.to_string()),
        E::TrustChanged { trust_domain, added, removed } => {
            (Weight::Notice, trust_domain.to_string(), format!("authorities: {added} added, {removed} removed"))
        }
        E::Denied { reason, .. } | E::Withdrawn { reason } => (Weight::Problem, String::new(), reason.to_string()),
        E::JwtRenewed { spiffe_id, not_after, .. } => {
            (Weight::Routine, spiffe_id.to_string(), format!("until {}", view::seconds(*not_after)))
        }
        E::JwtExpiring { spiffe_id, not_after, .. } | E::JwtExpired { spiffe_id, not_after, .. } => {
            (Weight::Problem, spiffe_id.to_string(), format!("ends {}", view::seconds(*not_after)))
        }
        E::JwtRenewalFailed { error, .. } | E::JwtKeysFailed { error, .. } => {
            (Weight::Problem, String::new(), error.to_string())
        }
        E::JwtWithdrawn { reason, .. } => (Weight::Problem, String::new(), reason.to_string()),
        E::JwtKeysChanged { trust_domain, added, removed } => {
            (Weight::Notice, trust_domain.to_string(), format!("JWT keys: {added} added, {removed} removed"))
        }
    };
    journal.note(weight, event.name(), &subject, &detail, &"");
}
