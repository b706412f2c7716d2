use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};
use zeroize::Zeroizing;

use super::*;
use crate::identity::{Certificate, CertificateChain, Hint, PrivateKey, Refusal, RefusedItem, SpiffeId, TrustDomain};

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn certificate(name: &str, serial: u64, (not_before, not_after): (u64, u64)) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = at(not_before).into();
    params.not_after = at(not_after).into();
    let key = KeyPair::generate().unwrap();
    Certificate::from_der(params.self_signed(&key).unwrap().der())
}

fn svid(id: &str, hint: &str, serial: u64, life: (u64, u64)) -> Arc<Svid> {
    Arc::new(Svid {
        id: SpiffeId::new(id).unwrap(),
        chain: CertificateChain::new(certificate("leaf", serial, life), Vec::new()),
        key: PrivateKey::from_pkcs8_der(Zeroizing::new(b"the private key".to_vec())),
        hint: Hint::new(hint),
        validity: Validity { not_before: at(life.0), not_after: at(life.1) },
    })
}

fn bundle(name: &str, lives: &[(u64, u64)]) -> (TrustDomain, Arc<TrustBundle>) {
    let trust_domain = TrustDomain::new(name).unwrap();
    let authorities = lives.iter().map(|life| certificate(name, 0xCA, *life)).collect();
    (trust_domain.clone(), Arc::new(TrustBundle::new(trust_domain, authorities)))
}

fn snapshot() -> IdentitySnapshot {
    let (hour, day) = (3600, 86_400);
    IdentitySnapshot {
        svids: vec![
            svid("spiffe://example.org/web", "", 0x0A1B, (NOW - 600, NOW + hour + 61)),
            svid("spiffe://example.org/api", "internal", 2, (NOW - hour, NOW + 60)),
            svid("spiffe://example.org/old", "", 3, (NOW - hour, NOW - 1)),
        ],
        bundles: [
            bundle("example.org", &[(NOW - day, NOW + day), (NOW - day, NOW + 2 * day)]),
            bundle("partner.example", &[]),
        ]
        .into(),
        trust_domain: Some(TrustDomain::new("example.org").unwrap()),
        crls: Vec::new(),
        refusals: Vec::new(),
    }
}

fn report(snapshot: &IdentitySnapshot) -> Report {
    Report::new(snapshot, &Naming::default(), &DefaultIdentity::First, at(NOW))
}

#[test]
fn tables_are_aligned_and_say_what_is_wrong() {
    let text = anstream::adapter::strip_str(&report(&snapshot()).tables()).to_string();
    assert_eq!(
        text,
        "\
X.509-SVIDs
SPIFFE ID                 ALSO AS  HINT      SERIAL  CHAIN  NOT AFTER             LEFT   STATE
spiffe://example.org/web  default            0a1b    1      2026-01-01T01:01:01Z  1h 1m  valid
spiffe://example.org/api           internal  02      1      2026-01-01T00:01:00Z  1m     expiring
spiffe://example.org/old                     03      1      2025-12-31T23:59:59Z  0s     expired

Trust bundles
TRUST DOMAIN              ALSO IN      AUTHORITIES  FIRST NOT AFTER       LEFT  STATE
spiffe://example.org      ROOTCA, ALL  2            2026-01-02T00:00:00Z  1day  valid
spiffe://partner.example  ALL          0                                        empty
"
    );
}

#[test]
fn rows_have_the_colour_of_their_state() {
    let text = report(&snapshot()).tables();
    let line = |word: &str| text.lines().find(|line| line.contains(word)).unwrap().to_owned();
    assert!(line("expired").starts_with("\u{1b}[31m") && line("expiring").starts_with("\u{1b}[33m"));
    assert!(!line("org/web").contains('\u{1b}'), "{}", line("org/web"));
}

#[test]
fn json_has_everything_but_the_key() {
    let text = report(&snapshot()).json().unwrap();
    assert!(!text.contains("private"));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["at"], "2026-01-01T00:00:00Z");
    assert_eq!(
        json["svids"][1],
        serde_json::json!({
            "spiffe_id": "spiffe://example.org/api", "aliases": [], "hint": "internal", "serial": "02", "chain_length": 1,
            "not_before": "2025-12-31T23:00:00Z", "not_after": "2026-01-01T00:01:00Z", "expires_in_seconds": 60,
            "state": "expiring",
        })
    );
    assert_eq!(json["bundles"][0]["authorities"][0]["serial"], "ca");
    assert_eq!(json["bundles"][0]["authorities"][0]["subject"], "CN=example.org");
    assert_eq!(json["bundles"][1]["state"], "empty");
}

#[test]
fn only_usable_material_is_good() {
    let all = snapshot();
    assert!(!report(&all).is_good());
    let own = || bundle("example.org", &[(NOW - 10, NOW + 10)]);
    let good = IdentitySnapshot { svids: vec![all.svids[0].clone()], bundles: [own()].into(), ..snapshot() };
    assert!(report(&good).is_good());
    let verifier = IdentitySnapshot { svids: Vec::new(), ..good.clone() };
    assert!(report(&verifier).is_good());
    let future = svid("spiffe://example.org/new", "", 4, (NOW + 1, NOW + 2));
    assert!(!report(&IdentitySnapshot { svids: vec![future], ..good.clone() }).is_good());
    assert!(!report(&IdentitySnapshot { bundles: Default::default(), ..good }).is_good());
    // An authority that waits to be activated beside one that serves.
    let two = bundle("example.org", &[(NOW - 10, NOW + 10), (NOW + 1, NOW + 9)]);
    assert!(report(&IdentitySnapshot { bundles: [two].into(), ..snapshot_of_one(&all) }).is_good());
}

fn snapshot_of_one(all: &IdentitySnapshot) -> IdentitySnapshot {
    IdentitySnapshot { svids: vec![all.svids[0].clone()], ..all.clone() }
}

#[test]
fn what_is_left_out_is_listed_and_not_good() {
    let all = snapshot();
    let own = bundle("example.org", &[(NOW - 10, NOW + 10)]);
    let refusal = Refusal::new(RefusedItem::svid("spiffe://example.org/old"), "it expired");
    let refusals = vec![refusal];
    let report = report(&IdentitySnapshot { bundles: [own].into(), refusals, ..snapshot_of_one(&all) });
    assert!(!report.is_good());
    let text = anstream::adapter::strip_str(&report.tables()).to_string();
    let expected =
        "Left out\nWHAT                                  WHY\nthe SVID of spiffe://example.org/old  it expired\n";
    assert!(text.ends_with(expected), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert_eq!(json["refused"][0]["kind"], "svid");
}

#[test]
fn the_default_is_the_one_that_is_configured() {
    let default = DefaultIdentity::Hint("internal".to_owned());
    let report = Report::new(&snapshot(), &Naming::default(), &default, at(NOW));
    let aliases: Vec<_> = report.svids.iter().map(|svid| svid.aliases.concat()).collect();
    assert_eq!(aliases, ["", "default", ""]);
}

#[test]
fn nothing_is_said_in_words() {
    let text = anstream::adapter::strip_str(&report(&IdentitySnapshot::default()).tables()).to_string();
    assert_eq!(text, "X.509-SVIDs\nnone\n\nTrust bundles\nnone\n");
}
