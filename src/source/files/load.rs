//! From files to a snapshot, item by item.

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::SystemTime,
};

use bytes::Bytes;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};
use zeroize::Zeroize as _;

use super::{Files, FilesError, LAYOUTS, Paths, SvidFiles, bundle, open::read, pem};
use crate::{
    identity::{IdentitySnapshot, Refusal, RefusedItem, SpiffeId},
    source::{SourceError, decode},
    telemetry::logs::chain,
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

/// What was read, and what of it cannot be used.
#[derive(Default)]
struct Read {
    bundles: HashMap<String, Bytes>,
    refusals: Vec<Refusal>,
    /// The first thing that was wrong, for when nothing is right.
    failure: Option<FilesError>,
}

impl Read {
    fn refuse(&mut self, refusal: Refusal, error: FilesError) {
        self.refusals.push(refusal);
        self.failure.get_or_insert(error);
    }
}

impl Files {
    /// Reads every file once. What cannot be used is left out.
    ///
    /// # Errors
    /// Nothing can be used.
    pub(super) fn load(&self, now: SystemTime) -> Result<IdentitySnapshot, SourceError> {
        let mut all = Read::default();
        for (trust_domain, path) in &self.config.bundles {
            match read(path).and_then(|text| bundle::authorities(path, &text)) {
                Ok(authorities) => {
                    all.refusals.extend(authorities.refusals(trust_domain));
                    all.bundles.insert(trust_domain.id_string(), authorities.der.into());
                }
                Err(error) => {
                    let item = RefusedItem::bundle(trust_domain.as_ref());
                    all.refuse(Refusal::new(item, chain(&error)), error);
                }
            }
        }
        let mut message = Wiped(X509svidResponse::default());
        // Where each of them stands in the configuration.
        let mut places = Vec::new();
        for (place, files) in self.config.svids.iter().enumerate() {
            match self.svid(files, &mut all) {
                Ok(svid) => {
                    message.0.svids.push(svid);
                    places.push(place);
                }
                Err(error) => {
                    let item = RefusedItem::svid(&self.named(files.paths.first()));
                    all.refuse(Refusal::new(item, chain(&error)).at(place), error);
                }
            }
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = match (message.0.svids.is_empty(), all.failure) {
            // Identities are wanted, and none could be read; or bundles are, and none.
            (true, Some(error)) if !self.config.svids.is_empty() || all.bundles.is_empty() => return Err(error.into()),
            (true, _) => {
                let message = X509BundlesResponse { crl: Vec::new(), bundles: all.bundles };
                decode::bundles_response(&message, None, &self.limits, &memory.known)?
            }
            (false, _) => {
                message.0.federated_bundles = all.bundles;
                decode::svid_response(&message.0, &self.limits, &memory.known, now)?
            }
        };
        memory.known.learn(&snapshot);
        for refusal in &mut snapshot.refusals {
            refusal.position = refusal.position.and_then(|position| places.get(position).copied());
        }
        snapshot.refusals.extend(all.refusals);
        Ok(snapshot)
    }

    fn svid(&self, files: &SvidFiles, all: &mut Read) -> Result<X509svid, FilesError> {
        let (certificate, key, bundle) = locate(&files.paths)?;
        let chain = pem::chain(&certificate, &read(&certificate)?)?;
        let spiffe_id = spiffe_id(&certificate, &chain)?;
        self.remember_name(files.paths.first(), &spiffe_id);
        self.warn_if_exposed(&key);
        let x509_svid_key = pem::private_key(&key, &read(&key)?)?;
        // What is no SPIFFE ID is for the decoder to complain about.
        let domain = SpiffeId::new(&spiffe_id).map(|id| id.trust_domain().clone()).ok();
        let bundle = match bundle {
            Some(path) => {
                let authorities = bundle::authorities(&path, &read(&path)?)?;
                all.refusals.extend(domain.iter().flat_map(|domain| authorities.refusals(domain)));
                authorities.der.into()
            }
            None => {
                let domain = domain.map(|domain| domain.id_string()).unwrap_or_default();
                let bundle = all.bundles.get(&domain).cloned();
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

    /// Whose certificate it was when it could be read last; its path, if it never could.
    fn named(&self, path: &Path) -> String {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.named.get(path).cloned().unwrap_or_else(|| path.display().to_string())
    }

    fn remember_name(&self, path: &Path, spiffe_id: &str) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.named.insert(path.to_owned(), spiffe_id.to_owned());
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
