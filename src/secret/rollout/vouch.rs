//! Which authority vouches for a certificate.

use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer as _};

use crate::identity::{Certificate, CertificateChain};

/// Whether `authority` has signed a certificate of `chain`, or is one. By the signature: authorities of one trust domain
/// often have one name.
pub(super) fn vouches(authority: &Certificate, chain: &CertificateChain) -> bool {
    if chain.iter().any(|certificate| certificate == authority) {
        return true;
    }
    let Ok((_, authority)) = X509Certificate::from_der(authority.der()) else { return false };
    chain.iter().any(|certificate| {
        X509Certificate::from_der(certificate.der()).is_ok_and(|(_, certificate)| signed(&authority, &certificate))
    })
}

fn signed(authority: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    if authority.subject().as_raw() != certificate.issuer().as_raw() {
        return false;
    }
    let is = |named: Option<&[u8]>, own: Option<&[u8]>| named.zip(own).is_none_or(|(named, own)| named == own);
    is(issuer_key(certificate), own_key(authority))
        && certificate.verify_signature(Some(authority.public_key())).is_ok()
}

fn issuer_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}

fn own_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    /// All of them have one and the same subject.
    fn ca(by: Option<&Issuer<'_, KeyPair>>) -> (Issuer<'static, KeyPair>, Certificate) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = by.map_or_else(|| params.self_signed(&key), |issuer| params.signed_by(&key, issuer)).unwrap();
        (Issuer::new(params, key), Certificate::from_der(certificate.der()))
    }

    fn leaf(by: &Issuer<'_, KeyPair>, key_id: bool) -> Certificate {
        let mut params = CertificateParams::default();
        params.use_authority_key_identifier_extension = key_id;
        Certificate::from_der(params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der())
    }

    #[test]
    fn the_one_whose_signature_it_is_and_no_other_of_its_name() {
        let ((one, root), (_, other)) = (ca(None), ca(None));
        let (middle, intermediate) = ca(Some(&one));
        for key_id in [false, true] {
            let direct = CertificateChain::new(leaf(&one, key_id), vec![]);
            assert!(vouches(&root, &direct) && !vouches(&other, &direct));
            let chain = CertificateChain::new(leaf(&middle, key_id), vec![intermediate.clone()]);
            assert!(vouches(&root, &chain) && vouches(&intermediate, &chain) && !vouches(&other, &chain));
        }
        let garbage = Certificate::from_der(b"garbage");
        assert!(!vouches(&garbage, &CertificateChain::new(leaf(&one, true), vec![])));
        assert!(!vouches(&root, &CertificateChain::new(garbage, vec![])));
    }
}
