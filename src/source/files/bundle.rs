//! Files of authorities: PEM, or the SPIFFE trust bundle format.

use std::path::Path;

use base64ct::{Base64, Base64Unpadded, Encoding as _};
use serde_json::{Map, Value};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{FilesError, pem};
use crate::{
    identity::{Refusal, RefusedItem, TrustDomain},
    telemetry::logs::chain,
};

/// What a bundle file holds.
#[derive(Debug, Default)]
pub(in crate::source) struct Authorities {
    /// Concatenated DER.
    pub(in crate::source) der: Vec<u8>,
    /// What is left out: which entry, from 0, and why.
    pub(in crate::source) bad: Vec<(usize, FilesError)>,
}

impl Authorities {
    fn of(entries: impl Iterator<Item = Result<Vec<u8>, (usize, FilesError)>>) -> Result<Self, FilesError> {
        let (mut all, mut good) = (Self::default(), 0);
        for entry in entries {
            match entry {
                Ok(der) => {
                    good += 1;
                    all.der.extend(der);
                }
                Err(bad) => all.bad.push(bad),
            }
        }
        // Nothing else is there: the file is bad, rather than empty.
        if good == 0 && !all.bad.is_empty() { Err(all.bad.swap_remove(0).1) } else { Ok(all) }
    }

    /// What to tell of what is left out.
    pub(super) fn refusals(&self, trust_domain: &TrustDomain) -> impl Iterator<Item = Refusal> {
        self.bad.iter().map(|(index, error)| {
            let item = RefusedItem::authority(trust_domain.clone(), &format!("number {}", index + 1));
            Refusal::new(item, chain(error))
        })
    }
}

/// The certificates of a bundle file. A broken one costs no other.
///
/// # Errors
/// It is neither of the two formats, or holds nothing that can be read.
pub(in crate::source) fn authorities(path: &Path, text: &[u8]) -> Result<Authorities, FilesError> {
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    if text.trim_ascii_start().starts_with(b"{") {
        return from_json(path, text);
    }
    let blocks = pem::each(path, text)?.into_iter();
    Authorities::of(blocks.map(|block| block.map_err(|(index, fault)| (index, pem::broken(path, index, fault)))))
}

/// Only X.509 keys are looked at (SPIFFE Trust Domain and Bundle, section 4; X.509-SVID, section 6.2): what has another
/// `use` or none, no known `kty`, or no certificate at all must be ignored, and so must all but the first certificate of a
/// key.
fn from_json(path: &Path, text: &[u8]) -> Result<Authorities, FilesError> {
    let no_json = |source| FilesError::Json { path: path.to_owned(), source };
    let mut set: Map<String, Value> = serde_json::from_slice(text).map_err(no_json)?;
    let keys: Vec<Value> = serde_json::from_value(set.remove("keys").unwrap_or_default()).map_err(no_json)?;
    let firsts = keys.iter().enumerate().filter_map(|(index, key)| {
        let text = |member: &str| key.get(member).and_then(Value::as_str);
        let ours = text("use") == Some("x509-svid") && matches!(text("kty"), Some("EC" | "RSA" | "OKP"));
        let first = key.get("x5c").and_then(Value::as_array).and_then(|chain| chain.first());
        Some((index, first.filter(|_| ours)?))
    });
    Authorities::of(firsts.map(|(index, first)| {
        let der = first.as_str().and_then(certificate);
        der.ok_or_else(|| (index, FilesError::JsonKey { path: path.to_owned(), index }))
    }))
}

/// One certificate, in base64 that may be broken into lines.
fn certificate(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    let der = Base64::decode_vec(&text).or_else(|_| Base64Unpadded::decode_vec(&text)).ok()?;
    let whole = matches!(X509Certificate::from_der(&der), Ok(([], _)));
    whole.then_some(der)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pair() -> (Vec<u8>, String) {
        let der = rcgen::generate_simple_self_signed([]).unwrap().cert.der().to_vec();
        let text = Base64::encode_string(&der);
        (der, text)
    }

    fn key(members: Value) -> Value {
        let mut key = json!({"kty": "EC", "use": "x509-svid"});
        key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        key
    }

    fn read(text: &[u8]) -> Result<(Vec<u8>, Vec<usize>), FilesError> {
        let found = authorities(Path::new("bundle.json"), text)?;
        Ok((found.der, found.bad.into_iter().map(|(index, _)| index).collect()))
    }

    /// Each beside one good key, which has to be found whatever is beside it.
    #[test]
    fn a_key_that_is_none_of_ours_is_ignored_and_a_bad_one_alone_is_left_out() {
        let ((good, good_text), (_, other)) = (pair(), pair());
        let broken = "AAAA";
        for (odd, left_out) in [
            (key(json!({})), false),
            (key(json!({"x5c": []})), false),
            (key(json!({"x5c": null})), false),
            (key(json!({"x5c": other})), false),
            (key(json!({"x5c": [other], "use": "X509-SVID"})), false),
            (key(json!({"x5c": [other], "use": null})), false),
            (key(json!({"x5c": [other], "use": 7})), false),
            (key(json!({"x5c": [other], "use": "sig"})), false),
            (json!({"kty": "EC", "x5c": [other]}), false),
            (key(json!({"x5c": [other], "kty": "oct"})), false),
            (json!({"use": "x509-svid", "x5c": [other]}), false),
            (json!(null), false),
            (json!("text"), false),
            (json!([1]), false),
            (key(json!({"use": "jwt-svid", "kid": 5})), false),
            (key(json!({"x5c": [7]})), true),
            (key(json!({"x5c": ["?"]})), true),
            (key(json!({"x5c": [broken]})), true),
            (key(json!({"x5c": [format!("{}{}", &other[..other.len() - 4], "AAAAAAAA")]})), true),
        ] {
            let bundle = json!({"keys": [odd, key(json!({"x5c": [good_text]}))]});
            let found = read(bundle.to_string().as_bytes()).unwrap_or_else(|error| panic!("{odd}: {error}"));
            assert_eq!(found, (good.clone(), [0][..usize::from(left_out)].to_vec()), "{odd}");
        }
    }

    #[test]
    fn of_several_certificates_the_first_counts() {
        let ((good, good_text), (_, other)) = (pair(), pair());
        let bundle = json!({"keys": [key(json!({"x5c": [good_text, other, "?"]}))]});
        assert_eq!(read(bundle.to_string().as_bytes()).unwrap().0, good);
    }

    #[test]
    fn members_that_are_not_ours_may_be_anything() {
        let (good, text) = pair();
        let lines = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n");
        for x5c in [text.clone(), lines, text.trim_end_matches('=').to_owned()] {
            let key = key(json!({"x5c": [x5c], "kid": 7, "x": null, "alg": [], "custom": {"a": 1}}));
            let odd = [json!(-1), json!("7"), json!(1.5), json!(null), json!(u64::MAX), json!([])];
            for odd in odd {
                let bundle = json!({"spiffe_sequence": odd, "spiffe_refresh_hint": odd, "more": odd, "keys": [key]});
                assert_eq!(read(bundle.to_string().as_bytes()).unwrap().0, good, "{odd}");
            }
        }
        let twice = format!(r#"{{"keys": [], "keys": [{}]}}"#, key(json!({"x5c": [text]})));
        for before in ["", "\u{feff}", "\n\t ", "\u{feff}\n"] {
            let text = format!("{before}{twice}\n");
            assert_eq!(read(text.as_bytes()).unwrap().0, good, "{before:?}");
        }
    }

    #[test]
    fn without_keys_it_is_no_bundle_and_without_any_of_ours_nobody_is_trusted() {
        for text in ["{}", r#"{"keys": null}"#, r#"{"keys": {}}"#, r#"{"keys": 1}"#, "{", r#"{"keys": []} x"#] {
            assert!(matches!(read(text.as_bytes()), Err(FilesError::Json { .. })), "{text}");
        }
        assert!(read(br#"{"keys": []}"#).unwrap().0.is_empty());
        let only_broken = json!({"keys": [null, key(json!({"x5c": ["?"]}))]}).to_string();
        assert!(matches!(read(only_broken.as_bytes()), Err(FilesError::JsonKey { index: 1, .. })));
    }

    #[test]
    fn a_broken_certificate_costs_no_other() {
        let good = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
        let bad = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        let both = format!("{good}{bad}{good}");
        assert_eq!(read(both.as_bytes()).unwrap(), (b"AAAAAA".to_vec(), vec![1]));
        assert!(matches!(read(bad.as_bytes()), Err(FilesError::Pem { index: 0, .. })));
        assert!(matches!(read(b"nothing"), Err(FilesError::Nothing { .. })));
    }
}
