//! From files to a snapshot: all of them or none.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::SystemTime,
};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};
use zeroize::Zeroize as _;

use super::{Files, FilesError, LAYOUTS, Paths, SvidFiles, bundle, open::read, pem};
use crate::{
    identity::{IdentitySnapshot, SpiffeId},
    source::{SourceError, decode},
    workload_api_proto::{X509BundlesResponse, X509svid, X509svidResponse},
};

/// The bit that lets everybody read.
const WORLD_READABLE: u32 = 0o004;

/// A message whose keys are wiped when it goes.
struct Wiped(X509svidResponse);

impl Drop for Wiped {
    fn drop(&mut self) {
        for svid in self.0.svids.drain(..) {
            // The decoder has made its own copy, and nobody else has these bytes.
            if let Ok(mut key) = svid.x509_svid_key.try_into_mut() {
                key.as_mut().zeroize();
            }
        }
    }
}

impl Files {
    /// Reads every file once.
    ///
    /// # Errors
    /// The first file that cannot be read, or rule that something in them breaks.
    pub(super) fn load(&self, now: SystemTime) -> Result<IdentitySnapshot, SourceError> {
        let mut bundles = std::collections::HashMap::new();
        for (trust_domain, path) in &self.config.bundles {
            bundles.insert(trust_domain.id_string(), bundle::authorities(path, &read(path)?)?.into());
        }
        if self.config.svids.is_empty() {
            let message = X509BundlesResponse { crl: Vec::new(), bundles };
            return Ok(decode::bundles_response(&message, None, &self.limits)?);
        }
        let empty = X509svidResponse { svids: Vec::new(), crl: Vec::new(), federated_bundles: bundles };
        let mut message = Wiped(empty);
        for files in &self.config.svids {
            let svid = self.svid(files, &message.0)?;
            message.0.svids.push(svid);
        }
        Ok(decode::svid_response(&message.0, &self.limits, now)?)
    }

    fn svid(&self, files: &SvidFiles, known: &X509svidResponse) -> Result<X509svid, FilesError> {
        let (certificate, key, bundle) = locate(&files.paths)?;
        let chain = pem::chain(&certificate, &read(&certificate)?)?;
        let spiffe_id = spiffe_id(&certificate, &chain)?;
        self.warn_if_exposed(&key);
        let x509_svid_key = pem::private_key(&key, &read(&key)?)?;
        let bundle = match bundle {
            Some(path) => bundle::authorities(&path, &read(&path)?)?.into(),
            None => {
                // What is no SPIFFE ID is for the decoder to complain about.
                let domain = SpiffeId::new(&spiffe_id).map(|id| id.trust_domain().id_string()).unwrap_or_default();
                let bundle = known.federated_bundles.get(&domain).cloned();
                bundle.ok_or(FilesError::NoBundle { trust_domain: domain })?
            }
        };
        Ok(X509svid {
            spiffe_id,
            x509_svid: chain.concat().into(),
            x509_svid_key: x509_svid_key.to_vec().into(),
            bundle,
            hint: files.hint.clone(),
        })
    }

    fn warn_if_exposed(&self, key: &Path) {
        let mode = key.metadata().map(|metadata| metadata.permissions().mode()).unwrap_or_default();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if mode & WORLD_READABLE == 0 {
            memory.exposed.remove(key);
        } else if memory.exposed.insert(key.to_owned()) {
            let mode = format!("{:04o}", mode & 0o7777);
            tracing::warn!(key = %key.display(), mode, "private key can be read by everybody, restrict its mode to 0600");
        }
    }
}

/// The paths of chain, key and bundle.
fn locate(paths: &Paths) -> Result<(PathBuf, PathBuf, Option<PathBuf>), FilesError> {
    match paths {
        Paths::Each { certificate, key, bundle } => Ok((certificate.clone(), key.clone(), bundle.clone())),
        Paths::Directory { directory, bundle } => {
            // A layout is recognised by its first file, so that a missing second one is named.
            let [certificate, key, own] = LAYOUTS
                .map(|layout| layout.map(|name| directory.join(name)))
                .into_iter()
                .find(|[certificate, ..]| certificate.exists())
                .ok_or_else(|| FilesError::Layout { directory: directory.clone() })?;
            let own = own.exists().then_some(own);
            Ok((certificate, key, bundle.clone().or(own)))
        }
    }
}

/// What the leaf says about itself.
fn spiffe_id(path: &Path, chain: &[Vec<u8>]) -> Result<String, FilesError> {
    let leaf = chain.first().and_then(|der| X509Certificate::from_der(der).ok());
    let names = leaf.as_ref().and_then(|(_, leaf)| leaf.subject_alternative_name().ok().flatten());
    let uris: Vec<_> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => Ok((*uri).to_owned()),
        _ => Err(FilesError::NoIdentity { path: path.to_owned(), uris: uris.len() }),
    }
}
