//! When a token is asked for anew, when it is late, and when it goes.

use std::time::{Duration, SystemTime};

use super::SHORTEST_WAIT;
use crate::identity::Validity;

/// A token goes out of service this long before its end, so that its empty replacement is at the proxies in time: no
/// request carries a token that has ended.
pub(in crate::source::jwt) const AHEAD: Duration = Duration::from_millis(200);
/// Between these shares of its life the successor of a token is asked for.
const EARLIEST: f64 = 0.60;
const LATEST: f64 = 0.67;

/// When to ask for the successor of a token that is here.
///
/// A source may hand the same token out for half of its life (SPIRE, give or take a twentieth, to all its clients), so
/// asking earlier is in vain, and what is new to us may be half over; two thirds leave a third for failures. A source
/// that repeats itself, or gives a token that is past that point, is late: it is asked in ever shorter steps, without
/// ever spinning.
pub(super) fn renewal(validity: &Validity, repeated: bool, now: SystemTime, rng: &mut fastrand::Rng) -> SystemTime {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    let point = validity.not_before.checked_add(life.mul_f64(EARLIEST + (LATEST - EARLIEST) * rng.f64()));
    let step = validity.remaining(now).mul_f64(0.25 + rng.f64() / 4.0).max(SHORTEST_WAIT);
    match point {
        Some(point) if point > now && !repeated => point.max(now + SHORTEST_WAIT),
        _ => now + step,
    }
}

/// When a token goes out of service. One that lives shorter than a few moments has no time to give away.
pub(super) fn leaves(validity: &Validity) -> SystemTime {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    validity.not_after.checked_sub(AHEAD.min(life / 10)).unwrap_or(validity.not_after)
}

/// When a token should have been replaced: a quarter of its life is left to act.
pub(super) fn late(validity: &Validity) -> SystemTime {
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    validity.not_after.checked_sub(life / 4).unwrap_or(validity.not_after)
}
