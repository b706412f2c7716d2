//! Files of authorities: PEM, or the SPIFFE trust bundle format.

use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use serde_json::Value;

use super::{FilesError, pem};
use crate::{
    identity::{Refusal, RefusedItem, TrustDomain},
    telemetry::logs::chain,
};

/// A JWK Set (SPIFFE Trust Domain and Bundle, section 4). Only the X.509 authorities are looked at.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

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

fn from_json(path: &Path, text: &[u8]) -> Result<Authorities, FilesError> {
    let jwks: Jwks =
        serde_json::from_slice(text).map_err(|source| FilesError::Json { path: path.to_owned(), source })?;
    // Keys for other uses, and those without a use, are ignored, as section 4.2 demands; whatever they hold.
    let x509 = |key: &Value| key.get("use").and_then(Value::as_str) == Some("x509-svid");
    let keys = jwks.keys.iter().enumerate().filter(|(_, key)| x509(key));
    Authorities::of(keys.map(|(index, key)| {
        let certificates = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice);
        let one = if let Some([one]) = certificates { one.as_str() } else { None };
        let der = one.and_then(|one| Base64::decode_vec(one).ok());
        der.ok_or_else(|| (index, FilesError::JsonKey { path: path.to_owned(), index }))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<u8>, Vec<usize>), FilesError> {
        authorities(Path::new("b"), text.as_bytes())
            .map(|all| (all.der, all.bad.into_iter().map(|(index, _)| index).collect()))
    }

    fn json(keys: &str) -> Result<(Vec<u8>, Vec<usize>), FilesError> {
        read(&format!("\u{feff} {{\"keys\": [{keys}], \"spiffe_sequence\": 1, \"other\": {{}}}}"))
    }

    #[test]
    fn the_json_is_read_by_the_letter_of_the_standard() {
        let good = r#"{"use": "x509-svid", "kty": "EC", "x5c": ["QUFB"], "x": 1}"#;
        assert_eq!(json(good).unwrap(), (b"AAA".to_vec(), vec![]));
        for ignored in [r#"{"use": null, "x5c": 1}"#, r#"{"use": "jwt-svid"}"#, r#"{"use": 7}"#, "{}", "null", "[]"] {
            assert_eq!(json(&format!("{ignored}, {good}")).unwrap(), (b"AAA".to_vec(), vec![]), "{ignored}");
        }
        for bad in
            [r#""x5c": []"#, r#""x5c": ["QUFB", "QUFB"]"#, r#""x5c": ["?"]"#, r#""x5c": "QUFB""#, r#""kid": "a""#]
        {
            let bad = format!("{{\"use\": \"x509-svid\", {bad}}}");
            assert_eq!(json(&format!("{good}, {bad}, {good}")).unwrap(), (b"AAAAAA".to_vec(), vec![1]), "{bad}");
            assert!(matches!(json(&bad), Err(FilesError::JsonKey { index: 0, .. })), "{bad}");
        }
        assert_eq!(json("").unwrap(), (vec![], vec![]), "a statement: trust nobody");
        assert!(matches!(read("{}"), Err(FilesError::Json { .. })));
    }

    #[test]
    fn a_broken_certificate_costs_no_other() {
        let good = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
        let bad = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        assert_eq!(read(&format!("{good}{bad}{good}")).unwrap(), (b"AAAAAA".to_vec(), vec![1]));
        assert!(matches!(read(bad), Err(FilesError::Pem { index: 0, .. })));
        assert!(matches!(read("nothing"), Err(FilesError::Nothing { .. })));
    }
}
