//! The program as a shell, a pipe and a probe meet it.
#![cfg(feature = "dev-issuer")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use support::{app::Place, world::bounded};

const PROGRAM: &str = env!("CARGO_BIN_EXE_spiffe-sds");

/// What the program prints, which it does without complaint.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).env_clear().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a real bash offers when Tab is pressed behind these words, the last of which may be begun or empty.
fn completed(script: &Path, words: &[&str]) -> Vec<String> {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let text = format!(
        "source {}; COMP_WORDS=({}); COMP_CWORD={}; \
         complete -p spiffe-sds | grep -o -- '-F [^ ]*' | {{ read -r _ offer; \
         $offer spiffe-sds '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"; }}",
        script.display(),
        quoted.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["--norc", "-c", &text]).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("completion.bash");
    std::fs::write(&script, printed(&["completions", "bash"])).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["spiffe-sds", ""], "serve"),
        (&["spiffe-sds", "st"], "status"),
        (&["spiffe-sds", "serve", "--"], "--config"),
        (&["spiffe-sds", "log-level", "--"], "--admin"),
        (&["spiffe-sds", "refresh-tokens", "--ad"], "--admin"),
        (&["spiffe-sds", "bootstrap", "--variant", ""], "ads-delta"),
        (&["/usr/bin/spiffe-sds", "bootstrap", "--fragment", "up"], "upstreams"),
    ];
    for (words, wanted) in cases {
        let mut words = words.to_vec();
        words[0] = "spiffe-sds";
        let offered = completed(&script, &words);
        assert!(offered.iter().any(|word| word == wanted), "{words:?}: {offered:?}");
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    printed(&["man", dir.path().to_str().unwrap()]);
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("spiffe-sds.1").contains(".TH spiffe-sds 1"));
    for command in ["serve", "status", "bootstrap", "log-level"] {
        let page = read(&format!("spiffe-sds-{command}.1"));
        assert!(page.contains("Examples"), "{command}: {page}");
    }
    assert!(!dir.path().join("spiffe-sds-help.1").exists());
}

#[test]
fn the_version_says_what_was_built() {
    let version = printed(&["--version"]);
    assert!(version.starts_with(concat!("spiffe-sds ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.contains("features: dev-issuer"), "{version}");
}

/// A server with its admin listener, and its address.
async fn serving(place: &Place) -> (support::app::Running, String) {
    let mut running = place.run("admin: {listeners: [{unix: {path: '$/admin.sock'}}]}\n").await;
    running.renewed(&place.issuer.svids()[0].serial).await;
    (running, format!("unix://{}", place.at("admin.sock").display()))
}

/// Runs the program beside the runtime, which serves meanwhile.
async fn run(arguments: Vec<String>) -> std::process::Output {
    let run = move || Command::new(PROGRAM).env_clear().args(arguments).output().unwrap();
    bounded(tokio::task::spawn_blocking(run)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_gets_an_exit_code() {
    let place = Place::new().await;
    let (running, admin) = serving(&place).await;
    let health = async |flags: &[&str]| {
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        run(["health".to_owned(), "--admin".to_owned(), admin.clone()].into_iter().chain(flags).collect()).await
    };
    // An identity is in service, but whoever judges that may not have got there yet.
    while health(&[]).await.status.code() != Some(0) {}
    assert_eq!(health(&["--live"]).await.status.code(), Some(0));
    assert_eq!(health(&["--ready"]).await.status.code(), Some(0));
    running.stop().await;
    let gone = health(&["--live"]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no server answers at"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_told_what_is_pending() {
    let place = Place::with(|config| {
        config.identities.clear();
        // Bundles alone would be enough to be ready.
        config.bundles_need_identity = true;
    })
    .await;
    let running = place.run("admin: {listeners: [{unix: {path: '$/admin.sock'}}]}\n").await;
    let admin = format!("unix://{}", place.at("admin.sock").display());
    let output = run(vec!["health".into(), "--admin".into(), admin]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("identity"), "{output:?}");
    running.stop().await;
}

/// `| head -1` ends at once, though the next line may be an hour away.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_ends_with_its_reader() {
    let place = Place::new().await;
    let (running, admin) = serving(&place).await;
    let socket = format!("unix://{}", place.at("sds.sock").display());
    let commands = [
        vec!["watch".to_owned(), "--server".to_owned(), socket],
        vec!["status".to_owned(), "--watch".to_owned(), "--admin".to_owned(), admin],
        vec!["dev".to_owned()],
    ];
    for command in commands {
        let shown = command.clone();
        let piped = move || {
            let mut child =
                Command::new(PROGRAM).args(command).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut line = String::new();
            let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
            drop(stdout);
            (line, child.wait().unwrap())
        };
        let (line, status) = bounded(tokio::task::spawn_blocking(piped)).await.unwrap();
        assert!(!line.is_empty() && status.success(), "{shown:?}: {line:?}, {status}");
    }
    running.stop().await;
}
