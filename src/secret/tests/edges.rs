//! Where one thing ends and another begins: versions of Envoy, ends of lives, equal views, names that are not allowed.

use envoy_types::pb::envoy::{
    config::core::v3::data_source::Specifier,
    extensions::transport_sockets::tls::v3::{Secret, secret},
};
use prost::Message as _;
use zeroize::Zeroizing;

use super::*;
use crate::{
    identity::{JwtSubject, JwtSvid, SpiffeId, Token, Validity},
    xds::Content,
};

const TOKEN: &str = "head.claims.signature";
const END: SystemTime = SystemTime::UNIX_EPOCH;

fn request() -> JwtRequest {
    JwtRequest { subject: JwtSubject::Default, audience: ["payments".to_owned()].into() }
}

/// A token whose life is over at the end of `fixture::NOT_AFTER`.
fn token() -> JwtState {
    let validity = Validity { not_before: END, not_after: END + fixture::NOT_AFTER };
    JwtState::Valid(Arc::new(JwtSvid {
        id: SpiffeId::new(A).unwrap(),
        audience: request().audience,
        validity,
        hint: None,
        token: Token::new(Zeroizing::new(TOKEN.to_owned())),
    }))
}

fn generic(content: &Content) -> String {
    let Some(secret::Type::GenericSecret(generic)) = Secret::decode(content.body()).unwrap().r#type else {
        panic!("not a generic secret")
    };
    match generic.secret.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What the two names of the token hold at a moment.
fn shown(state: JwtState, now: SystemTime) -> [String; 2] {
    let catalog = catalog(|config| config.jwt_svids = [request()].into());
    let snapshot = JwtSnapshot { svids: [(request(), state)].into(), ..JwtSnapshot::default() };
    let tokens = catalog.tokens(&snapshot, now, None);
    ["jwt:payments", "jwt-bearer:payments"].map(|name| generic(tokens.resource(name).unwrap().content()))
}

#[test]
fn a_token_is_over_at_its_very_end() {
    let end = END + fixture::NOT_AFTER;
    let there = [TOKEN.to_owned(), format!("Bearer {TOKEN}")];
    assert_eq!(shown(token(), end - Duration::from_nanos(1)), there);
    assert_eq!(shown(token(), end), ["", ""]);
}

/// "Bearer " alone would be a header, which some servers take for a token of nobody.
#[test]
fn a_token_that_is_gone_is_empty_in_both_forms() {
    assert_eq!(shown(JwtState::Gone(END), END), ["", ""]);
}

/// A certificate is still good at the last moment of its life.
#[test]
fn a_certificate_is_over_after_its_very_end() {
    let catalog = catalog(|_| {});
    let at =
        |now| meaning(viewed(&catalog, &catalog.contents(&state(), now).unwrap(), Flavour::Plain).set(), "default");
    assert_eq!(at(END + fixture::NOT_AFTER), A);
    assert_eq!(at(END + fixture::NOT_AFTER + Duration::from_nanos(1)), "withheld");
}

#[test]
fn the_validator_is_for_envoys_that_have_it() {
    let flavour = |major, minor| {
        let version = Some(EnvoyVersion { major, minor });
        Flavour::of(&Node { version, ..Node::default() }, &Config::default())
    };
    for old in [(0, 99), (1, 0), (1, 17)] {
        assert_eq!(flavour(old.0, old.1), Flavour::Plain, "{old:?}");
    }
    for new in [(1, 18), (1, 19), (1, 40), (2, 0)] {
        assert_eq!(flavour(new.0, new.1), Flavour::Spiffe, "{new:?}");
    }
    assert_eq!(Flavour::of(&Node::default(), &Config::default()), Flavour::Spiffe, "who tells no version");
}

/// An expired certificate is withheld; under a name that is not allowed it is as impossible as before.
#[test]
fn what_is_withheld_is_not_allowed_either() {
    let catalog = catalog(|config| config.allowed = Some(vec!["default".parse().unwrap()]));
    let late = END + fixture::NOT_AFTER + Duration::from_secs(1);
    let view = viewed(&catalog, &catalog.contents(&state(), late).unwrap(), Flavour::Spiffe);
    assert_eq!([A, B, "default"].map(|name| meaning(view.set(), name)), ["impossible", "impossible", "withheld"]);
}

/// Streams are woken by what their clients could tell apart, and by nothing else.
#[test]
fn views_are_equal_when_no_client_could_tell_them_apart() {
    let catalog = catalog(|config| config.jwt_svids = [request()].into());
    let of = |snapshot: &Arc<IdentitySnapshot>, state: JwtState| {
        let contents = catalog.contents(snapshot, AT).unwrap();
        let snapshot = JwtSnapshot { svids: [(request(), state)].into(), ..JwtSnapshot::default() };
        let tokens = catalog.tokens(&snapshot, AT, None);
        let files = catalog.files(&FileSnapshot::default(), None);
        let x509 = catalog.x509(&contents, Flavour::Spiffe).unwrap();
        catalog.view(Some(contents), Flavour::Spiffe, &x509, &tokens, &files)
    };
    let usual = of(&state(), JwtState::Pending);
    assert!(usual.says_the_same_as(&of(&state(), JwtState::Pending)));
    assert!(!usual.says_the_same_as(&of(&state(), token())), "another token beside the same certificates");
    // Nobody's names change, but those that stand for a hint do.
    let mut hinted = state();
    let svids = &mut Arc::make_mut(&mut hinted).svids;
    Arc::make_mut(&mut svids[1]).hint = Hint::new("external");
    let hinted = of(&hinted, JwtState::Pending);
    assert_eq!(usual.set().state(), hinted.set().state());
    assert!(!usual.says_the_same_as(&hinted), "another hint");
}
