//! Why a name is not given, for every way in which it can be missing.

use super::*;

#[test]
fn a_name_that_is_missing_has_the_reason_that_leads_to_the_cure() {
    let names = [("foreign", "spiffe://foreign.org/x"), ("both", "bundle:own,partner.org"), ("later", "hint:later")];
    let catalog = catalog(|config| {
        config.names = table(&names);
        config.files.allow = vec!["/etc/certs".into()];
    });
    let (view, config) = (view(&catalog, Flavour::Plain), catalog.config.clone());
    for (name, reason) in [
        (A, None),
        ("default", None),
        ("defualt", Some(Missing::Meaningless)),
        ("", Some(Missing::Meaningless)),
        ("example.org", Some(Missing::Meaningless)),
        ("spiffe://example.org/", Some(Missing::Meaningless)),
        ("spiffe://EXAMPLE.org/a", Some(Missing::Meaningless)),
        ("spiffe://foreign.org/a", Some(Missing::ForeignTrustDomain)),
        ("spiffe://foreign%2Eorg/a", Some(Missing::ForeignTrustDomain)),
        ("foreign", Some(Missing::ForeignTrustDomain)),
        ("spiffe://example.org/unknown", Some(Missing::NotRegistered)),
        ("spiffe://unknown.org", Some(Missing::NotRegistered)),
        ("later", Some(Missing::NotRegistered)),
        ("jwt:payments", Some(Missing::TokenNotConfigured)),
        ("file-root:/etc/shadow", Some(Missing::FileNotAllowed)),
        ("file-root:/etc/certs/../shadow", Some(Missing::FileNotAllowed)),
        ("*", Some(Missing::WildcardOff)),
        ("ALL", Some(Missing::NeedsValidator)),
        ("both", Some(Missing::NeedsValidator)),
    ] {
        assert_eq!(config.missing(name, view.set()), reason, "{name}");
    }
    assert_eq!(config.missing("default", &ResourceSet::pending()), Some(Missing::NothingReceived));
    let late = AT + fixture::NOT_AFTER + Duration::from_secs(1);
    let expired = viewed(&catalog, &catalog.contents(&state(), late).unwrap(), Flavour::Spiffe);
    assert_eq!(config.missing("default", expired.set()), Some(Missing::Withheld));
}

#[test]
fn what_the_operator_rules_out_is_not_called_a_typing_error() {
    let catalog = catalog(|config| config.allowed = Some(vec!["ROOTCA".parse().unwrap()]));
    let view = view(&catalog, Flavour::Spiffe);
    for name in [A, "default", "example.com", "spiffe://foreign.org/a", "jwt:payments"] {
        assert_eq!(catalog.config.missing(name, view.set()), Some(Missing::NotAllowed), "{name}");
    }
    assert_eq!(catalog.config.missing("ROOTCA", view.set()), None);
}
