//! Messages that no honest issuer sends, for the tests of those that receive them.

use std::fmt;

use bytes::Bytes;

use crate::workload_api_proto::{X509svid, X509svidResponse};

use super::{DevError, Issued, ca, state};

/// A `FetchX509SVID` message to tamper with. Begins as the true one ([`DevIssuer::message`]) and goes out through
/// [`DevIssuer::send_raw`]. Every method but [`tamper`](Self::tamper) leaves the message alone where `index` has no SVID.
///
/// [`DevIssuer::message`]: super::DevIssuer::message
/// [`DevIssuer::send_raw`]: super::DevIssuer::send_raw
#[derive(Clone, PartialEq)]
pub struct RawMessage(pub(super) X509svidResponse);

impl RawMessage {
    /// What goes over the wire. Its `Debug` shows private keys.
    #[must_use]
    pub fn response(&self) -> &X509svidResponse {
        &self.0
    }

    /// Does anything to the whole message.
    #[must_use]
    pub fn tamper(mut self, with: impl FnOnce(&mut X509svidResponse)) -> Self {
        with(&mut self.0);
        self
    }

    /// Does anything to one SVID.
    #[must_use]
    pub fn svid(self, index: usize, with: impl FnOnce(&mut X509svid)) -> Self {
        self.tamper(|message| {
            if let Some(svid) = message.svids.get_mut(index) {
                with(svid);
            }
        })
    }

    /// An answer without a single SVID, where the specification wants `PERMISSION_DENIED`.
    #[must_use]
    pub fn without_svids(self) -> Self {
        self.tamper(|message| message.svids.clear())
    }

    /// A leaf that is not ASN.1.
    #[must_use]
    pub fn garbage_chain(self, index: usize) -> Self {
        self.svid(index, |svid| svid.x509_svid = Bytes::from_static(b"this is not a certificate"))
    }

    /// A key that is not ASN.1.
    #[must_use]
    pub fn garbage_key(self, index: usize) -> Self {
        self.svid(index, |svid| svid.x509_svid_key = Bytes::from_static(b"this is not a key"))
    }

    /// A bundle that is not ASN.1.
    #[must_use]
    pub fn garbage_bundle(self, index: usize) -> Self {
        self.svid(index, |svid| svid.bundle = Bytes::from_static(b"this is not a bundle"))
    }

    /// A good key that belongs to another certificate.
    ///
    /// # Errors
    /// The key cannot be made.
    pub fn mismatched_key(self, index: usize) -> Result<Self, DevError> {
        let key = ca::stray_key()?;
        Ok(self.svid(index, |svid| svid.x509_svid_key = Bytes::copy_from_slice(&key)))
    }

    /// Another leaf, chain and key in the place of the true ones, as [`DevIssuer::sign`](super::DevIssuer::sign) makes
    /// them: expired, not yet valid, a CA, of a foreign trust domain. Hint and bundle stay.
    #[must_use]
    pub fn replaced(self, index: usize, issued: &Issued) -> Self {
        self.svid(index, |svid| {
            let hint = std::mem::take(&mut svid.hint);
            *svid = X509svid { hint, ..state::wire_svid(issued, svid.bundle.clone()) };
        })
    }

    /// A hint, which may be another SVID's or too long.
    #[must_use]
    pub fn hint(self, index: usize, hint: &str) -> Self {
        self.svid(index, |svid| hint.clone_into(&mut svid.hint))
    }

    /// A SPIFFE ID that the leaf does not have, or that is none.
    #[must_use]
    pub fn spiffe_id(self, index: usize, id: &str) -> Self {
        self.svid(index, |svid| id.clone_into(&mut svid.spiffe_id))
    }

    /// A federated bundle of any name and content.
    #[must_use]
    pub fn federated_bundle(self, trust_domain_id: &str, der: impl Into<Bytes>) -> Self {
        let der = der.into();
        self.tamper(|message| {
            message.federated_bundles.insert(trust_domain_id.to_owned(), der);
        })
    }

    /// At least `bytes` of a revocation list on top.
    #[must_use]
    pub fn oversized(self, bytes: usize) -> Self {
        self.tamper(|message| message.crl.push(Bytes::from(vec![0; bytes])))
    }
}

/// The message holds private keys.
impl fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMessage").field("svids", &self.0.svids.len()).finish_non_exhaustive()
    }
}
