//! What can be wrong with names, and how it is said.

use super::{super::*, problems::problems};
use crate::{
    identity::{FilePolicy, SystemRoots},
    secret::DefaultIdentity,
};

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

#[test]
fn files_that_clients_may_ask_for_are_opt_in() {
    let files = |text: &str| {
        let text = format!("source: {{workload_api: {{endpoint: 'unix:///a'}}}}\nsecrets: {{ files: {text} }}");
        let file = Some(File { path: "sds.yaml".into(), text });
        Config::new(&Sources { file, ..Sources::default() }).unwrap().secrets().files.clone()
    };
    assert!(!files("{}").is_open() && !files("{ allow: [], max: 5 }").is_open());
    let given = files("{ allow: [/etc/certs/, //run/./tls.pem], system_roots: auto, max: 5 }");
    let allow = vec!["/etc/certs".into(), "/run/tls.pem".into()];
    assert_eq!(given, FilePolicy { allow, system_roots: Some(SystemRoots::Probed), max: 5 });
    let roots = files("{ system_roots: /etc/roots.pem }").system_roots;
    assert_eq!(roots, Some(SystemRoots::File("/etc/roots.pem".into())));
}

#[test]
fn what_is_wrong_with_such_files_is_said() {
    let found = problems("secrets: { files: { allow: [etc, /, /a/../b, /a, /a/], system_roots: on, max: 0 } }");
    let expected = [
        "secrets.files.allow[0]: \"etc\" is not absolute; start it with `/`",
        "secrets.files.allow[1]: is every file there is; write the directories that clients may ask for",
        "secrets.files.allow[2]: \"/a/../b\" holds `..`; write the path without it",
        "secrets.files.allow[4]: is written twice; remove one of them",
        "secrets.files.system_roots: \"on\" is neither `auto` nor an absolute path; write one",
        "secrets.files.max: 0 is ",
    ];
    for line in expected {
        assert!(found.iter().any(|problem| problem.contains(line)), "{line} is not among {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn names_of_files_are_free_only_while_they_mean_nothing() {
    let table = "default_svid_name: 'file-cert:x', names: [{ name: 'file-root:system', bundle: own }, { name: a, bundle: own }]";
    assert_eq!(problems(&format!("secrets: {{ {table} }}")), [] as [&str; 0]);
    let found = problems(&format!("secrets: {{ {table}, files: {{ allow: [/a] }} }}"));
    let fix = "looks like the name of a file, which names itself with `secrets.files`; write another name";
    assert_eq!(
        found,
        [
            format!("sds.yaml:1:31: secrets.default_svid_name: {fix}"),
            format!("sds.yaml:1:62: secrets.names[0].name: {fix}")
        ]
    );
}

#[test]
fn tokens_need_a_source_that_has_them() {
    let with = |source: &str| {
        let text = format!(
            "source: {source}\njwt: {{ svids: [{{ audience: [payments] }}] }}\n\
             outputs: [{{ directory: /run/a, jwt_svids: [{{ file: t, audience: [payments] }}] }}]"
        );
        let file = Some(File { path: "sds.yaml".into(), text });
        match Config::new(&Sources { file, ..Sources::default() }) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    };
    let files = "files: { svids: [{ directory: /run/identity }] }";
    assert_eq!(with(&format!("{{ {files}, workload_api: {{ endpoint: 'unix:///a' }} }}")), [] as [&str; 0]);
    let fix = "cannot be had: `source.files` holds no tokens; add a `source.workload_api`, or remove this key";
    assert_eq!(
        with(&format!("{{ {files} }}")),
        [format!("sds.yaml:2:15: jwt.svids: {fix}"), format!("sds.yaml:3:43: outputs[0].jwt_svids: {fix}")]
    );
}
