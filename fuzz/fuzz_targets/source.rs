//! Messages of sources: anything at all, and a good message with some of its bytes changed. What is accepted holds
//! together.
#![no_main]

use std::{sync::LazyLock, time::SystemTime};

use libfuzzer_sys::fuzz_target;
use prost::Message;
use spiffe_sds::{
    dev::{self, DevIssuer, Rotation},
    identity::{IdentitySnapshot, SpiffeId, TrustDomain},
    source::{
        Endpoint,
        decode::{self, Limits},
    },
};

/// A message of the development issuer, whose keys are made anew in each run.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = Endpoint::Unix(directory.path().join("api.sock"));
    let mut config = dev::Config::new(TrustDomain::new("example.org").unwrap(), socket);
    config.rotation = Rotation::Never;
    config.federated = vec![TrustDomain::new("partner.test").unwrap()];
    let config = config.identity(SpiffeId::new("spiffe://example.org/web").unwrap(), Some("internal"));
    let issuer = runtime.block_on(DevIssuer::start(config)).unwrap();
    issuer.message().response().encode_to_vec()
});

fn check(snapshot: &IdentitySnapshot) {
    let domains: Vec<_> = snapshot.svids.iter().map(|svid| svid.id.trust_domain()).collect();
    assert!(domains.iter().all(|domain| snapshot.bundles.contains_key(*domain)), "nobody vouches for an identity");
    for svid in &snapshot.svids {
        assert!(!svid.chain.leaf().der().is_empty() && !svid.key.pkcs8_der().is_empty());
        assert!(!svid.id.path().is_empty(), "a trust domain is no identity");
    }
    for (domain, bundle) in &snapshot.bundles {
        assert_eq!(domain, bundle.trust_domain());
    }
}

fuzz_target!(|data: &[u8]| {
    let (limits, now) = (Limits::default(), SystemTime::now());
    let Some((kind, data)) = data.split_first() else { return };
    let message = if kind & 1 == 0 {
        data.to_vec()
    } else {
        let mut message = GOOD.clone();
        for patch in data.chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([patch[0], patch[1]])) % message.len();
            match kind & 6 {
                0 => message[at] ^= patch[2],
                2 => message[at] = patch[2],
                4 => message.truncate(at.max(1)),
                _ => message.insert(at, patch[2]),
            }
        }
        message
    };
    if let Ok(snapshot) = decode::svids(&message, &limits, now) {
        assert!(!snapshot.svids.is_empty());
        check(&snapshot);
    }
    if let Ok(snapshot) = decode::bundles(&message, None, &limits) {
        assert!(snapshot.svids.is_empty() && !snapshot.bundles.is_empty());
        check(&snapshot);
    }
});
