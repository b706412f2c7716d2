//! The secrets held, and how much of their lives is left.
//!
//! Labelled by our own SPIFFE IDs and the trust domains that the source gives us: both are the operator's choice.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::watch;

use super::{StillHeld, source::seconds};
use crate::identity::{Availability, IdentitySnapshot, JwtSnapshot, JwtState, TrustBundle, Validity, Withdrawn};

/// Reads the store at each scrape.
pub(super) struct Identities {
    x509: watch::Receiver<Availability>,
    jwt: watch::Receiver<Arc<JwtSnapshot>>,
    withdrawn: StillHeld,
    /// The bundles of the last scrape: parsing hundreds of authorities is not for each of them.
    bundles: Mutex<(Option<Arc<IdentitySnapshot>>, Vec<Bundle>)>,
}

#[derive(Clone, Debug)]
struct Bundle {
    trust_domain: String,
    authorities: usize,
    /// The life of the last authority to expire.
    life: Option<Validity>,
}

impl Identities {
    pub(super) fn new(
        x509: watch::Receiver<Availability>,
        jwt: watch::Receiver<Arc<JwtSnapshot>>,
        withdrawn: StillHeld,
    ) -> Self {
        Self { x509, jwt, withdrawn, bundles: Mutex::default() }
    }

    fn bundles(&self, snapshot: &Arc<IdentitySnapshot>) -> Vec<Bundle> {
        let mut known = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.0.as_ref().is_some_and(|known| Arc::ptr_eq(known, snapshot)) {
            *known = (Some(snapshot.clone()), snapshot.bundles.values().map(|bundle| Bundle::of(bundle)).collect());
        }
        known.1.clone()
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").finish_non_exhaustive()
    }
}

impl Bundle {
    fn of(bundle: &TrustBundle) -> Self {
        let lives = bundle.authorities().iter().filter_map(crate::identity::Certificate::validity);
        let trust_domain = bundle.trust_domain().to_string();
        let life = lives.max_by_key(|life| life.not_after);
        Self { trust_domain, authorities: bundle.authorities().len(), life }
    }
}

/// SPIFFE ID and kind to the life of it. Of several with one ID the first to end counts.
type Lives = BTreeMap<(String, &'static str), Validity>;

fn keep_first_to_end(lives: &mut Lives, id: String, kind: &'static str, validity: Validity) {
    let life = lives.entry((id, kind)).or_insert(validity);
    if validity.not_after < life.not_after {
        *life = validity;
    }
}

fn lives(snapshot: Option<&Arc<IdentitySnapshot>>, tokens: &JwtSnapshot) -> Lives {
    let mut lives = Lives::new();
    for svid in snapshot.iter().flat_map(|snapshot| &snapshot.svids) {
        keep_first_to_end(&mut lives, svid.id.to_string(), "x509", svid.validity);
    }
    for state in tokens.svids.values() {
        if let JwtState::Valid(token) = state {
            keep_first_to_end(&mut lives, token.id.to_string(), "jwt", token.validity);
        }
    }
    lives
}

/// By SPIFFE ID: two may have gone with one ID and different hints.
fn clients(withdrawn: &[(Withdrawn, usize)]) -> BTreeMap<String, usize> {
    let mut clients = BTreeMap::new();
    for (it, count) in withdrawn {
        *clients.entry(it.id.to_string()).or_default() += count;
    }
    clients
}

/// What is left of a life, as a part of it: 1 when new, 0 when over.
fn ratio_left(life: Validity, now: SystemTime) -> f64 {
    let whole = life.not_after.duration_since(life.not_before).unwrap_or_default().as_secs_f64();
    if whole > 0.0 { (life.remaining(now).as_secs_f64() / whole).min(1.0) } else { 0.0 }
}

impl Collector for Identities {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.x509.borrow().clone();
        let snapshot = match &state {
            Availability::Ready(snapshot) => Some(snapshot),
            Availability::Pending | Availability::Denied(_) => None,
        };
        let help = "Whether the source has answered and grants an identity or bundles (1), or not (0)";
        let metric = encoder.encode_descriptor("identity_held", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(snapshot.is_some())).encode(metric)?;

        let withdrawn = (self.withdrawn)();
        let mut lives = lives(snapshot, &self.jwt.borrow());
        for (it, _) in &withdrawn {
            // An alert on the end of a life must not fall silent while the certificate is used.
            lives.entry((it.id.to_string(), "x509")).or_insert(it.validity);
        }
        let now = SystemTime::now();
        let help = "The end of an SVID's life";
        let mut family =
            encoder.encode_descriptor("svid_not_after_timestamp_seconds", help, None, MetricType::Gauge)?;
        for ((id, kind), life) in &lives {
            let labels = [("spiffe_id", id.as_str()), ("kind", *kind)];
            ConstGauge::new(seconds(life.not_after)).encode(family.encode_family(&labels)?)?;
        }
        let help = "What is left of an SVID's life: 1 when new, 0 when over";
        let mut family = encoder.encode_descriptor("svid_remaining_life_ratio", help, None, MetricType::Gauge)?;
        for ((id, kind), life) in &lives {
            let labels = [("spiffe_id", id.as_str()), ("kind", *kind)];
            ConstGauge::new(ratio_left(*life, now)).encode(family.encode_family(&labels)?)?;
        }

        let help = "Clients that have the certificate of an identity that the source lists no longer";
        let mut family = encoder.encode_descriptor("svid_withdrawn_clients", help, None, MetricType::Gauge)?;
        for (id, clients) in clients(&withdrawn) {
            let labels = [("spiffe_id", id.as_str())];
            ConstGauge::new(i64::try_from(clients).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }

        let bundles = snapshot.map(|snapshot| self.bundles(snapshot)).unwrap_or_default();
        let help = "X.509 authorities of a trust domain";
        let mut family = encoder.encode_descriptor("trust_bundle_authorities", help, None, MetricType::Gauge)?;
        for bundle in &bundles {
            let labels = [("trust_domain", bundle.trust_domain.as_str())];
            ConstGauge::new(bundle.authorities as i64).encode(family.encode_family(&labels)?)?;
        }
        let help = "The end of the last authority of a trust domain";
        let name = "trust_bundle_not_after_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for bundle in &bundles {
            let Some(life) = bundle.life else { continue };
            let labels = [("trust_domain", bundle.trust_domain.as_str())];
            ConstGauge::new(seconds(life.not_after)).encode(family.encode_family(&labels)?)?;
        }
        let help = "What is left of the life of a trust domain's last authority: 1 when new, 0 when over";
        let mut family =
            encoder.encode_descriptor("trust_bundle_remaining_life_ratio", help, None, MetricType::Gauge)?;
        for bundle in &bundles {
            let Some(life) = bundle.life else { continue };
            let labels = [("trust_domain", bundle.trust_domain.as_str())];
            ConstGauge::new(ratio_left(life, now)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn life(start: u64, end: u64) -> Validity {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Validity { not_before: at(start), not_after: at(end) }
    }

    #[test]
    fn the_ratio_stays_within_its_bounds() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!((ratio_left(life(100, 200), at(175)) - 0.25).abs() < 1e-9);
        for (life, now, expected) in [
            (life(100, 200), 50, 1.0),
            (life(100, 200), 300, 0.0),
            (life(100, 100), 100, 0.0),
            (life(200, 100), 0, 0.0),
        ] {
            assert!((ratio_left(life, at(now)) - expected).abs() < 1e-9, "{life:?} at {now}");
        }
    }

    #[test]
    fn of_several_with_one_id_the_first_to_end_counts() {
        let mut lives = Lives::new();
        for end in [300, 200, 250] {
            keep_first_to_end(&mut lives, "spiffe://example.org/w".to_owned(), "x509", life(100, end));
        }
        assert_eq!(lives.into_values().collect::<Vec<_>>(), [life(100, 200)]);
    }
}
