//! Tokens: nobody has signed these, so that none is accepted where keys are known.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use spiffe_sds::source::{
    decode::jwt::JwtBundles,
    fuzzing::{accepts_token, jwt_keys},
};

/// A key whose private half nobody has kept.
static KEYS: LazyLock<JwtBundles> = LazyLock::new(|| {
    let key = r#"{"keys":[{"kty":"EC","kid":"k","use":"jwt-svid","crv":"P-256",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    jwt_keys(key.as_bytes()).expect("a good key")
});

fuzz_target!(|compact: &str| {
    assert!(!accepts_token(compact, &KEYS), "a forged token");
    let _ = accepts_token(compact, &JwtBundles::new());
});
