//! PEM: what the strict reader of RFC 7468 reads, ours reads alike, with anything around it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pem_rfc7468::LineEnding;
use spiffe_sds::source::fuzzing::{certificates, chain, private_key};

fuzz_target!(|data: &[u8]| {
    let found = certificates(data);
    if let Ok(found) = &found {
        assert!(!found.is_empty());
        let mut ordered = chain(data).expect("the same certificates");
        let mut all = found.clone();
        ordered.sort();
        all.sort();
        assert_eq!(ordered, all, "none is lost or made up");
    }
    if let Ok(("CERTIFICATE", der)) = pem_rfc7468::decode_vec(data) {
        if !der.is_empty() {
            assert_eq!(found.expect("it is PEM"), [der]);
        }
    }
    let _ = private_key(data);
    // Any bytes as a block.
    if !data.is_empty() && data.len() < 4096 {
        let text = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, data).unwrap();
        assert_eq!(certificates(text.as_bytes()).expect("a good block"), [data]);
        let text = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::CRLF, data).unwrap();
        assert_eq!(certificates(text.as_bytes()).expect("a good block"), [data]);
    }
});
