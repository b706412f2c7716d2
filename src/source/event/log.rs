//! How each event is logged: a constant message, the stable name in the field `event`, and what the event carries.

use std::time::{Duration, SystemTime};

use super::RenewalEvent;

pub(super) fn log(event: &RenewalEvent, loud: bool) {
    let name = event.name();
    match event {
        RenewalEvent::SourceUp => tracing::info!(event = name, "identity source is up"),
        RenewalEvent::SourceDown { kind, error, failures } => {
            let kind = kind.as_str();
            match (loud, kind) {
                (false, _) => tracing::debug!(event = name, kind, %error, failures, "identity source is down"),
                (_, "misconfigured") => {
                    tracing::error!(event = name, kind, %error, failures, "identity source is down");
                }
                _ => tracing::warn!(event = name, kind, %error, failures, "identity source is down"),
            }
        }
        RenewalEvent::SourceSwitched { from, to, reason } => {
            tracing::warn!(event = name, %from, %to, %reason, "another identity source is in service");
        }
        RenewalEvent::StandbyDown { source, kind, error, failures } => {
            let kind = kind.as_str();
            if loud {
                tracing::warn!(event = name, %source, kind, %error, failures, "standby identity source is down");
            } else {
                tracing::debug!(event = name, %source, kind, %error, failures, "standby identity source is down");
            }
        }
        RenewalEvent::Renewed { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::info!(event = name, %spiffe_id, %serial, %not_after, "svid renewed");
        }
        RenewalEvent::WarmStarted { sealed_at, svids } => {
            let sealed_at = rfc3339(*sealed_at);
            tracing::info!(event = name, %sealed_at, svids, "sealed identity in service until the source answers");
        }
        RenewalEvent::WarmEnded { confirmed } => {
            tracing::info!(event = name, confirmed, "the source has answered, the sealed identity is out of service");
        }
        RenewalEvent::Unchanged => tracing::debug!(event = name, "identity source repeated the same state"),
        RenewalEvent::RenewalFailed { error, failures } if loud => {
            tracing::error!(event = name, %error, failures, "update refused, last good state kept");
        }
        RenewalEvent::RenewalFailed { error, failures } => {
            tracing::debug!(event = name, %error, failures, "update refused, last good state kept");
        }
        RenewalEvent::ItemRefused { item, reason, kept } => {
            let kind = item.kind();
            tracing::warn!(event = name, kind, %item, %reason, kept, "left out of what is served");
        }
        RenewalEvent::ItemAccepted { item } => {
            let kind = item.kind();
            tracing::info!(event = name, kind, %item, "left out no more");
        }
        RenewalEvent::Expiring { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::warn!(event = name, %spiffe_id, %serial, %not_after, "svid expires soon and is not renewed");
        }
        RenewalEvent::Expired { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::error!(event = name, %spiffe_id, %serial, %not_after, "svid expired");
        }
        RenewalEvent::TrustChanged { trust_domain, added, removed } => {
            tracing::info!(event = name, %trust_domain, added, removed, "trust bundle changed");
        }
        RenewalEvent::Denied { reason, grace } => {
            let grace_s = grace.map(|grace| grace.as_secs_f64());
            tracing::warn!(event = name, %reason, grace_s, "no identity issued to this workload");
        }
        RenewalEvent::Withdrawn { reason } => {
            tracing::error!(event = name, %reason, "identity withdrawn after the grace time");
        }
        RenewalEvent::TrustDomainRefused { found, own, error, failures } if loud => {
            tracing::error!(event = name, %found, %own, %error, failures, "another trust domain refused as our own");
        }
        RenewalEvent::TrustDomainRefused { found, own, error, failures } => {
            tracing::debug!(event = name, %found, %own, %error, failures, "another trust domain refused as our own");
        }
        RenewalEvent::DefaultChanged { from, to } => {
            tracing::warn!(event = name, %from, %to, "another identity is the default one");
        }
        RenewalEvent::TrustWithdrawn { trust_domain } => {
            tracing::warn!(event = name, %trust_domain, "trust domain withdrawn, nobody of it is trusted any more");
        }
        RenewalEvent::TrustImpaired { reason } => {
            tracing::warn!(event = name, %reason, "peers do not accept our identity, or soon will not");
        }
        _ => log_one(event, name, loud),
    }
}

/// What is about one of the identities.
fn log_one(event: &RenewalEvent, name: &str, loud: bool) {
    match event {
        RenewalEvent::SvidWithdrawn { spiffe_id, serial, not_after, grace } => {
            let (not_after, grace_s) = (rfc3339(*not_after), grace.map(|grace| grace.as_secs_f64()));
            tracing::warn!(event = name, %spiffe_id, %serial, %not_after, grace_s, "the source lists this identity no longer");
        }
        RenewalEvent::SvidRemoved { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::warn!(event = name, %spiffe_id, %serial, %not_after, "withdrawn identity out of service");
        }
        RenewalEvent::SvidRestored { spiffe_id, serial, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::info!(event = name, %spiffe_id, %serial, %not_after, "the source lists this identity again");
        }
        RenewalEvent::NotYetValid { spiffe_id, serial, not_before } => {
            let not_before = rfc3339(*not_before);
            tracing::warn!(event = name, %spiffe_id, %serial, %not_before, "renewed svid is not valid yet, the one before stays until then");
        }
        _ => log_jwt(event, name, loud),
    }
}

fn log_jwt(event: &RenewalEvent, name: &str, loud: bool) {
    match event {
        RenewalEvent::JwtRenewed { spiffe_id, audience, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::info!(event = name, %spiffe_id, ?audience, %not_after, "jwt svid renewed");
        }
        RenewalEvent::JwtRenewalFailed { request, kind, error, failures } => {
            let (subject, audience, kind) = (&request.subject, &request.audience, kind.as_str());
            match (loud, kind) {
                (false, _) => {
                    tracing::debug!(event = name, %subject, ?audience, kind, %error, failures, "jwt svid not renewed");
                }
                (_, "misconfigured") => {
                    tracing::error!(event = name, %subject, ?audience, kind, %error, failures, "jwt svid not renewed");
                }
                _ => tracing::warn!(event = name, %subject, ?audience, kind, %error, failures, "jwt svid not renewed"),
            }
        }
        RenewalEvent::JwtExpiring { spiffe_id, audience, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::warn!(event = name, %spiffe_id, ?audience, %not_after, "jwt svid expires soon and is not renewed");
        }
        RenewalEvent::JwtExpired { spiffe_id, audience, not_after } => {
            let not_after = rfc3339(*not_after);
            tracing::error!(event = name, %spiffe_id, ?audience, %not_after, "jwt svid expired, clients get an empty one");
        }
        RenewalEvent::JwtWithdrawn { request, reason } => {
            let (subject, audience) = (&request.subject, &request.audience);
            tracing::error!(event = name, %subject, ?audience, %reason, "jwt svid withdrawn after the grace time");
        }
        RenewalEvent::JwtKeysChanged { trust_domain, added, removed } => {
            tracing::info!(event = name, %trust_domain, added, removed, "jwt keys changed");
        }
        RenewalEvent::JwtKeysFailed { kind, error, failures } => {
            let kind = kind.as_str();
            match (loud, kind) {
                (false, _) => tracing::debug!(event = name, kind, %error, failures, "jwt keys not received"),
                (_, "misconfigured") => tracing::error!(event = name, kind, %error, failures, "jwt keys not received"),
                _ => tracing::warn!(event = name, kind, %error, failures, "jwt keys not received"),
            }
        }
        _ => {}
    }
}

/// `format_rfc3339` refuses what lies before 1970 or after 9999; other sources than the Workload API may say that.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_times_can_be_shown() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)), "9999-12-31T23:59:59Z");
    }
}
