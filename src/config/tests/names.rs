//! What can be wrong with names, and how it is said.

use super::{super::*, problems::problems};
use crate::secret::DefaultIdentity;

#[test]
fn a_table_and_everything_wrong_with_one() {
    let table = "secrets:\n  names:
    - { name: default, svid: default }
    - { name: 'sds://a', svid: 'spiffe://example.org/${node.metadata.app}' }
    - { name: 'sds://a', bundle: own }
    - { name: b, svid: 'sds://a' }
    - { name: 'x-${node.name}', svid: default }
    - { name: c, svid: default, flavour: plain }
    - { name: d, bundle: [own, 'no domain'] }
    - { name: e, bundle: own, match_subject_alt_names: [{ dns: { exact: e }, uri: { exact: e } }, { uri: {} }] }
    - { svid: default, bundle: own }
    - { name: f }
";
    let found = problems(table);
    let expected = [
        "sds.yaml:7:15: secrets.names[4].name: the variable \"node.name\" is not known; known are ${node.id}, \
         ${node.cluster} and ${node.metadata.KEY}",
        "sds.yaml:8:42: secrets.names[5].flavour: is about trust; it goes with `bundle` only",
        "sds.yaml:10:57: secrets.names[7].match_subject_alt_names[0]: has more than one of `uri`, `dns`, `email`, \
         `ip_address`; keep one",
        "sds.yaml:10:106: secrets.names[7].match_subject_alt_names[1].uri: has none of `exact`, `prefix`, `suffix`, \
         `contains`, `regex`; write one",
        "sds.yaml:11:7: secrets.names[8]: has no `name`; write the name that Envoy asks for",
        "sds.yaml:11:7: secrets.names[8]: has more than one of `svid`, `bundle` and `jwt`; make them entries with \
         names of their own",
        "sds.yaml:12:7: secrets.names[9]: has none of `svid`, `bundle` and `jwt`; write what the name stands for",
        "sds.yaml:3:15: secrets.names[0].name: is the value of `default_svid_name`; choose another name",
        "sds.yaml:5:15: secrets.names[2].name: is the name of the entry at sds.yaml:4:15 too; remove one of them",
        "sds.yaml:6:24: secrets.names[3].svid: is the name of the entry at sds.yaml:4:15; a name stands for an identity \
         or a trust domain, not for another name",
        "sds.yaml:9:32: secrets.names[6].bundle[1]: is no trust domain; write such as example.org, or `own`, or `all`",
    ];
    for line in expected {
        assert!(found.iter().any(|problem| problem == line), "{line} is not among {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn the_default_identity_is_chosen_in_one_way() {
    let wrong = "secrets: { default_identity: { spiffe_id: example.org, hint: '' } }";
    let found = problems(wrong);
    assert_eq!(found.len(), 3, "{found:#?}");
    let config = |text: &str| {
        let text =
            format!("source: {{workload_api: {{endpoint: 'unix:///a'}}}}\nsecrets: {{ default_identity: {text} }}");
        let file = Some(File { path: "sds.yaml".into(), text });
        Config::new(&Sources { file, ..Sources::default() }).unwrap().secrets().default_identity.clone()
    };
    assert_eq!(config("~"), DefaultIdentity::First);
    assert_eq!(config("{ hint: internal }"), DefaultIdentity::Hint("internal".into()));
    assert_eq!(config("{ pattern: 'spiffe://**' }"), DefaultIdentity::Pattern("spiffe://**".parse().unwrap()));
}

#[test]
fn what_does_not_fit_is_said_once() {
    let found = problems("secrets: { names: [{ name: a, bundle: [own, 5] }], allowed_names: [true], crls: some }");
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn a_name_for_a_token_needs_the_token() {
    let table = |audience: &str| {
        let names = "secrets: { names: [{ name: 'sds://token', jwt: 'jwt-bearer:payments' }, { name: x, jwt: y }] }";
        problems(&format!("jwt: {{ svids: [{{ audience: [{audience}] }}] }}\n{names}"))
    };
    assert_eq!(table("payments").len(), 1, "only the other is wrong");
    let names = "secrets: { names: [{ name: 'sds://token', jwt: 'jwt-bearer:payments' }] }";
    let found = problems(&format!("jwt: {{ svids: [{{ audience: [billing] }}] }}\n{names}"));
    let message = "\"sds://token\" stands for a token that `jwt.svids` does not have; add it there";
    assert_eq!(found, [format!("sds.yaml:2:19: secrets.names: {message}")]);
}
