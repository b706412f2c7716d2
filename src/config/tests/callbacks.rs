//! Callbacks and file outputs: what reaches them, and every complaint.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::*;
use crate::{
    hooks::Action,
    identity::{Hint, JwtSubject},
    output::Selection,
};

fn problems(yaml: &str) -> Vec<String> {
    let problems = load(&format!("{ENDPOINT}{yaml}")).expect_err("accepted");
    // Places are tested elsewhere.
    problems.iter().map(|problem| problem.to_string().splitn(4, ':').last().unwrap().trim().to_owned()).collect()
}

#[test]
fn every_key_of_a_callback_reaches_it() {
    let yaml = r#"
hooks:
  - name: reload
    events: [output_written, svid_renewed]
    exec: {command: [/bin/echo, "a b", ""]}
    timeout: 5s
    attempts: 2
    backoff: {initial: 20ms, max: 30ms}
  - events: [all]
    signal: {pid_file: /run/app.pid, signal: SIGUSR2, process: app}
  - events: [svid_expired]
    webhook: {url: "https://example.org:8443/a?b=c", socket: /run/a.sock, key_file: /etc/key, ca_file: /etc/ca, queue: 7}
"#;
    let config = load(&format!("{ENDPOINT}{yaml}")).unwrap();
    let [exec, signal, webhook] = config.hooks() else { panic!("{:?}", config.hooks()) };
    assert_eq!((exec.name.as_str(), exec.timeout, exec.attempts), ("reload", Duration::from_secs(5), 2));
    assert_eq!((exec.backoff.initial, exec.backoff.max), (Duration::from_millis(20), Duration::from_millis(30)));
    assert_eq!(exec.events, ["output_written".to_owned(), "svid_renewed".to_owned()].into());
    let Action::Exec(program) = &exec.action else { panic!("{exec:?}") };
    assert_eq!(
        (program.program.as_str(), program.arguments.as_slice()),
        ("/bin/echo", &["a b".to_owned(), String::new()][..])
    );

    assert_eq!((signal.name.as_str(), signal.timeout, signal.attempts), ("hooks[1]", Duration::from_secs(30), 5));
    assert_eq!((signal.backoff.initial, signal.backoff.max), (Duration::from_secs(1), Duration::from_secs(60)));
    assert!(signal.events.len() > 15 && !signal.events.contains("all"), "{:?}", signal.events);
    let Action::Signal(process) = &signal.action else { panic!("{signal:?}") };
    assert_eq!((process.signal, process.process.as_deref()), (Signal::SIGUSR2, Some("app")));

    let Action::Webhook(receiver) = &webhook.action else { panic!("{webhook:?}") };
    assert_eq!((receiver.url.to_string().as_str(), receiver.queue), ("https://example.org:8443/a?b=c", 7));
    let paths = [&receiver.socket, &receiver.key_file, &receiver.ca_file].map(|path| path.clone().unwrap());
    assert_eq!(paths, ["/run/a.sock", "/etc/key", "/etc/ca"].map(std::path::PathBuf::from));
}

#[test]
fn every_key_of_an_output_reaches_it_and_its_tokens_are_fetched() {
    let yaml = r#"
outputs:
  - directory: /run/a
    hint: internal
    svid_file: ""
    key_file: k
    bundle_file: b
    combined_file: c
    jwt_bundle_file: j
    jwt_svids: [{file: t, audience: [x, y], id: "spiffe://example.org/web"}]
    add_intermediates_to_bundle: true
    include_federated_domains: true
    cert_mode: "0440"
    key_mode: "0640"
    owner: root
    group: 7
  - directory: /run/b
"#;
    let config = load(&format!("{ENDPOINT}{yaml}")).unwrap();
    let [all, default] = config.outputs() else { panic!("{:?}", config.outputs()) };
    assert_eq!(*default, output::Config::new("/run/b".into()));
    let file = &all.jwt_svids[0];
    assert!(matches!(&file.request.subject, JwtSubject::Id(id) if id.path() == "/web"));
    let expected = output::Config {
        identity: Selection::Hint(Hint::new("internal").unwrap()),
        svid_file: None,
        key_file: Some("k".to_owned()),
        bundle_file: Some("b".to_owned()),
        combined_file: Some("c".to_owned()),
        jwt_bundle_file: Some("j".to_owned()),
        jwt_svids: vec![output::JwtFile { file: "t".to_owned(), request: file.request.clone() }],
        add_intermediates_to_bundle: true,
        include_federated_domains: true,
        cert_mode: 0o440,
        key_mode: 0o640,
        owner: Some(0),
        group: Some(7),
        ..output::Config::new("/run/a".into())
    };
    assert_eq!(*all, expected);
    assert_eq!(config.jwt().svids, [file.request.clone()].into(), "fetched");
    assert!(config.jwt().keys && config.secrets().jwt_svids.is_empty(), "and not served");
}

#[test]
fn wrong_callbacks_are_refused() {
    let yaml = r#"
hooks:
  - events: [svid_renewd]
    exec: {command: [/bin/true]}
  - events: []
    exec: {command: [/bin/true]}
  - events: [all]
  - events: [all]
    exec: {command: [/bin/true]}
    signal: {pid_file: /a}
  - events: [all]
    exec: {command: []}
  - events: [all]
    exec: {command: [nginx]}
  - events: [all]
    signal: {signal: SIGKILL}
  - events: [all]
    signal: {pid_file: a, process: a-name-longer-than-15}
  - events: [all]
    webhook: {url: "ftp://a/b"}
  - events: [all]
    webhook: {url: "http://user:secret@a/b", ca_file: /ca}
  - name: a
    events: [all]
    exec: {command: [/bin/true]}
    backoff: {initial: 10s, max: 1s}
  - name: a
    events: [all]
    exec: {command: [/bin/true]}
    timeout: 1ms
    attempts: 0
"#;
    let problems = problems(yaml);
    assert!(!problems.iter().any(|problem| problem.contains("secret")), "{problems:#?}");
    assert_eq!(
        problems,
        [
            r#"hooks[0].events[0]: "svid_renewd" is not known; did you mean `svid_renewed`?"#,
            r#"hooks[1].events: has no event; write which it shall be told, or [all]"#,
            r#"hooks[2]: has none of `exec`, `signal` and `webhook`; write what it shall do"#,
            r#"hooks[3]: has more than one of `exec`, `signal` and `webhook`; make them items of the list"#,
            r#"hooks[4].exec.command: is empty; write the program and its arguments, as a list"#,
            r#"hooks[5].exec.command[0]: "nginx" is not absolute; start it with `/`"#,
            r#"hooks[6].signal.signal: "SIGKILL" is not known; write one of SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGALRM, SIGCONT, SIGWINCH"#,
            r#"hooks[7].signal.pid_file: "a" is not absolute; start it with `/`"#,
            r#"hooks[7].signal.process: "a-name-longer-than-15" is not 1 to 15 bytes long; write it as `ps -o comm` shows it"#,
            r#"hooks[8].webhook.url: "ftp://a/b" is neither http nor https; write such as https://events.example.org/spiffe"#,
            r#"hooks[9].webhook.url: holds a user name or password, which logs would show; sign with `key_file` instead"#,
            r#"hooks[10].backoff.max: is shorter than the first delay; raise it, or lower `initial`"#,
            r#"hooks[11].name: is the same as that of hooks[10]; remove one of them"#,
            r#"hooks[11].timeout: 1ms is out of range; allowed are 100ms to 10m"#,
            r#"hooks[11].attempts: 0 is out of range; allowed are 1 to 100"#,
        ]
    );
}

#[test]
fn wrong_outputs_are_refused() {
    let yaml = r#"
outputs:
  - svid_file: a
  - directory: a
  - directory: /a
    svid_file: a/b
    key_file: ..a
    bundle_file: "."
  - directory: /b
    svid_file: a
    key_file: a
  - directory: /c
    svid_file: ""
    key_file: ""
    bundle_file: ""
  - directory: /d
    key_mode: "0604"
    id: example.org
  - directory: /e
    id: spiffe://example.org/a
    hint: b
  - directory: /f
    jwt_svids: [{audience: [a]}, {file: t}]
  - directory: /g
  - directory: /g
"#;
    assert_eq!(
        problems(yaml),
        [
            r#"outputs[0]: has no `directory`; write an absolute path"#,
            r#"outputs[1].directory: "a" is not absolute; start it with `/`"#,
            r#"outputs[2].svid_file: "a/b" is not the name of a file; write one without a directory"#,
            r#"outputs[2].key_file: "..a" begins with `..`, as what we keep beside the files does; write another"#,
            r#"outputs[2].bundle_file: "." is not the name of a file; write one without a directory"#,
            r#"outputs[3].key_file: is the same as that of outputs[3].svid_file; remove one of them"#,
            r#"outputs[4]: writes no file at all; name one, or remove the output"#,
            r#"outputs[5].key_mode: "0604" gives everyone the private key; end it with 0, and use `group`"#,
            r#"outputs[5].id: "example.org" is no SPIFFE ID (scheme is missing or invalid); write such as spiffe://example.org/web"#,
            r#"outputs[6]: has both `id` and `hint`; keep the one that says which identity is meant"#,
            r#"outputs[7].jwt_svids[0]: has no `file`; write the name of the token's file"#,
            r#"outputs[7].jwt_svids[1]: has no `audience`; write for whom the token is"#,
            r#"outputs[9].directory: is the same as that of outputs[8]; remove one of them"#,
        ]
    );
}
