//! From when the life of a certificate counts.
//!
//! Issuers set `notBefore` back, for clocks that run behind: SPIRE by ten seconds, others by minutes or hours. Counted from
//! there even a brand-new certificate can seem to be at the end of its life. So the life of a renewal, which was made a
//! moment ago, counts from when it was first seen here. Of the first certificate of an identity nobody knows how old it is:
//! it counts from `notBefore`, unless that lies back no further than [`BACKDATED`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::identity::{Certificate, SpiffeId, Svid, Validity};

/// How far issuers usually set `notBefore` back, at most.
pub(in crate::source) const BACKDATED: Duration = Duration::from_secs(120);

/// When the certificates that one source offers were first seen. As many as its last message had.
#[derive(Clone, Debug, Default)]
pub(in crate::source) struct Sightings(Vec<Sighting>);

#[derive(Clone, Debug)]
struct Sighting {
    id: SpiffeId,
    leaf: Certificate,
    validity: Validity,
    since: SystemTime,
}

impl Sightings {
    /// The source offers these now.
    pub(in crate::source) fn note(&mut self, svids: &[Arc<Svid>], now: SystemTime) {
        let before = std::mem::take(&mut self.0);
        self.0 = svids.iter().map(|svid| Sighting::of(svid, &before, now)).collect();
    }

    /// From when the life of this one counts.
    pub(in crate::source) fn since(&self, svid: &Svid) -> SystemTime {
        let known = self.0.iter().find(|seen| seen.leaf == *svid.chain.leaf());
        known.map_or(svid.validity.not_before, |seen| seen.since)
    }

    /// When this share of the life of `svid` is over.
    pub(in crate::source) fn spent_at(&self, svid: &Svid, share: f64) -> SystemTime {
        let since = self.since(svid);
        let life = svid.validity.not_after.duration_since(since).unwrap_or_default();
        since.checked_add(life.mul_f64(share)).unwrap_or(svid.validity.not_after)
    }
}

impl Sighting {
    fn of(svid: &Svid, before: &[Self], now: SystemTime) -> Self {
        let (leaf, not_before) = (svid.chain.leaf(), svid.validity.not_before);
        if let Some(known) = before.iter().find(|seen| seen.leaf == *leaf) {
            return known.clone();
        }
        // An older one again is no renewal: an agent that was suspended repeats what it had.
        let newer = |old: &Validity| old.not_before < not_before || old.not_after < svid.validity.not_after;
        let renews = before.iter().any(|seen| seen.id == svid.id && newer(&seen.validity));
        let spent = now.duration_since(not_before).unwrap_or_default();
        let since = if renews || spent <= BACKDATED { now.max(not_before) } else { not_before };
        Self { id: svid.id.clone(), leaf: leaf.clone(), validity: svid.validity, since }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::identity::{CertificateChain, PrivateKey};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn svid(leaf: &str, life: (u64, u64)) -> Arc<Svid> {
        Arc::new(Svid {
            id: SpiffeId::new("spiffe://example.org/web").unwrap(),
            chain: CertificateChain::new(Certificate::from_der(leaf.as_bytes()), vec![]),
            key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![])),
            hint: None,
            validity: Validity { not_before: at(life.0), not_after: at(life.1) },
        })
    }

    #[test]
    fn a_renewal_counts_from_its_arrival_and_an_old_one_does_not() {
        let (first, renewal) = (svid("a", (0, 10_000)), svid("b", (5_000, 15_000)));
        let mut seen = Sightings::default();
        seen.note(std::slice::from_ref(&first), at(9_000));
        assert_eq!(seen.spent_at(&first, 0.75), at(7_500), "nobody knows how old it was");
        seen.note(std::slice::from_ref(&renewal), at(11_000));
        assert_eq!(seen.since(&renewal), at(11_000), "however far back its life began");
        seen.note(std::slice::from_ref(&renewal), at(12_000));
        assert_eq!(seen.since(&renewal), at(11_000), "a repetition is no news");
        seen.note(std::slice::from_ref(&first), at(13_000));
        assert_eq!(seen.since(&first), at(0), "and what was replaced is not new when it comes back");
    }

    #[test]
    fn what_issuers_usually_set_back_does_not_count() {
        let mut seen = Sightings::default();
        let fresh = svid("a", (990, 1_002));
        seen.note(std::slice::from_ref(&fresh), at(1_000));
        assert_eq!(seen.since(&fresh), at(1_000));
        let ahead = svid("b", (1_030, 2_000));
        seen.note(std::slice::from_ref(&ahead), at(1_010));
        assert_eq!(seen.since(&ahead), at(1_030), "a life never begins before its beginning");
    }
}
