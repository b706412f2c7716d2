//! Snapshots for tests: certificates are short labels instead of DER.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use zeroize::Zeroizing;

use crate::identity::{
    Certificate, CertificateChain, IdentitySnapshot, PrivateKey, SpiffeId, Svid, TrustBundle, TrustDomain, Validity,
};

/// The end of every fixture SVID's life; it begins at the epoch.
pub(crate) const NOT_AFTER: Duration = Duration::from_secs(3600);

/// SVIDs as (SPIFFE ID, leaf label), bundles as (trust domain, authority labels). The first SVID's domain is the own one.
pub(crate) fn snapshot(svids: &[(&str, &str)], bundles: &[(&str, &[&str])]) -> IdentitySnapshot {
    let svids: Vec<_> = svids.iter().map(|(id, leaf)| Arc::new(svid(id, leaf))).collect();
    let bundles = bundles.iter().map(|(td, authorities)| {
        let td = TrustDomain::new(td).unwrap();
        let authorities = authorities.iter().map(|label| Certificate::from_der(label.as_bytes())).collect();
        (td.clone(), Arc::new(TrustBundle::new(td, authorities)))
    });
    let trust_domain = svids.first().map(|svid| svid.id.trust_domain().clone());
    IdentitySnapshot { trust_domain, bundles: bundles.collect(), svids, crls: Vec::new(), refusals: Vec::new() }
}

fn svid(id: &str, leaf: &str) -> Svid {
    Svid {
        id: SpiffeId::new(id).unwrap(),
        chain: CertificateChain::new(Certificate::from_der(leaf.as_bytes()), vec![]),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(format!("key of {leaf}").into_bytes())),
        hint: None,
        validity: Validity { not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH + NOT_AFTER },
    }
}

/// "leaf,leaf td=authority,authority td=...".
pub(crate) fn shown(snapshot: &IdentitySnapshot) -> String {
    let text = |certificate: &Certificate| String::from_utf8_lossy(certificate.der()).into_owned();
    let leaves: Vec<_> = snapshot.svids.iter().map(|svid| text(svid.chain.leaf())).collect();
    let bundles = snapshot.bundles.values().map(|bundle| {
        let authorities: Vec<_> = bundle.authorities().iter().map(text).collect();
        format!(" {}={}", bundle.trust_domain(), authorities.join(","))
    });
    leaves.join(",") + &bundles.collect::<String>()
}
