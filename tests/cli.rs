//! The command line from outside: help, completions, exit codes and error messages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

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
fn a_source_that_is_not_there_is_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("unix://{}/agent.sock", directory.path().display());
    spiffe_sds(&["check", "--endpoint", &endpoint, "--timeout", "1s"])
        .assert()
        .code(1)
        .stdout(is_empty())
        .stderr(starts_with("error: "));
}
