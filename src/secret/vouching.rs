//! Whether our own trust holds now, and until when: authorities and revocation lists have lives of their own, and Envoy
//! refuses every peer where one is over.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList, time::ASN1Time,
};

use super::CrlPolicy;
use crate::identity::{Certificate, IdentitySnapshot, SpiffeId, Svid, TrustDomain, Validity};

/// How our own trust stands at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouching {
    /// What is wrong, in a stable order.
    pub faults: Vec<TrustFault>,
    /// Whether nothing that we have verifies any more.
    pub broken: bool,
    /// When that may change though nobody sends anything.
    pub next: Option<SystemTime>,
}

/// Something that makes peers refuse us, or that will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustFault {
    /// None of the authorities of our own trust domain is valid: whatever they signed is refused.
    NoAuthority {
        /// Our own trust domain.
        trust_domain: TrustDomain,
        /// The life of the last to end.
        life: Validity,
        /// Whether that has not begun, rather than ended.
        future: bool,
    },
    /// Who vouches for this identity is not valid, though the certificate itself is.
    Unvouched {
        /// Whose.
        id: SpiffeId,
    },
    /// Who vouches for this identity ends before its certificate does.
    EndsFirst {
        /// Whose.
        id: SpiffeId,
        /// The end of the authority or intermediate.
        end: SystemTime,
    },
    /// The next revocation list is overdue.
    CrlExpired {
        /// Who issues it.
        issuer: Arc<str>,
        /// When the next was promised.
        since: SystemTime,
    },
}

impl fmt::Display for TrustFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthority { trust_domain, life, future: true } => {
                let from = shown(life.not_before);
                write!(f, "no authority of {trust_domain} is valid before {from}; check the clocks of both machines")
            }
            Self::NoAuthority { trust_domain, life, future: false } => {
                let end = shown(life.not_after);
                write!(f, "every authority of {trust_domain} has expired, the last one {end}; roll its CA over")
            }
            Self::Unvouched { id } => {
                write!(f, "the authority that vouches for {id} is not valid; the issuer must sign with one that is")
            }
            Self::EndsFirst { id, end } => {
                let end = shown(*end);
                write!(f, "who vouches for {id} ends {end}, before its certificate does; roll the CA over")
            }
            Self::CrlExpired { issuer, since } => {
                let since = shown(*since);
                write!(
                    f,
                    "the revocation list of {issuer} is overdue since {since}, and peers under it are refused; let the issuer send a new one"
                )
            }
        }
    }
}

/// How the own trust of `snapshot` stands at `now`. What cannot be parsed is passed over: the decoder says that.
#[must_use]
pub fn vouching(snapshot: &IdentitySnapshot, crls: CrlPolicy, now: SystemTime) -> Vouching {
    let mut found = Vouching::default();
    let authorities = snapshot.own_bundle().map_or(&[][..], |bundle| bundle.authorities());
    let authorities: Vec<_> = authorities.iter().filter_map(parsed).collect();
    let lives: Vec<_> = authorities.iter().map(life).collect();
    found.consider(lives.iter().flat_map(|life| [life.not_before, after(life.not_after)]), now);
    let valid = |life: &Validity| !life.is_expired(now) && !life.is_future(now);
    match (lives.iter().any(valid), lives.iter().max_by_key(|life| life.not_after), &snapshot.trust_domain) {
        (false, Some(life), Some(trust_domain)) => found.faults.push(TrustFault::NoAuthority {
            trust_domain: trust_domain.clone(),
            life: *life,
            future: life.is_future(now),
        }),
        _ => {
            let own = |svid: &&Arc<Svid>| Some(svid.id.trust_domain()) == snapshot.trust_domain.as_ref();
            for svid in snapshot.svids.iter().filter(own).filter(|svid| !svid.validity.is_expired(now)) {
                found.judge(svid, &authorities, now);
            }
        }
    }
    let vouched = |svid: &Arc<Svid>| !found.faults.iter().any(|fault| fault.concerns(&svid.id));
    let mut alive = snapshot.svids.iter().filter(|svid| !svid.validity.is_expired(now)).peekable();
    found.broken = match found.faults.first() {
        Some(TrustFault::NoAuthority { .. }) => true,
        _ => alive.peek().is_some() && !alive.any(vouched),
    };
    if crls != CrlPolicy::Never {
        found.lists(snapshot, now);
    }
    found
}

impl TrustFault {
    /// Whether peers refuse the present certificate of this identity for it.
    fn concerns(&self, other: &SpiffeId) -> bool {
        matches!(self, Self::Unvouched { id } if id == other)
    }
}

impl Vouching {
    /// Who vouches for this one: its intermediates and the authorities that signed the last of them.
    fn judge(&mut self, svid: &Svid, authorities: &[X509Certificate<'_>], now: SystemTime) {
        let chain: Vec<_> = svid.chain.iter().filter_map(parsed).collect();
        let Some(last) = chain.last() else { return };
        let signed = |authority: &&X509Certificate<'_>| {
            authority.subject().as_raw() == last.issuer().as_raw()
                && last.verify_signature(Some(authority.public_key())).is_ok()
        };
        let anchors: Vec<_> = authorities.iter().filter(signed).map(life).collect();
        if anchors.is_empty() {
            return;
        }
        let between: Vec<_> = chain.iter().skip(1).map(life).collect();
        self.consider(between.iter().flat_map(|life| [life.not_before, after(life.not_after)]), now);
        let valid = |life: &Validity| !life.is_expired(now) && !life.is_future(now);
        let id = || svid.id.clone();
        let Some(anchor) = anchors.iter().filter(|life| valid(life)).map(|life| life.not_after).max() else {
            return self.faults.push(TrustFault::Unvouched { id: id() });
        };
        if !between.iter().all(valid) {
            return self.faults.push(TrustFault::Unvouched { id: id() });
        }
        let end = between.iter().map(|life| life.not_after).chain([anchor]).min().unwrap_or(anchor);
        if end < svid.validity.not_after {
            self.faults.push(TrustFault::EndsFirst { id: id(), end });
        }
    }

    fn lists(&mut self, snapshot: &IdentitySnapshot, now: SystemTime) {
        for der in &snapshot.crls {
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            let Some(since) = list.next_update().map(moment) else { continue };
            self.consider([after(since)], now);
            if now > since {
                let issuer = list.issuer().to_string().into();
                self.faults.push(TrustFault::CrlExpired { issuer, since });
            }
        }
    }

    fn consider(&mut self, moments: impl IntoIterator<Item = SystemTime>, now: SystemTime) {
        let next = moments.into_iter().filter(|at| *at > now).chain(self.next).min();
        self.next = next;
    }
}

fn parsed(certificate: &Certificate) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(certificate.der()).ok().map(|(_, certificate)| certificate)
}

fn life(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity { not_before: moment(validity.not_before), not_after: moment(validity.not_after) }
}

fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
}

/// The first moment that is past the end: ends are included.
fn after(end: SystemTime) -> SystemTime {
    end.checked_add(Duration::from_millis(1)).unwrap_or(end)
}

fn shown(time: SystemTime) -> impl fmt::Display {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(253_402_300_799);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
