//! Names, flavours and absence, as SPIRE has them and where we differ.

mod edges;
mod missing;

use std::time::Duration;

use super::{
    table::{Entry, Wanted, WantedContext},
    *,
};
use crate::{
    identity::{Certificate, FileSecret, Hint},
    xds::{Lookup, SECRET_TYPE_URL},
};

const A: &str = "spiffe://example.org/a";
const B: &str = "spiffe://example.org/b";
const AT: SystemTime = SystemTime::UNIX_EPOCH;

fn catalog(change: impl FnOnce(&mut Config)) -> SecretCatalog {
    let mut config = Config::default();
    change(&mut config);
    let origin = Arc::new(Origin { type_url: SECRET_TYPE_URL, control_plane: "test".to_owned() });
    SecretCatalog::new(config, origin)
}

fn table(entries: &[(&str, &str)]) -> NameTable {
    let template = |text: &str| text.parse::<Template>().unwrap();
    let entries = entries.iter().map(|(name, target)| {
        let wanted = match target.strip_prefix("bundle:") {
            Some(list) => Wanted::Context(WantedContext {
                bundles: list.split(',').map(template).collect(),
                ..WantedContext::default()
            }),
            None if target.starts_with("jwt") => Wanted::Jwt(template(target)),
            None => Wanted::Svid(template(target)),
        };
        Entry { name: template(name), wanted }
    });
    NameTable::new(entries.collect(), &Naming::default()).unwrap()
}

fn state() -> Arc<IdentitySnapshot> {
    let bundles: [(&str, &[&str]); 2] = [("example.org", &["root"]), ("partner.org", &["other root"])];
    let mut snapshot = fixture::snapshot(&[(A, "leaf a"), (B, "leaf b")], &bundles);
    Arc::make_mut(&mut snapshot.svids[1]).hint = Hint::new("internal");
    Arc::new(snapshot)
}

fn view(catalog: &SecretCatalog, flavour: Flavour) -> View {
    viewed(catalog, &catalog.contents(&state(), AT).unwrap(), flavour)
}

fn viewed(catalog: &SecretCatalog, contents: &Arc<Contents>, flavour: Flavour) -> View {
    let tokens = catalog.tokens(&JwtSnapshot::default(), AT, None);
    let files = catalog.files(&FileSnapshot::default(), None);
    catalog.view(Some(contents.clone()), flavour, &catalog.x509(contents, flavour).unwrap(), &tokens, &files)
}

/// The name whose content this is, or how it is missing.
fn meaning(set: &ResourceSet, name: &str) -> String {
    match set.lookup(name) {
        Lookup::Available(resource) => {
            let same = set.listed().find(|listed| listed.version() == resource.version());
            same.map_or_else(|| "its own".to_owned(), |listed| listed.name().to_string())
        }
        Lookup::KeptBack(_) => "kept back".to_owned(),
        Lookup::Withheld => "withheld".to_owned(),
        Lookup::Absent => "absent".to_owned(),
        Lookup::Impossible => "impossible".to_owned(),
    }
}

#[test]
fn every_name_shares_the_content_of_what_it_stands_for() {
    let names = [("sds://a.b", "default"), ("b", "hint:internal"), ("ca", "bundle:own"), ("later", "hint:later")];
    let catalog = catalog(|config| config.names = table(&names));
    let view = view(&catalog, Flavour::Spiffe);
    let content = |name: &str| match view.set().lookup(name) {
        Lookup::Available(resource) => resource.content().clone(),
        other => panic!("{name}: {other:?}"),
    };
    for name in ["default", "sds://a.b", "sds://a%2Eb", "spiffe://example%2Eorg/a"] {
        assert!(Arc::ptr_eq(&content(name), &content(A)), "{name}");
    }
    assert!(Arc::ptr_eq(&content("b"), &content(B)));
    assert_eq!(meaning(view.set(), "ca"), "spiffe://example.org");
    assert_eq!(meaning(view.set(), "later"), "absent");
    assert_eq!(meaning(view.set(), "sds://unknown"), "impossible");
}

#[test]
fn a_chosen_set_of_domains_is_neither_one_nor_all() {
    let names = [("some", "bundle:own,partner.org"), ("more", "bundle:own,later.org"), ("none", "bundle:later.org")];
    let catalog = catalog(|config| config.names = table(&names));
    let spiffe = view(&catalog, Flavour::Spiffe);
    assert_eq!(meaning(spiffe.set(), "more"), "spiffe://example.org", "what is not known is not trusted");
    assert_eq!(meaning(spiffe.set(), "some"), "its own");
    assert_eq!(meaning(spiffe.set(), "none"), "absent");
    let plain = view(&catalog, Flavour::Plain);
    assert_eq!(["some", "more", "none"].map(|name| meaning(plain.set(), name)), ["impossible", "impossible", "absent"]);
}

#[test]
fn the_default_identity_is_the_one_that_was_chosen() {
    let of = |choice: DefaultIdentity| {
        let catalog = catalog(|config| config.default_identity = choice);
        let contents = catalog.contents(&state(), AT).unwrap();
        let view = viewed(&catalog, &contents, Flavour::Spiffe);
        (meaning(view.set(), "default"), contents.notes().len())
    };
    assert_eq!(of(DefaultIdentity::First), (A.to_owned(), 0));
    assert_eq!(of(DefaultIdentity::Hint("internal".into())), (B.to_owned(), 0));
    assert_eq!(of(DefaultIdentity::Hint("external".into())), ("absent".to_owned(), 1));
}

#[test]
fn an_expired_certificate_is_withheld_under_all_its_names() {
    let catalog = catalog(|config| config.names = table(&[("sds://x", "default")]));
    let late = AT + fixture::NOT_AFTER + Duration::from_secs(1);
    let view = viewed(&catalog, &catalog.contents(&state(), late).unwrap(), Flavour::Spiffe);
    for name in [A, "default", "sds://x", "spiffe://example%2Eorg/a"] {
        assert_eq!(meaning(view.set(), name), "withheld", "{name}");
    }
}

#[test]
fn only_allowed_names_and_those_of_the_table_are_answered() {
    let catalog = catalog(|config| {
        config.names = table(&[("sds://x", "default"), ("sds://later", "hint:later")]);
        config.allowed = Some(vec!["ROOTCA".parse().unwrap(), "spiffe://example.org/a*".parse().unwrap()]);
    });
    let view = view(&catalog, Flavour::Spiffe);
    let meaning = |name: &str| meaning(view.set(), name);
    assert_eq!(meaning(A), A);
    assert_eq!(meaning("spiffe://example%2Eorg/a"), A);
    assert_eq!(meaning("spiffe://example.org/another"), "absent");
    assert_eq!(meaning("sds://x"), A);
    assert_eq!(meaning("sds://later"), "absent");
    for name in [B, "default", "ALL", "spiffe://example.org", "spiffe://example.org/unknown"] {
        assert_eq!(meaning(name), "impossible", "{name}");
    }
}

#[test]
fn nodes_with_one_name_for_one_thing_share_its_resource() {
    let names = [
        ("sds://${node.id}", "hint:internal"),
        ("wait-${node.id}", "hint:later"),
        ("no-${node.id}", "spiffe://foreign.org/x"),
    ];
    let names = table(&names);
    let catalog = catalog(|config| config.names = names.clone());
    let view = view(&catalog, Flavour::Spiffe);
    let node = |id: &str| names.bind(&Node { id: id.to_owned(), ..Node::default() }, &Naming::default());
    let set = |id: &str| view.for_node(&node(id));
    let found = |set: &ResourceSet, name: &str| match set.lookup(name) {
        Lookup::Available(resource) => resource.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert!(Arc::ptr_eq(&found(&set("n1"), "sds://n1"), &found(&set("n1"), "sds://n1")));
    assert!(Arc::ptr_eq(found(&set("n1"), "sds://n1").content(), found(&set("n2"), "sds://n2").content()));
    let first = set("n1");
    assert_eq!(
        ["sds://n2", "wait-n1", "no-n1", A].map(|name| meaning(&first, name)),
        ["impossible", "absent", "impossible", A]
    );
    assert!(Arc::ptr_eq(&set("not/a/segment"), view.set()), "nothing of its own");
    let many: Vec<_> = (0..3000).map(|at| set(&format!("n{at}"))).collect();
    assert_eq!(meaning(many.last().unwrap(), "sds://n2999"), B, "beyond what is kept it works as well");
    assert!((1..=1024).contains(&view.kept()), "{} names of strangers are kept", view.kept());
}

#[test]
fn views_are_the_same_when_no_client_could_tell_them_apart() {
    let catalog = catalog(|_| ());
    let of =
        |snapshot: &Arc<IdentitySnapshot>| viewed(&catalog, &catalog.contents(snapshot, AT).unwrap(), Flavour::Spiffe);
    let one = state();
    assert!(of(&one).says_the_same_as(&of(&one)));
    // A hint is in no name that all share, but names of nodes may stand for it.
    let mut hinted = (*one).clone();
    Arc::make_mut(&mut hinted.svids[0]).hint = crate::identity::Hint::new("another");
    let hinted = of(&Arc::new(hinted));
    assert_eq!(hinted.set().state(), of(&one).set().state());
    assert!(!hinted.says_the_same_as(&of(&one)));
    // What has expired is in both states.
    let late = catalog.contents(&one, AT + 10 * fixture::NOT_AFTER).unwrap();
    assert!(!viewed(&catalog, &late, Flavour::Spiffe).says_the_same_as(&of(&one)));
}

#[test]
fn names_stand_for_configured_tokens_only() {
    let names = table(&[("sds://token", "jwt-bearer:payments"), ("of-${node.id}", "jwt:${node.id}")]);
    let request = |audience: &str| JwtRequest {
        subject: crate::identity::JwtSubject::Default,
        audience: [audience.to_owned()].into(),
    };
    let catalog = catalog(|config| {
        config.names = names.clone();
        config.jwt_svids = [request("payments")].into();
    });
    let contents = catalog.contents(&state(), AT).unwrap();
    let x509 = catalog.x509(&contents, Flavour::Spiffe).unwrap();
    let seen = |tokens: JwtSnapshot, node: &str, name: &str| {
        let tokens = catalog.tokens(&tokens, AT, None);
        let files = catalog.files(&FileSnapshot::default(), None);
        let view = catalog.view(Some(contents.clone()), Flavour::Spiffe, &x509, &tokens, &files);
        let node = Node { id: node.to_owned(), ..Node::default() };
        meaning(&view.for_node(&names.bind(&node, &Naming::default())), name)
    };
    let gone = || JwtSnapshot { svids: [(request("payments"), JwtState::Gone(AT))].into(), ..JwtSnapshot::default() };
    assert_eq!(seen(JwtSnapshot::default(), "payments", "sds://token"), "withheld");
    assert_eq!(seen(JwtSnapshot::default(), "payments", "of-payments"), "withheld");
    assert_eq!(seen(gone(), "payments", "of-payments"), "jwt:payments");
    assert_eq!(seen(gone(), "billing", "of-billing"), "impossible", "no client makes us mint a token");
}

const ROOTS: &str = "file-root:/etc/certs/ca.pem";
const PAIR: &str = "file-cert:/etc/certs/tls.crt~/etc/keys/tls.key";

fn with_files() -> SecretCatalog {
    catalog(|config| {
        config.files.allow = vec!["/etc/certs".into(), "/etc/keys/tls.key".into()];
        config.files.system_roots = None;
    })
}

/// Roots with this label, and nothing else, were read.
fn read(roots: &str) -> FileSnapshot {
    let secret = FileSecret::Roots(vec![Certificate::from_der(roots.as_bytes())]);
    let request = FileRequest::Roots("/etc/certs/ca.pem".into());
    FileSnapshot { secrets: [(request, Arc::new(secret))].into(), ..FileSnapshot::default() }
}

#[test]
fn a_file_that_may_be_asked_for_is_never_denied() {
    let catalog = with_files();
    let contents = catalog.contents(&state(), AT).unwrap();
    let tokens = catalog.tokens(&JwtSnapshot::default(), AT, None);
    let x509 = catalog.x509(&contents, Flavour::Spiffe).unwrap();
    for (x509, contents) in [(&x509, Some(contents.clone())), (&catalog.nothing(), None)] {
        let view = |snapshot: &FileSnapshot| {
            catalog.view(contents.clone(), Flavour::Spiffe, x509, &tokens, &catalog.files(snapshot, None))
        };
        let (before, after) = (view(&FileSnapshot::default()), view(&read("root")));
        for name in [ROOTS, PAIR, "file-root:/etc/certs/ca%2Epem", "file-root:/etc/keys/tls.key"] {
            assert_eq!(meaning(before.set(), name), "withheld", "{name}");
        }
        assert_eq!(meaning(after.set(), ROOTS), "its own");
        assert_eq!(meaning(after.set(), "file-root:/etc/certs/ca%2Epem"), "its own");
        assert_eq!(meaning(after.set(), PAIR), "withheld");
        assert_eq!(after.set().listed().filter(|listed| listed.name().as_str().starts_with("file")).count(), 0);
    }
    let set = viewed(&catalog, &contents, Flavour::Plain);
    for name in [
        "file-root:system",
        "file-root:/etc/keys/tls.crt",
        "file-root:/etc/certs-too/ca.pem",
        "file-root:/etc/certs/../shadow",
        "file-cert:/etc/certs/tls.crt~/etc/shadow",
        "file-cert:/etc/certs/tls.crt",
    ] {
        assert_eq!(meaning(set.set(), name), "impossible", "{name}");
    }
    let off = SecretCatalog::new(Config::default(), Arc::new(Origin { type_url: "", control_plane: String::new() }));
    assert_eq!(meaning(&ResourceSet::from(off.files(&read("root"), None)), ROOTS), "impossible");
}

#[test]
fn files_are_there_before_anything_else_is() {
    let catalog = with_files();
    let view = catalog.pending(&catalog.files(&read("root"), None));
    assert!(!view.set().is_known());
    assert_eq!([ROOTS, PAIR, A].map(|name| meaning(view.set(), name)), ["its own", "withheld", "withheld"]);
    let empty = catalog.pending(&catalog.files(&FileSnapshot::default(), None));
    assert!(!empty.says_the_same_as(&view));
}

#[test]
fn a_file_is_encoded_once_until_it_changes() {
    let catalog = with_files();
    let first = catalog.files(&read("root"), None);
    let [same, other] = ["root", "other"].map(|roots| catalog.files(&read(roots), Some(&first)));
    let content = |part: &Part| part.resource(ROOTS).unwrap().clone();
    assert!(Arc::ptr_eq(&content(&first), &content(&same)));
    assert_ne!(content(&first).version(), content(&other).version());
}
