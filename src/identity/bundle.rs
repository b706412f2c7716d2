//! A trust bundle: the X.509 authorities of one trust domain.

use std::time::SystemTime;

use spiffe::TrustDomain;

use super::{Certificate, Validity};

/// The X.509 authorities that vouch for one trust domain, and for no other.
///
/// Bundles of several trust domains are never pooled: a pooled list lets each domain's authority sign for all
/// the others (SPIFFE Federation, section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<Certificate>,
}

impl TrustBundle {
    /// A bundle holding each authority once, in a canonical (sorted) order, so that equal trust has equal bytes
    /// on every replica whatever order the source used.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, mut authorities: Vec<Certificate>) -> Self {
        authorities.sort_unstable();
        authorities.dedup();
        Self { trust_domain, authorities }
    }

    /// The trust domain that these authorities vouch for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities, sorted by their DER bytes. May be empty: then every SVID of the domain is untrusted.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// The authorities whose life includes `now`. Without one nobody of the trust domain can be verified.
    pub fn valid_at(&self, now: SystemTime) -> impl Iterator<Item = &Certificate> {
        let valid = move |life: Validity| !life.is_expired(now) && !life.is_future(now);
        self.authorities.iter().filter(move |authority| authority.validity().is_some_and(valid))
    }

    /// The end of the last of those that are valid at `now`, if any is.
    #[must_use]
    pub fn valid_until(&self, now: SystemTime) -> Option<SystemTime> {
        self.valid_at(now).filter_map(Certificate::validity).map(|life| life.not_after).max()
    }

    /// Everything that `self` or `other` trusts; both must be of one trust domain, else `self` is returned as it is.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.trust_domain != other.trust_domain {
            return self.clone();
        }
        let authorities = self.authorities.iter().chain(&other.authorities).cloned().collect();
        Self::new(self.trust_domain.clone(), authorities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(authorities: &[&[u8]]) -> TrustBundle {
        let td = TrustDomain::new("example.org").unwrap();
        TrustBundle::new(td, authorities.iter().map(|der| Certificate::from_der(der)).collect())
    }

    #[test]
    fn order_and_duplicates_do_not_matter() {
        assert_eq!(bundle(&[b"b", b"a", b"b"]), bundle(&[b"a", b"b"]));
    }

    #[test]
    fn union_trusts_both_and_never_crosses_domains() {
        assert_eq!(bundle(&[b"a"]).union(&bundle(&[b"b"])), bundle(&[b"a", b"b"]));
        let foreign = TrustBundle::new(TrustDomain::new("other.org").unwrap(), vec![Certificate::from_der(b"x")]);
        assert_eq!(bundle(&[b"a"]).union(&foreign), bundle(&[b"a"]));
    }
}
