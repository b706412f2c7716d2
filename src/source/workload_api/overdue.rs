//! When a source should have said something. A stream to an agent that hangs looks alive: the kernel holds its connection,
//! and gRPC servers forbid to ask often whether anybody is there.

use std::time::{Duration, SystemTime};

use crate::identity::{IdentitySnapshot, Validity};

/// The share of its life after which an SVID should have been renewed; issuers do it at about one half.
const DUE: f64 = 2.0 / 3.0;
/// Nobody is asked in vain more often than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long to wait at `now` for the next message until a fresh session is tried. `None` without SVIDs.
///
/// An issuer that is late although its agent is well is tried again after a quarter of what is left.
pub(super) fn patience(snapshot: &IdentitySnapshot, now: SystemTime) -> Option<Duration> {
    snapshot.svids.iter().map(|svid| until_due(&svid.validity, now)).min()
}

fn until_due(validity: &Validity, now: SystemTime) -> Duration {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    let due = validity.not_before.checked_add(life.mul_f64(DUE)).and_then(|due| due.duration_since(now).ok());
    let again = validity.remaining(now) / 4;
    due.filter(|due| !due.is_zero()).unwrap_or(again).max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_due_after_two_thirds_and_then_again_and_again() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |seconds| start + Duration::from_secs(seconds);
        let validity = Validity { not_before: start, not_after: at(3600) };
        for (now, wait) in
            [(0, 2400), (2000, 400), (2399, 1), (2400, 300), (3200, 100), (3599, 1), (3600, 1), (9000, 1)]
        {
            assert_eq!(until_due(&validity, at(now)), Duration::from_secs(wait), "{now}");
        }
    }
}
