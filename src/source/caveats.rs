//! What is right by the standards and is served, and does not work with Envoy as it is usually configured. Pure.
//!
//! Envoy acknowledges all of this, and its handshakes fail.

use std::{collections::BTreeSet, time::SystemTime};

use crate::identity::{IdentitySnapshot, KeyKind, crl_next_update};

/// One such thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caveat {
    /// What it is about, in words.
    pub item: String,
    /// Why it does not work, and the way out.
    pub text: &'static str,
}

const NOT_SELF_SIGNED: &str = "is not self-signed: Envoy's SPIFFE validator refuses every peer that only it vouches for; let the \
                               bundle hold the root, or use the plain flavour (flavour: plain)";
const P521: &str = "is a P-521 key: Envoys offer no signature algorithm for it by default, so handshakes between them fail; use \
                    P-256, or set signature_algorithms (bootstrap --signature-algorithms)";
const ED25519: &str = "is an Ed25519 key: Envoys offer no signature algorithm for it by default, so handshakes between them \
                       fail; use P-256, or set signature_algorithms (bootstrap --signature-algorithms)";

/// Everything of the kind in a state, each once.
#[must_use]
pub fn of(snapshot: &IdentitySnapshot) -> BTreeSet<Caveat> {
    let authorities = snapshot.bundles.values().flat_map(|bundle| {
        let facts = bundle.authorities().iter().filter_map(|authority| authority.facts());
        facts.filter(|facts| !facts.self_issued).map(|facts| Caveat {
            item: format!("the authority {} (serial {}) of {}", facts.subject, facts.serial, bundle.trust_domain()),
            text: NOT_SELF_SIGNED,
        })
    });
    let keys = snapshot.svids.iter().filter_map(|svid| {
        let text = match svid.chain.leaf().facts()?.key {
            KeyKind::P521 => P521,
            KeyKind::Ed25519 => ED25519,
            KeyKind::Other => return None,
        };
        Some(Caveat { item: format!("the key of {}", svid.id), text })
    });
    authorities.chain(keys).collect()
}

/// Revocation lists that should have been replaced by `now`, counted from 1. Envoy refuses everybody that they are about.
#[must_use]
pub fn overdue_crls(snapshot: &IdentitySnapshot, now: SystemTime) -> Vec<usize> {
    let overdue = |crl: &[u8]| crl_next_update(crl).is_some_and(|next| next < now);
    let numbered = snapshot.crls.iter().enumerate();
    numbered.filter(|(_, crl)| overdue(crl)).map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::KeyPair;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        identity::{Certificate, CertificateChain, PrivateKey, SpiffeId, Svid, TrustBundle, TrustDomain, Validity},
        source::decode::fixture::{Authority, HOUR, now},
    };

    fn state(authority: &[u8], leaf: &[u8]) -> IdentitySnapshot {
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let svid = Svid {
            id: SpiffeId::new("spiffe://example.org/web").unwrap(),
            chain: CertificateChain::new(Certificate::from_der(leaf), Vec::new()),
            key: PrivateKey::from_pkcs8_der(Zeroizing::new(vec![1])),
            hint: None,
            validity: Validity { not_before: now(), not_after: now() + HOUR },
        };
        let bundle = TrustBundle::new(trust_domain.clone(), vec![Certificate::from_der(authority)]);
        let bundles = [(trust_domain, Arc::new(bundle))].into();
        IdentitySnapshot { svids: vec![Arc::new(svid)], bundles, ..IdentitySnapshot::default() }
    }

    #[test]
    fn what_envoy_acknowledges_and_cannot_use_is_found() {
        let root = Authority::root("root");
        let leaf = |algorithm| root.svid_with_key(&KeyPair::generate_for(algorithm).unwrap(), |_| {}).x509_svid;
        let words = |authority: &[u8], leaf: &[u8]| -> Vec<_> {
            of(&state(authority, leaf)).into_iter().map(|caveat| format!("{} {}", caveat.item, caveat.text)).collect()
        };
        for fine in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256] {
            assert_eq!(words(&root.der, &leaf(fine)), Vec::<String>::new(), "{fine:?}");
        }
        for (algorithm, kind) in [(&rcgen::PKCS_ECDSA_P521_SHA512, "P-521"), (&rcgen::PKCS_ED25519, "Ed25519")] {
            let said = words(&root.der, &leaf(algorithm));
            assert!(said.len() == 1 && said[0].contains(kind) && said[0].contains("/web"), "{said:?}");
        }
        let said = words(&root.intermediate("sub").der, &leaf(&rcgen::PKCS_ECDSA_P256_SHA256));
        assert!(said.len() == 1 && said[0].contains("CN=sub") && said[0].contains("not self-signed"), "{said:?}");
    }
}
