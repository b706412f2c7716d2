use prost_types::{Struct, Value, value::Kind};

use super::*;

fn template(text: &str) -> Template {
    text.parse().unwrap()
}

fn svid(name: &str, svid: &str) -> Entry {
    Entry { name: template(name), wanted: Wanted::Svid(template(svid)) }
}

fn bundle(name: &str, bundles: &[&str], change: impl FnOnce(&mut WantedContext)) -> Entry {
    let mut context =
        WantedContext { bundles: bundles.iter().map(|text| template(text)).collect(), ..WantedContext::default() };
    change(&mut context);
    Entry { name: template(name), wanted: Wanted::Context(context) }
}

fn san(kind: SanKind, rule: SanRule, value: &str) -> SubjectAltName<Template> {
    SubjectAltName { kind, rule, value: template(value) }
}

/// "entry field: message" of each fault.
fn faults(entries: Vec<Entry>) -> Vec<String> {
    let faults = NameTable::new(entries, &Naming::default()).unwrap_err();
    faults.iter().map(|fault| format!("{} {:?}: {}", fault.entry, fault.field, fault.error)).collect()
}

fn node(metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    Node { id: "n1".into(), metadata: Some(Struct { fields }), ..Node::default() }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let found = faults(vec![
        svid("default", "default"),
        svid("sds://a", "nonsense"),
        svid("sds://a", "spiffe://example.org/a"),
        svid("loop", "sds://a"),
        svid("itself", "itself"),
        svid("spiffe://example.org/${node.id}", "default"),
        svid("", "hint:"),
        svid("a b", "spiffe://example.org"),
        bundle("none", &[], |_| {}),
        bundle("mixed", &["all", "own", "own", "not a domain"], |context| context.flavour = Some(Flavour::Plain)),
        bundle("ALL", &["all"], |context| context.flavour = Some(Flavour::Plain)),
    ]);
    let expected = [
        "0 Name: is the value of `default_svid_name`; choose another name",
        "1 Svid: is no identity; write a SPIFFE ID, `default`, or `hint:` and a hint",
        "2 Name: is the name of entry 1 too; remove one of them",
        "3 Svid: is the name of entry 1; a name stands for an identity or a trust domain, not for another name",
        "4 Svid: is the name of entry 4; a name stands for an identity or a trust domain, not for another name",
        "5 Name: looks like a SPIFFE ID, which names itself; write another name",
        "6 Name: is empty; write the name that Envoy asks for",
        "6 Svid: is no identity; write a SPIFFE ID, `default`, or `hint:` and a hint",
        "7 Name: holds white space or control characters; write another name",
        "7 Svid: is no identity; write a SPIFFE ID, `default`, or `hint:` and a hint",
        "8 Bundle(None): is empty; write `own`, `all` or trust domains",
        "9 Bundle(Some(0)): `all` is every trust domain already; write it alone",
        "9 Bundle(Some(2)): is written twice; remove one",
        "9 Bundle(Some(3)): is no trust domain; write such as example.org, or `own`, or `all`",
        "9 Bundle(None): is more than one trust domain, which the plain flavour cannot keep apart; write one, or \
         `flavour: spiffe`",
        "10 Name: is the value of `default_all_bundles_name`; choose another name",
        "10 Bundle(None): is more than one trust domain, which the plain flavour cannot keep apart; write one, or \
         `flavour: spiffe`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn matchers_that_would_let_everyone_in_are_refused() {
    let found = faults(vec![bundle("ctx", &["own"], |context| {
        context.subject_alt_names = vec![
            san(SanKind::Dns, SanRule::Exact, "web"),
            san(SanKind::Uri, SanRule::Prefix, ""),
            san(SanKind::Uri, SanRule::Regex, "("),
            san(SanKind::Uri, SanRule::Regex, "x${node.id}"),
            san(SanKind::Uri, SanRule::Exact, "${node.id}"),
        ];
    })]);
    let expected = [
        "0 SubjectAltName(0): is looked at by the plain flavour only; write `flavour: plain`, or match a `uri`",
        "0 SubjectAltName(1): is empty and would match every name; write what to compare with",
        "0 SubjectAltName(2): is no regular expression that Envoy takes (RE2, whole name): a ( is not closed",
        "0 SubjectAltName(3): holds a variable, which a regular expression cannot; write another rule",
    ];
    assert_eq!(found, expected);
}

#[test]
fn templates_are_bound_to_a_node() {
    let entries = vec![
        svid("sds://fixed", "default"),
        svid("sds://${node.metadata.app}", "spiffe://example.org/${node.metadata.app}"),
        svid("sds://other", "hint:${node.metadata.app}"),
        bundle("${node.id}-ca", &["own", "${node.metadata.td}"], |_| {}),
    ];
    let table = NameTable::new(entries, &Naming::default()).unwrap();
    assert_eq!((table.fixed().len(), table.templates()), (1, 3));
    let bound = table.bind(&node(&[("app", "web"), ("td", "partner.org")]), &Naming::default());
    assert!(bound.unusable.is_empty(), "{:?}", bound.unusable);
    let names: Vec<_> = bound.names.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sds://other", "sds://web", "n1-ca"], "names that are the same for all come first");
    let id = crate::identity::SpiffeId::new("spiffe://example.org/web").unwrap();
    assert_eq!(bound.names[1].1, Target::Svid(SvidChoice::Id(id)));
    assert_eq!(bound.names[0].1, Target::Svid(SvidChoice::Hint("web".into())));
}

#[test]
fn what_a_node_cannot_fill_means_nothing_for_it() {
    let entries = vec![
        svid("sds://fixed", "default"),
        svid("sds://${node.metadata.app}", "default"),
        svid("${node.metadata.app}", "default"),
        svid("second-${node.id}", "spiffe://example.org/${node.metadata.app}"),
        bundle("td", &["${node.metadata.app}"], |_| {}),
    ];
    let table = NameTable::new(entries, &Naming::default()).unwrap();
    let unusable = |app: &[(&str, &str)]| -> Vec<String> {
        let bound = table.bind(&node(app), &Naming::default());
        bound.unusable.iter().map(|it| format!("{} {}", it.template, it.reason)).collect()
    };
    let nothing = |at: usize| format!("{at} the node has no text for ${{node.metadata.app}}");
    assert_eq!(unusable(&[]), [0, 1, 2, 3].map(nothing));
    assert_eq!(unusable(&[("app", "../x")]).len(), 4);
    let taken =
        |at: usize, name: &str| format!("{at} the node's values make {name:?}, a name that has another meaning");
    assert_eq!(unusable(&[("app", "fixed")]), [taken(1, "sds://fixed")]);
    assert_eq!(unusable(&[("app", "ROOTCA")])[1], taken(2, "ROOTCA"), "the names that always mean something win");
    assert_eq!(unusable(&[("app", "Upper")]).len(), 1, "no trust domain");
}

#[test]
fn a_name_for_all_beats_one_for_a_node() {
    let entries = vec![svid("sds://${node.id}", "default"), svid("sds://n1", "hint:${node.id}")];
    let bound = NameTable::new(entries, &Naming::default()).unwrap().bind(&node(&[]), &Naming::default());
    assert_eq!(bound.names, [("sds://n1".to_owned(), Target::Svid(SvidChoice::Hint("n1".into())))]);
    assert_eq!(bound.unusable.len(), 1);
}

#[test]
fn what_an_older_envoy_rejects_is_left_out_for_it() {
    let entries = vec![bundle("ca", &["own"], |context| context.suppress_client_ca_list = true)];
    let table = NameTable::new(entries, &Naming::default()).unwrap();
    let suppresses = |version: Option<u32>| {
        let version = version.map(|minor| crate::xds::EnvoyVersion { major: 1, minor });
        let bound = table.bind(&Node { version, ..Node::default() }, &Naming::default());
        matches!(&bound.names[0].1, Target::Context(context) if context.suppress_client_ca_list)
    };
    assert_eq!([Some(38), Some(39), None].map(suppresses), [false, true, true]);
}
