//! The command line from outside: help, completions, exit codes and error messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;

use assert_cmd::Command;
use predicates::{
    prelude::PredicateBooleanExt as _,
    str::{contains, is_empty, starts_with},
};

/// The command in an empty environment.
fn spiffe_sds(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("spiffe-sds").expect("the binary of this package");
    command.env_clear().args(args);
    command
}

#[test]
fn help_names_every_command() {
    let help = spiffe_sds(&["--help"]).assert().success();
    let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    for word in ["serve", "check", "bootstrap", "completions", "Examples:"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
    assert_eq!(help.contains("  dev "), cfg!(feature = "dev-issuer"));
    assert!(!help.contains('\u{1b}'));
    spiffe_sds(&["serve", "--help"]).assert().success().stdout(contains("SPIFFE_SDS_CONFIG").and(contains("--set")));
    spiffe_sds(&["--version"]).assert().success().stdout(starts_with("spiffe-sds "));
    spiffe_sds(&[]).assert().code(2).stderr(contains("Usage:"));
}

#[test]
fn wrong_usage_is_pointed_to_the_right_one() {
    spiffe_sds(&["serv"]).assert().code(2).stderr(contains("similar subcommand").and(contains("serve")));
    spiffe_sds(&["serve", "--endpont", "x"]).assert().code(2).stderr(contains("'--endpoint'"));
    spiffe_sds(&["serve", "--set", "wildcard"]).assert().code(2).stderr(contains("write KEY=VALUE"));
}

#[test]
fn completions_are_scripts() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef spiffe-sds"), ("fish", "complete -c spiffe-sds")] {
        spiffe_sds(&["completions", shell]).assert().success().stdout(contains(word)).stderr(is_empty());
    }
}

#[test]
fn a_wrong_configuration_is_said_once_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sds.yaml");
    fs::write(&file, "drain_deadline: soon\nlisten: []\n").unwrap();
    let file = file.to_str().unwrap();
    let expected = format!(
        "\
error: the configuration has 4 problems:
  {file}:1:17: drain_deadline: \"soon\" is not a duration; write a number with its unit, such as 250ms, 5s or 1m
  {file}:2:1: listen: unknown key; did you mean `listeners`?
  --set: secrets.wildcrad: unknown key; did you mean `wildcard`?
  source.workload_api.endpoint: is not set; set SPIFFE_ENDPOINT_SOCKET, pass --endpoint, or write it into the configuration file
"
    );
    for command in ["serve", "check"] {
        let args = [command, "--config", file, "--set", "secrets.wildcrad=true"];
        spiffe_sds(&args).assert().code(2).stdout(is_empty()).stderr(expected.clone());
    }
    spiffe_sds(&["check"]).env("SPIFFE_SDS_CONFIG", file).assert().code(2).stderr(contains("3 problems"));
    spiffe_sds(&["check"]).env("SPIFFE_SDS_CONFIG", "").assert().code(2).stderr(contains("1 problem:"));
}

#[test]
fn a_file_that_is_not_there_is_a_configuration_error() {
    spiffe_sds(&["check", "--config", "/no/such.yaml"])
        .assert()
        .code(2)
        .stderr("error: cannot read the configuration file /no/such.yaml; name an existing one with --config or SPIFFE_SDS_CONFIG: No such file or directory (os error 2)\n");
}

#[test]
fn colours_can_be_forced() {
    let plain = spiffe_sds(&["check"]).assert().code(2);
    assert!(!plain.get_output().stderr.contains(&0x1b));
    let colored = spiffe_sds(&["--color", "always", "check"]).assert().code(2);
    assert!(colored.get_output().stderr.starts_with(b"\x1b[1m\x1b[31merror:\x1b[0m the configuration"));
}

#[test]
fn the_configuration_alone_can_be_checked() {
    spiffe_sds(&["check", "--offline"])
        .env("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock")
        .assert()
        .success()
        .stdout("the configuration is valid\n")
        .stderr(is_empty());
}

#[test]
fn a_reload_is_shown_beforehand() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old.yaml"), directory.path().join("new.yaml"));
    fs::write(&old, "drain_deadline: 1s\n").unwrap();
    fs::write(&new, "drain_deadline: 2s\nlimits: {connections: 7}\n").unwrap();
    let run = |config: &std::path::Path| {
        let mut command = spiffe_sds(&["check", "--diff", old.to_str().unwrap(), "--config", config.to_str().unwrap()]);
        command.env("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire/agent.sock").assert().success().stderr(is_empty())
    };
    run(&new).stdout("live    drain_deadline: 1s -> 2s\nrestart limits.connections: 16384 -> 7\n");
    run(&old).stdout("nothing would change\n");
}

#[test]
fn a_source_that_is_not_there_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("unix://{}/agent.sock", directory.path().display());
    spiffe_sds(&["check", "--endpoint", &endpoint, "--timeout", "1s"])
        .assert()
        .code(1)
        .stdout(is_empty())
        .stderr(starts_with("error: "));
}

#[test]
fn bootstraps_and_fragments_are_yaml_that_names_what_was_asked() {
    for variant in ["sotw", "delta", "ads-sotw", "ads-delta"] {
        let args = ["bootstrap", "--variant", variant, "--certificate", "web", "--peer", "spiffe://example.org/client"];
        let whole = contains("name: web").and(contains("spiffe://example.org/client")).and(contains("/run/sds.sock"));
        spiffe_sds(&args).args(["--connect", "unix:///run/sds.sock"]).assert().success().stdout(whole);
        let cluster = contains("/run/spiffe-sds/sds.sock").and(contains("sds_secret_config").not());
        spiffe_sds(&args).args(["--fragment", "cluster"]).assert().success().stdout(cluster);
        let secrets = contains("sds_secret_config").and(contains("/run/spiffe-sds/sds.sock").not());
        spiffe_sds(&args).args(["--fragment", "secrets"]).assert().success().stdout(secrets);
    }
    let token = ["bootstrap", "--token", "jwt:payments"];
    let injects = || contains("name: jwt:payments").and(contains("header_value_prefix"));
    spiffe_sds(&token).args(["--upstream", "10.0.0.7:8443"]).assert().success().stdout(injects());
    spiffe_sds(&token)
        .args(["--fragment", "token"])
        .assert()
        .success()
        .stdout(injects().and(contains("clusters").not()));
    spiffe_sds(&token).assert().code(2).stderr(contains("--upstream"));
    spiffe_sds(&["bootstrap", "--fragment", "token"]).assert().code(1).stderr(contains("needs --token"));
    spiffe_sds(&["bootstrap", "--fragment", "jwt"]).assert().code(1).stderr(contains("needs --verify-jwt"));
    let verify = ["bootstrap", "--fragment", "jwt", "--verify-jwt", "example.org=a", "--verify-jwt", "example.org=b"];
    let parts = contains("http://spiffe-sds/jwks/example.org").and(contains("/run/spiffe-sds/bundles.sock"));
    spiffe_sds(&verify).assert().success().stdout(parts.and(contains("- a\n").and(contains("- b\n"))));
    spiffe_sds(&["bootstrap", "--connect", "sds.sock"]).assert().code(2).stderr(contains("is no SPIFFE endpoint"));
    spiffe_sds(&["bootstrap", "--variant", "dleta"])
        .assert()
        .code(2)
        .stderr(contains("a similar value exists: 'delta'"));
}

/// Against a real Workload API.
#[cfg(feature = "dev-issuer")]
mod check {
    use std::time::Duration;

    use spiffe_sds::{
        dev::{Config, DevIssuer, Identity, JwtConfig, Rotation},
        identity::{SpiffeId, TrustDomain},
        source::Endpoint,
    };

    use super::*;

    async fn issuer(directory: &tempfile::TempDir, identities: &[&str]) -> DevIssuer {
        let identity = |id: &&str| Identity { id: SpiffeId::new(id).unwrap(), hint: Some("internal".to_owned()) };
        DevIssuer::start(Config {
            trust_domain: TrustDomain::new("example.org").unwrap(),
            identities: identities.iter().map(identity).collect(),
            federated: vec![TrustDomain::new("partner.example").unwrap()],
            ttl: Duration::from_secs(3600),
            rotation: Rotation::Never,
            ca_rotate_every: None,
            jwt_rotate_every: None,
            intermediate: false,
            bundles_need_identity: identities.is_empty(),
            jwt: JwtConfig::default(),
            listen: vec![Endpoint::Unix(directory.path().join("agent.sock"))],
            socket_mode: 0o600,
        })
        .await
        .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn shows_what_the_source_gives() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&directory, &["spiffe://example.org/web"]).await;
        let endpoint = issuer.endpoint().to_string();
        let table = contains("spiffe://example.org/web  default  internal").and(contains("spiffe://partner.example"));
        spiffe_sds(&["check", "--endpoint", &endpoint]).assert().success().stdout(table).stderr(is_empty());

        let json = spiffe_sds(&["check", "--json"]).env("SPIFFE_ENDPOINT_SOCKET", &endpoint).assert().success();
        let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
        assert_eq!(json["svids"][0]["spiffe_id"], "spiffe://example.org/web");
        assert_eq!(json["svids"][0]["state"], "valid");
        assert_eq!(json["bundles"].as_array().unwrap().len(), 2);
        issuer.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn shows_tokens_by_name_and_never_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&directory, &["spiffe://example.org/web"]).await;
        let endpoint = issuer.endpoint().to_string();
        let set = "jwt.svids=[{audience: [payments]}, {audience: [payments], hint: none}]";
        let both =
            contains("jwt:payments  ").and(contains("jwt:payments;hint=none")).and(contains("with the hint \"none\""));
        let secret = contains("eyJ");
        let check = spiffe_sds(&["check", "--endpoint", &endpoint, "--set", set]).assert();
        check.code(1).stdout(both.and(contains("JWT keys")).and(secret.clone().not())).stderr(is_empty());
        let check = spiffe_sds(&["check", "--json", "--endpoint", &endpoint, "--set", "jwt.svids=payments"]).assert();
        let output = check.success().stdout(secret.not()).get_output().stdout.clone();
        let json: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(json["jwt_svids"][0]["name"], "jwt:payments");
        assert_eq!(json["jwt_svids"][0]["state"], "valid");
        assert_eq!(json["jwt_keys"].as_array().unwrap().len(), 2);
        issuer.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn lists_what_is_left_out_and_names_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&directory, &["spiffe://example.org/web"]).await;
        issuer.issue(&SpiffeId::new("spiffe://example.org/api").unwrap(), None).unwrap();
        let endpoint = issuer.endpoint().to_string();
        let set = "secrets.default_identity.spiffe_id=spiffe://example.org/api";
        let default = contains("spiffe://example.org/api  default");
        spiffe_sds(&["check", "--endpoint", &endpoint, "--set", set]).assert().success().stdout(default);
        issuer.send_raw(issuer.message().garbage_key(1).federated_bundle("spiffe://bad.example", &b"x"[..]));
        let left_out = contains("Left out").and(contains("the SVID of spiffe://example.org/api"));
        let left_out =
            left_out.and(contains("the trust bundle of bad.example")).and(contains("spiffe://example.org/web"));
        spiffe_sds(&["check", "--endpoint", &endpoint]).assert().code(1).stdout(left_out).stderr(is_empty());
        let limits = ["--set", "limits.source.svids=1"];
        let check = spiffe_sds(&["check", "--json", "--endpoint", &endpoint]).args(limits).assert().code(1);
        let json: serde_json::Value = serde_json::from_slice(&check.get_output().stdout).unwrap();
        let kinds: Vec<_> = json["refused"].as_array().unwrap().iter().map(|it| it["kind"].clone()).collect();
        assert_eq!(kinds, ["svid", "bundle"], "one beyond the limit, and a bundle");
        issuer.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn says_that_there_is_no_identity() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = issuer(&directory, &[]).await;
        let endpoint = issuer.endpoint().to_string();
        let refused = starts_with(format!("error: no identity from {endpoint}: ")).and(contains("no identity issued"));
        spiffe_sds(&["check", "--endpoint", &endpoint]).assert().code(1).stdout(is_empty()).stderr(refused);
        issuer.shutdown().await;
    }
}

#[cfg(feature = "dev-issuer")]
#[test]
fn the_development_issuer_rolls_its_jwt_keys_over() {
    let flags = ["dev", "--jwt-ttl", "2s", "--jwt-rotate-every", "300ms", "--duration", "1s"];
    let steps = ["prepare", "activate", "retire"].map(|step| format!("jwt {step}"));
    let mut run = spiffe_sds(&flags).assert().success();
    for step in steps {
        run = run.stdout(contains(step));
    }
    spiffe_sds(&["dev", "--jwt-ttl", "1s"]).assert().failure().stderr(contains("is shorter than 2s"));
}
