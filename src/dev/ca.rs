//! The certificate authority of one trust domain, in memory. Time is a parameter; key generation is the only randomness.
//!
//! The certificates follow X.509-SVID sections 2 to 5 and Appendix A:
//! <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use pem_rfc7468::LineEnding;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::identity::{Certificate, CertificateChain, PrivateKey, SpiffeId, Svid, TrustDomain, Validity};

use super::{CaStep, DevError};

/// The same allowance for clocks that run behind as SPIRE's.
const BACKDATE: Duration = Duration::from_secs(10);
/// Roots outlive every session of development.
const ROOT_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// In the subject of every certificate, so that a leaked one tells what it is.
const ORGANIZATION: &str = "spiffe-sds dev, NOT FOR PRODUCTION";

/// The CA of one trust domain: one root signs, others are trusted before and after their time.
#[derive(Debug)]
pub struct Ca {
    trust_domain: TrustDomain,
    intermediate: bool,
    retiring: Vec<Authority>,
    active: Authority,
    prepared: Option<Authority>,
}

/// What a leaf is to say, true or not; the tests need both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Whose SVID it claims to be.
    pub id: SpiffeId,
    /// The URI subject alternative names; a correct leaf has `id` and nothing else.
    pub uris: Vec<String>,
    /// The leaf's life; the certificate keeps whole seconds.
    pub validity: Validity,
    /// Makes the leaf a CA certificate, which no consumer may accept as a leaf.
    pub authority: bool,
}

/// A leaf with its chain and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, its intermediates and its key.
    pub svid: Svid,
    /// The leaf's serial number: lower-case hex without separators, as Envoy's `/certs` prints it.
    pub serial: String,
}

/// A root, and the intermediate that signs in its name.
#[derive(Debug)]
struct Authority {
    root: Signer,
    intermediate: Option<Signer>,
}

struct Signer {
    params: CertificateParams,
    key: KeyPair,
    certificate: Certificate,
    serial: String,
}

impl Ca {
    /// A CA with one root, which signs through an intermediate if asked to.
    ///
    /// # Errors
    /// Keys or certificates cannot be made.
    pub fn new(trust_domain: TrustDomain, intermediate: bool, now: SystemTime) -> Result<Self, DevError> {
        let active = Authority::new(&trust_domain, intermediate, now)?;
        Ok(Self { trust_domain, intermediate, retiring: Vec::new(), active, prepared: None })
    }

    /// Whose CA this is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots of the bundle, oldest first.
    pub fn roots(&self) -> impl Iterator<Item = &Certificate> {
        self.retiring.iter().chain([&self.active]).chain(&self.prepared).map(|authority| &authority.root.certificate)
    }

    /// Takes one step of a roll-over and tells the serial of the root that it concerns.
    ///
    /// # Errors
    /// [`DevError::OutOfOrder`], or keys or certificates cannot be made.
    pub fn step(&mut self, step: CaStep, now: SystemTime) -> Result<String, DevError> {
        let out_of_order = |reason| DevError::OutOfOrder { trust_domain: self.trust_domain.clone(), step, reason };
        match step {
            CaStep::Prepare if self.prepared.is_some() => Err(out_of_order("activate the prepared root first")),
            CaStep::Prepare => {
                let authority = Authority::new(&self.trust_domain, self.intermediate, now)?;
                Ok(self.prepared.insert(authority).root.serial.clone())
            }
            CaStep::Activate => {
                let next = self.prepared.take().ok_or_else(|| out_of_order("prepare a root first"))?;
                self.retiring.push(std::mem::replace(&mut self.active, next));
                Ok(self.active.root.serial.clone())
            }
            CaStep::Retire => {
                let last = self.retiring.last().ok_or_else(|| out_of_order("activate another root first"))?;
                let serial = last.root.serial.clone();
                self.retiring.clear();
                Ok(serial)
            }
        }
    }

    /// Signs whatever `template` says, also for a foreign trust domain: that is how tests forge.
    ///
    /// # Errors
    /// The key or the certificate cannot be made, for instance because a URI is not ASCII.
    pub fn sign(&self, template: &Template) -> Result<Issued, DevError> {
        let Signed { key, certificate, serial } = self.active.signer().sign(template)?;
        let intermediates = self.active.intermediate.iter().map(|signer| signer.certificate.clone()).collect();
        let svid = Svid {
            id: template.id.clone(),
            chain: CertificateChain::new(certificate, intermediates),
            key,
            hint: None,
            validity: template.validity,
        };
        Ok(Issued { svid, serial })
    }
}

impl Template {
    /// A correct leaf, valid from ten seconds before `now` until at least `ttl` after it.
    #[must_use]
    pub fn leaf(id: SpiffeId, now: SystemTime, ttl: Duration) -> Self {
        let uris = vec![id.to_string()];
        let validity = Validity { not_before: whole_seconds(now - BACKDATE), not_after: next_second(now + ttl) };
        Self { id, uris, validity, authority: false }
    }

    /// A leaf whose life ended at `now`.
    #[must_use]
    pub fn expired(id: SpiffeId, now: SystemTime) -> Self {
        let mut template = Self::leaf(id, now, Duration::ZERO);
        template.validity =
            Validity { not_before: whole_seconds(now - 60 * BACKDATE), not_after: whole_seconds(now - BACKDATE) };
        template
    }

    /// A leaf whose life begins an hour after `now`.
    #[must_use]
    pub fn not_yet_valid(id: SpiffeId, now: SystemTime) -> Self {
        let later = now + Duration::from_secs(3600);
        let mut template = Self::leaf(id, later, Duration::from_secs(3600));
        template.validity.not_before = whole_seconds(later);
        template
    }
}

impl Issued {
    /// One PEM block a certificate, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        certificates_pem(self.svid.chain.iter())
    }

    /// The private key: PKCS#8 in PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", self.svid.key.pkcs8_der()))
    }
}

impl Authority {
    fn new(trust_domain: &TrustDomain, intermediate: bool, now: SystemTime) -> Result<Self, DevError> {
        let root = Signer::new(trust_domain, None, now)?;
        let intermediate = intermediate.then(|| Signer::new(trust_domain, Some(&root), now)).transpose()?;
        Ok(Self { root, intermediate })
    }

    fn signer(&self) -> &Signer {
        self.intermediate.as_ref().unwrap_or(&self.root)
    }
}

struct Signed {
    key: PrivateKey,
    certificate: Certificate,
    serial: String,
}

impl Signer {
    /// A signing certificate (X.509-SVID, sections 4.1 and 4.3): self-signed, or signed by `above`.
    fn new(trust_domain: &TrustDomain, above: Option<&Signer>, now: SystemTime) -> Result<Self, DevError> {
        let failed = |source| DevError::Sign { subject: trust_domain.id_string(), source };
        let (number, serial) = serial()?;
        let mut params = CertificateParams::default();
        // A name of its own for each root: verifiers look issuers up by name, and two roots are trusted at a time.
        let role = if above.is_some() { "intermediate" } else { "root" };
        params.distinguished_name = subject(Some(format!("{role} {serial}")));
        params.serial_number = Some(number);
        params.not_before = whole_seconds(now - BACKDATE).into();
        params.not_after = next_second(now + ROOT_TTL).into();
        params.subject_alt_names = vec![uri(&trust_domain.id_string()).map_err(failed)?];
        params.is_ca = IsCa::Ca(above.map_or(BasicConstraints::Unconstrained, |_| BasicConstraints::Constrained(0)));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;

        let key = KeyPair::generate().map_err(failed)?;
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer()),
            None => params.self_signed(&key),
        };
        let certificate = Certificate::from_der(certificate.map_err(failed)?.der());
        Ok(Self { params, key, certificate, serial })
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn sign(&self, template: &Template) -> Result<Signed, DevError> {
        let failed = |source| DevError::Sign { subject: template.id.to_string(), source };
        let (number, serial) = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(None);
        params.serial_number = Some(number);
        params.not_before = template.validity.not_before.into();
        params.not_after = template.validity.not_after.into();
        params.subject_alt_names = template.uris.iter().map(|it| uri(it)).collect::<Result<_, _>>().map_err(failed)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if template.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        } else {
            params.is_ca = IsCa::ExplicitNoCa;
        }

        let mut key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer()).map_err(failed)?;
        let pkcs8 = Zeroizing::new(key.serialize_der());
        key.zeroize();
        Ok(Signed {
            key: PrivateKey::from_pkcs8_der(pkcs8),
            certificate: Certificate::from_der(certificate.der()),
            serial,
        })
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// A fresh private key of the kind that leaves have, belonging to no certificate: PKCS#8 DER.
pub(super) fn stray_key() -> Result<Zeroizing<Vec<u8>>, DevError> {
    let mut key = KeyPair::generate()
        .map_err(|source| DevError::Sign { subject: "a key without a certificate".to_owned(), source })?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok(pkcs8)
}

/// One PEM block a certificate; several in one block are what Envoy refuses.
pub(super) fn certificates_pem<'a>(certificates: impl Iterator<Item = &'a Certificate>) -> String {
    certificates.map(|certificate| pem("CERTIFICATE", certificate.der())).collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    // Encoding fails for labels that are not ASCII and for inputs near the end of the address space: neither is here.
    pem_rfc7468::encode_string(label, LineEnding::LF, der).unwrap_or_default()
}

fn subject(common_name: Option<String>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, ORGANIZATION);
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn uri(text: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(text.try_into()?))
}

/// 127 random bits: positive, of a constant length, and far beyond the 64 that RFC 5280 consumers expect at least.
fn serial() -> Result<(SerialNumber, String), DevError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| DevError::Random)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((SerialNumber::from_slice(&bytes), hex))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Rounds up, so that no leaf lives shorter than it was asked to.
fn next_second(time: SystemTime) -> SystemTime {
    let floor = whole_seconds(time);
    if floor == time { floor } else { floor + Duration::from_secs(1) }
}

#[cfg(test)]
mod tests;
