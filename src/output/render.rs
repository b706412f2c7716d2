//! What the files hold: pure.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use base64ct::{Base64, Encoding as _};
use pem_rfc7468::LineEnding;
use zeroize::Zeroizing;

use super::{Config, Selection};
use crate::{
    identity::{Availability, Certificate, IdentitySnapshot, JwtSnapshot, JwtState, SpiffeId, Svid, TrustDomain},
    source::decode::serial,
};

/// Why there are no files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The source gives no such identity.
    #[error("the source gives no identity {0}; the files need one: register it, or correct `id` or `hint`")]
    NoIdentity(String),
    /// The source gives no authorities.
    #[error("the source gives no trust bundle of {0}")]
    NoBundle(String),
    /// Cannot happen for what the source's decoder accepted.
    #[error("the certificate or key of {0} cannot be written as PEM; the source must issue it again")]
    Pem(String),
}

/// One file.
pub(super) struct File {
    pub(super) name: String,
    pub(super) mode: u32,
    /// Of its final size from the start, so that growing leaves no copy of a key behind.
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// What a generation holds, for events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) spiffe_id: Option<SpiffeId>,
    pub(super) serial: Option<Arc<str>>,
    pub(super) not_after: Option<SystemTime>,
}

/// The files of one generation, in the order of their names. `None` while there is nothing to write, or no reason to:
/// a denial leaves the last files where they are, as it leaves Envoy's certificate.
///
/// A token that is not there (yet, or any more) has no file; nothing else waits for it.
pub(super) fn render(
    config: &Config,
    state: &Availability,
    jwt: &JwtSnapshot,
) -> Result<Option<(Vec<File>, Described)>, RenderError> {
    let mut files = BTreeMap::new();
    let mut add = |name: &Option<String>, mode: u32, content: &dyn Fn() -> Result<Zeroizing<Vec<u8>>, RenderError>| {
        if let Some(name) = name {
            files.insert(name.clone(), File { name: name.clone(), mode, content: content()? });
        }
        Ok(())
    };
    let mut described = Described::default();
    let needs_svid = config.svid_file.is_some() || config.key_file.is_some() || config.combined_file.is_some();
    if needs_svid || config.bundle_file.is_some() {
        let Availability::Ready(snapshot) = state else { return Ok(None) };
        let svid = select(snapshot, &config.identity);
        if needs_svid {
            let Some(svid) = svid else {
                return if snapshot.svids.is_empty() {
                    Ok(None)
                } else {
                    Err(RenderError::NoIdentity(wanted(&config.identity)))
                };
            };
            described = describe(svid);
            let kept = if config.add_intermediates_to_bundle { 1 } else { usize::MAX };
            let mut all = vec![("PRIVATE KEY", svid.key.pkcs8_der())];
            all.extend(svid.chain.iter().take(kept).map(certificate));
            let (key, chain) = all.split_at(1);
            let who = || svid.id.to_string();
            add(&config.svid_file, config.cert_mode, &|| pem(chain, who))?;
            add(&config.key_file, config.key_mode, &|| pem(key, who))?;
            add(&config.combined_file, config.key_mode, &|| pem(&all, who))?;
        }
        add(&config.bundle_file, config.cert_mode, &|| bundle(config, snapshot, svid))?;
    }
    add(&config.jwt_bundle_file, config.cert_mode, &|| Ok(jwt_bundles(jwt)))?;
    for wanted in &config.jwt_svids {
        if let Some(JwtState::Valid(svid)) = jwt.svids.get(&wanted.request) {
            let token = || Ok(Zeroizing::new(svid.token.compact().as_bytes().to_vec()));
            add(&Some(wanted.file.clone()), config.key_mode, &token)?;
        }
    }
    // Only tokens are wanted and none is there yet: an empty generation would say that they are gone.
    let waiting =
        config.jwt_svids.iter().any(|it| matches!(jwt.svids.get(&it.request), None | Some(JwtState::Pending)));
    if files.is_empty() && waiting {
        return Ok(None);
    }
    Ok(Some((files.into_values().collect(), described)))
}

fn select<'a>(snapshot: &'a IdentitySnapshot, wanted: &Selection) -> Option<&'a Arc<Svid>> {
    match wanted {
        Selection::Default => snapshot.default_svid(),
        Selection::Id(id) => snapshot.svid(id),
        Selection::Hint(hint) => snapshot.svids.iter().find(|svid| svid.hint.as_ref() == Some(hint)),
    }
}

fn wanted(selection: &Selection) -> String {
    match selection {
        Selection::Default => "at all".to_owned(),
        Selection::Id(id) => id.to_string(),
        Selection::Hint(hint) => format!("with the hint {:?}", hint.as_str()),
    }
}

fn describe(svid: &Svid) -> Described {
    Described {
        spiffe_id: Some(svid.id.clone()),
        serial: Some(serial(svid.chain.leaf()).into()),
        not_after: Some(svid.validity.not_after),
    }
}

/// The authorities of the identity's trust domain (our own, without an identity), then what the options add.
fn bundle(
    config: &Config,
    snapshot: &IdentitySnapshot,
    svid: Option<&Arc<Svid>>,
) -> Result<Zeroizing<Vec<u8>>, RenderError> {
    let own = svid.map(|svid| svid.id.trust_domain()).or(snapshot.trust_domain.as_ref());
    let found = own.and_then(|own| snapshot.bundles.get(own));
    let Some(found) = found else {
        return Err(RenderError::NoBundle(own.map_or_else(|| "our trust domain".to_owned(), |own| own.to_string())));
    };
    let intermediates =
        svid.filter(|_| config.add_intermediates_to_bundle).into_iter().flat_map(|svid| svid.chain.iter().skip(1));
    let federated = snapshot
        .bundles
        .values()
        .filter(|other| config.include_federated_domains && other.trust_domain() != found.trust_domain());
    let all = found.authorities().iter().chain(intermediates).chain(federated.flat_map(|other| other.authorities()));
    let all: Vec<_> = all.map(certificate).collect();
    pem(&all, || found.trust_domain().to_string())
}

fn certificate(certificate: &Certificate) -> (&'static str, &[u8]) {
    ("CERTIFICATE", certificate.der())
}

/// PEM blocks one after the other.
fn pem(blocks: &[(&'static str, &[u8])], who: impl Fn() -> String) -> Result<Zeroizing<Vec<u8>>, RenderError> {
    let bad = |_| RenderError::Pem(who());
    let mut size = 0;
    for (label, der) in blocks {
        size += pem_rfc7468::encoded_len(label, LineEnding::LF, der).map_err(bad)?;
    }
    let mut text = Zeroizing::new(vec![0; size]);
    let mut rest = text.as_mut_slice();
    for (label, der) in blocks {
        let written = pem_rfc7468::encode(label, LineEnding::LF, der, rest).map_err(bad)?.len();
        rest = rest.get_mut(written..).unwrap_or_default();
    }
    Ok(text)
}

/// Trust domain names and their JWK Sets in base64: the form that spiffe-helper writes.
fn jwt_bundles(jwt: &JwtSnapshot) -> Zeroizing<Vec<u8>> {
    let sets = jwt.bundles.values().map(|bundle| {
        let set = serde_json::json!({ "keys": bundle.keys() }).to_string();
        (TrustDomain::as_ref(bundle.trust_domain()).to_owned(), Base64::encode_string(set.as_bytes()).into())
    });
    let sets: serde_json::Map<_, _> = sets.collect();
    Zeroizing::new(serde_json::Value::Object(sets).to_string().into_bytes())
}

#[cfg(test)]
mod tests;
