//! Which revocation lists go into the context of which trust domain.

use std::{collections::BTreeMap, sync::Arc};

use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList};

use crate::identity::{IdentitySnapshot, TrustDomain};

/// When the revocation lists of a source reach proxies.
///
/// Envoy (BoringSSL) refuses every peer whose issuer has no list as soon as there is any list in a context. So the
/// lists of one authority alone would cut off all peers under another, such as the next root during a roll-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlPolicy {
    /// Where every authority of the trust domain has one.
    #[default]
    Complete,
    /// Wherever there is any: peers whose issuer has none are refused.
    Always,
    /// Nowhere.
    Never,
}

/// The revocation lists of each trust domain, DER, signed by its own authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revocations {
    lists: BTreeMap<TrustDomain, Vec<Arc<[u8]>>>,
    /// Domains some of whose authorities have a list and some have none.
    incomplete: Vec<TrustDomain>,
    /// Whether only the leaf's issuer must have a list.
    leaf_only: bool,
}

impl Revocations {
    /// Sorts the lists of `snapshot` by trust domain. A list counts where an authority of the domain, or an
    /// intermediate in the chain of one of our SVIDs of that domain, has signed it: names alone do not tell domains
    /// apart, and Envoy refuses all peers of an issuer whose list has a wrong signature.
    pub(super) fn of(snapshot: &IdentitySnapshot, policy: CrlPolicy) -> Self {
        let leaf_only = policy == CrlPolicy::Always;
        let mut revocations = Self { leaf_only, ..Self::default() };
        if policy == CrlPolicy::Never || snapshot.crls.is_empty() {
            return revocations;
        }
        let lists =
            snapshot.crls.iter().filter_map(|der| Some((der, CertificateRevocationList::from_der(der).ok()?.1)));
        let lists: Vec<_> = lists.collect();
        for bundle in snapshot.bundles.values() {
            let td = bundle.trust_domain();
            let own = snapshot.svids.iter().filter(|svid| svid.id.trust_domain() == td);
            let intermediates = own.flat_map(|svid| svid.chain.iter().skip(1));
            let signers = bundle.authorities().iter().chain(intermediates);
            let signers = signers.filter_map(|certificate| Some(X509Certificate::from_der(certificate.der()).ok()?.1));
            let mut found = Vec::new();
            let mut complete = true;
            for signer in signers {
                let before = found.len();
                found.extend(
                    lists.iter().filter(|(_, list)| is_signed_by(list, &signer)).map(|(der, _)| Arc::clone(der)),
                );
                complete &= found.len() > before;
            }
            if found.is_empty() {
                continue;
            }
            if !complete {
                revocations.incomplete.push(td.clone());
            }
            if complete || policy == CrlPolicy::Always {
                found.sort_unstable();
                found.dedup();
                revocations.lists.insert(td.clone(), found);
            }
        }
        revocations
    }

    /// The lists for the context of this trust domain, in a canonical order.
    pub(super) fn lists(&self, trust_domain: &TrustDomain) -> &[Arc<[u8]>] {
        self.lists.get(trust_domain).map_or(&[], Vec::as_slice)
    }

    /// Domains some of whose authorities have no list.
    pub(super) fn incomplete(&self) -> &[TrustDomain] {
        &self.incomplete
    }

    /// Whether only the leaf's issuer must have a list.
    pub(super) fn leaf_only(&self) -> bool {
        self.leaf_only
    }
}

fn is_signed_by(list: &CertificateRevocationList<'_>, signer: &X509Certificate<'_>) -> bool {
    list.issuer().as_raw() == signer.subject().as_raw() && list.verify_signature(signer.public_key()).is_ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;
    use crate::identity::{Certificate, TrustBundle};

    struct Ca {
        issuer: Issuer<'static, KeyPair>,
        certificate: Certificate,
    }

    /// All of them have one and the same subject.
    fn ca() -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = Certificate::from_der(params.self_signed(&key).unwrap().der());
        Ca { issuer: Issuer::new(params, key), certificate }
    }

    fn crl(ca: &Ca) -> Arc<[u8]> {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Arc::from(params.signed_by(&ca.issuer).unwrap().der().as_ref())
    }

    fn td(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn snapshot(bundles: &[(&str, &[&Ca])], crls: &[&Arc<[u8]>]) -> IdentitySnapshot {
        let bundles = bundles.iter().map(|(name, authorities)| {
            let authorities = authorities.iter().map(|ca| ca.certificate.clone()).collect();
            (td(name), Arc::new(TrustBundle::new(td(name), authorities)))
        });
        let crls = crls.iter().map(|crl| Arc::clone(crl)).collect();
        IdentitySnapshot { bundles: bundles.collect(), crls, ..IdentitySnapshot::default() }
    }

    #[test]
    fn a_list_belongs_to_the_domain_whose_authority_signed_it() {
        let (own, other, stranger) = (ca(), ca(), ca());
        let (of_own, of_stranger) = (crl(&own), crl(&stranger));
        let state = snapshot(&[("example.org", &[&own]), ("other.org", &[&other])], &[&of_own, &of_stranger, &of_own]);
        let revocations = Revocations::of(&state, CrlPolicy::Complete);
        assert_eq!(revocations.lists(&td("example.org")), [of_own]);
        assert!(revocations.lists(&td("other.org")).is_empty(), "whatever the issuer is called");
        assert!(revocations.incomplete().is_empty() && !revocations.leaf_only());
    }

    #[test]
    fn an_authority_without_a_list_is_the_policys_matter() {
        let (old, new) = (ca(), ca());
        let list = crl(&old);
        let state = snapshot(&[("example.org", &[&old, &new])], &[&list]);
        let of = |policy| Revocations::of(&state, policy);
        assert!(of(CrlPolicy::Complete).lists(&td("example.org")).is_empty());
        assert_eq!(of(CrlPolicy::Complete).incomplete(), [td("example.org")]);
        assert_eq!(of(CrlPolicy::Always).lists(&td("example.org")), [list]);
        assert!(of(CrlPolicy::Always).leaf_only());
        assert_eq!(of(CrlPolicy::Never), Revocations::default());
    }
}
