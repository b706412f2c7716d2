//! Bundle files, PEM or JSON, and JWK Sets: what is taken over comes out again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_sds::{
    identity::TrustDomain,
    secret::jwks,
    source::fuzzing::{bundle, jwt_keys},
};

fuzz_target!(|data: &[u8]| {
    let _ = bundle(data);
    let Some(keys) = jwt_keys(data) else { return };
    let Some(bundle) = keys.get(&TrustDomain::new("example.org").unwrap()) else { return };
    let document = jwks::jwk_set(bundle);
    let again = jwt_keys(&document).expect("what we say is understood");
    assert_eq!(again, keys, "{}", String::from_utf8_lossy(&document));
});
