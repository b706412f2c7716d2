//! Identities, tokens and whom to trust.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Life, left, seconds};
use crate::{
    identity::{Availability, Certificate, IdentitySnapshot, JwtSnapshot, JwtState, JwtSubject, Svid, Validity},
    source::decode,
};

/// An X.509-SVID in service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Whose.
    pub spiffe_id: String,
    /// The operator's label.
    pub hint: Option<String>,
    /// The one that is served where no ID is asked for.
    pub default: bool,
    /// Of the leaf, hexadecimal.
    pub serial: String,
    /// The first moment of validity.
    pub not_before: String,
    /// The last moment of validity.
    pub not_after: String,
    /// When a renewal is late: a third of the life is left.
    pub renewal_due: String,
    /// How much of its life is over, 0 to 100.
    pub spent_percent: u8,
    /// What is left of it.
    pub left_seconds: u64,
    /// What that means.
    pub state: Life,
}

/// A token in service; never the token itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Whose: a SPIFFE ID, a hint or `default`.
    pub subject: String,
    /// For whom.
    pub audience: Vec<String>,
    /// `pending`, `valid` or `gone`.
    pub state: String,
    /// When it was issued.
    pub issued: Option<String>,
    /// Its end.
    pub expires: Option<String>,
    /// How much of its life is over, 0 to 100.
    pub spent_percent: u8,
    /// What is left of it.
    pub left_seconds: u64,
}

/// A trust domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trust {
    /// Which.
    pub trust_domain: String,
    /// Whether it is our own.
    pub own: bool,
    /// Who vouches for it; none: all its SVIDs are refused.
    pub authorities: Vec<Authority>,
    /// Keys that verify its tokens.
    pub jwt_keys: usize,
}

/// A root certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Authority {
    /// Its distinguished name.
    pub subject: String,
    /// Hexadecimal.
    pub serial: String,
    /// The first moment of validity.
    pub not_before: String,
    /// The last moment of validity.
    pub not_after: String,
    /// What is left.
    pub left_seconds: u64,
    /// What that means.
    pub state: Life,
}

/// Every SVID in service, the default one first.
#[must_use]
pub fn identities(state: &Availability, now: SystemTime) -> Vec<Identity> {
    let Availability::Ready(snapshot) = state else { return Vec::new() };
    snapshot.svids.iter().enumerate().map(|(at, svid)| Identity::new(svid, at == 0, now)).collect()
}

/// Every trust domain in service.
#[must_use]
pub fn trust(state: &Availability, tokens: &JwtSnapshot, now: SystemTime) -> Vec<Trust> {
    let nothing = IdentitySnapshot::default();
    let snapshot = if let Availability::Ready(snapshot) = state { snapshot } else { &nothing };
    let domains = snapshot.bundles.keys().chain(tokens.bundles.keys());
    let mut domains: Vec<_> = domains.collect();
    domains.sort_unstable();
    domains.dedup();
    domains
        .into_iter()
        .map(|domain| Trust {
            trust_domain: domain.to_string(),
            own: snapshot.trust_domain.as_ref() == Some(domain),
            authorities: snapshot.bundles.get(domain).map_or_else(Vec::new, |bundle| {
                bundle.authorities().iter().filter_map(|authority| Authority::new(authority, now)).collect()
            }),
            jwt_keys: tokens.bundles.get(domain).map_or(0, |bundle| bundle.keys().len()),
        })
        .collect()
}

/// Every token that is configured.
#[must_use]
pub fn tokens(snapshot: &JwtSnapshot, now: SystemTime) -> Vec<Token> {
    let token = |(request, state): (&crate::identity::JwtRequest, &JwtState)| {
        let subject = match &request.subject {
            JwtSubject::Default => "default".to_owned(),
            JwtSubject::Id(id) => id.to_string(),
            JwtSubject::Hint(hint) => hint.as_str().to_owned(),
        };
        let (state, issued, expires) = match state {
            JwtState::Pending => ("pending", None, None),
            JwtState::Valid(svid) => ("valid", Some(svid.validity.not_before), Some(svid.validity.not_after)),
            JwtState::Gone(at) => ("gone", None, Some(*at)),
        };
        let audience = request.audience.iter().cloned().collect();
        let life = issued.zip(expires).map(|(not_before, not_after)| Validity { not_before, not_after });
        Token {
            subject,
            audience,
            state: state.to_owned(),
            issued: issued.map(seconds),
            expires: expires.map(seconds),
            spent_percent: life.map_or(100, |life| spent(life, now)),
            left_seconds: life.map_or(0, |life| life.remaining(now).as_secs()),
        }
    };
    snapshot.svids.iter().map(token).collect()
}

/// How much of a life is over, in percent.
fn spent(Validity { not_before, not_after }: Validity, now: SystemTime) -> u8 {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let spent = now.duration_since(not_before).unwrap_or_default();
    let percent = if life.is_zero() { 100.0 } else { 100.0 * spent.as_secs_f64() / life.as_secs_f64() };
    percent.clamp(0.0, 100.0) as u8
}

impl Token {
    /// What is left, for people.
    #[must_use]
    pub fn left(&self) -> String {
        left(Duration::from_secs(self.left_seconds))
    }
}

impl Identity {
    fn new(svid: &Svid, default: bool, now: SystemTime) -> Self {
        let Validity { not_before, not_after } = svid.validity;
        let life = not_after.duration_since(not_before).unwrap_or_default();
        Self {
            spiffe_id: svid.id.to_string(),
            hint: svid.hint.as_ref().map(|hint| hint.as_str().to_owned()),
            default,
            serial: decode::serial(svid.chain.leaf()),
            not_before: seconds(not_before),
            not_after: seconds(not_after),
            renewal_due: seconds(not_after - life / 3),
            spent_percent: spent(svid.validity, now),
            left_seconds: svid.validity.remaining(now).as_secs(),
            state: Life::of(not_before, not_after, now),
        }
    }

    /// What is left, for people.
    #[must_use]
    pub fn left(&self) -> String {
        left(Duration::from_secs(self.left_seconds))
    }
}

impl Authority {
    fn new(certificate: &Certificate, now: SystemTime) -> Option<Self> {
        // What cannot be parsed does not get through the decoder.
        let facts = certificate.facts()?;
        let Validity { not_before, not_after } = facts.validity;
        Some(Self {
            subject: facts.subject.clone(),
            serial: facts.serial.clone(),
            not_before: seconds(not_before),
            not_after: seconds(not_after),
            left_seconds: not_after.duration_since(now).unwrap_or_default().as_secs(),
            state: Life::of(not_before, not_after, now),
        })
    }

    /// What is left, for people.
    #[must_use]
    pub fn left(&self) -> String {
        left(Duration::from_secs(self.left_seconds))
    }
}
