//! The command line.
//!
//! One file a subcommand. This is the only place that prints, and besides `main` the only one that reads the
//! environment. Exit codes: 0 success, 1 failure, 2 wrong usage or configuration.

mod admin;
mod bootstrap;
mod check;
mod completions;
mod config;
#[cfg(feature = "dev-issuer")]
mod demo;
#[cfg(feature = "dev-issuer")]
mod dev;
mod fetch;
mod health;
mod man;
mod operate;
mod serve;
mod status;
mod watch;
mod xds;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
    sync::OnceLock,
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use clap::{
    ColorChoice, Parser, Subcommand,
    builder::{StyledStr, Styles},
};
use tokio::{io::Interest, net::unix::pipe};

use crate::{printable, telemetry::logs};

/// The version, the commit that was built and what is in it.
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ", features: ", env!("BUILD_FEATURES"), ")");

/// How long the end of the process waits for the reader of standard output.
const LAST: Duration = Duration::from_millis(500);
/// Standard output of a program that must not wait for its reader.
static ASIDE: OnceLock<logs::Queue> = OnceLock::new();

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Streams X.509-SVIDs and trust bundles from a SPIFFE Workload API to Envoy, always fresh, over SDS.
///
/// `serve` needs no configuration when SPIFFE_ENDPOINT_SOCKET is set. Every key of the configuration file
/// can also be set by a variable (SPIFFE_SDS_...) or with --set; flags are stronger than variables, variables than the file.
#[derive(Debug, Parser)]
#[command(name = "spiffe-sds", version, long_version = VERSION, styles = STYLES, arg_required_else_help = true, after_long_help = examples(&[
    ("Serve the identities of this machine's SPIRE agent to the local Envoy",
     "SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock spiffe-sds serve"),
    ("See what the agent would give", "spiffe-sds check --endpoint unix:///run/spire/agent.sock"),
    ("Configure an Envoy for it", "spiffe-sds bootstrap > envoy.yaml"),
]))]
pub struct Cli {
    /// When to use colours.
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    #[cfg(feature = "dev-issuer")]
    Dev(dev::Args),
    Check(check::Args),
    Status(status::Args),
    Health(health::Args),
    Resend(operate::Resend),
    LogLevel(operate::LogLevel),
    RefreshTokens(operate::RefreshTokens),
    Bootstrap(bootstrap::Args),
    Fetch(fetch::Args),
    Watch(watch::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The environment variables that are text; others cannot mean anything to us.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Whatever goes wrong, for [`report`] to print.
    pub async fn run(self, environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        match self.command {
            Command::Serve(args) => serve::run(args, environment).await,
            #[cfg(feature = "dev-issuer")]
            Command::Dev(args) => dev::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Check(args) => check::run(args, environment).await,
            Command::Status(args) => status::run(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Resend(args) => operate::resend(args).await,
            Command::LogLevel(args) => operate::log_level(args).await,
            Command::RefreshTokens(args) => operate::refresh_tokens(args).await,
            Command::Bootstrap(args) => bootstrap::run(&args).await,
            Command::Fetch(args) => fetch::run(args).await,
            Command::Watch(args) => watch::run(args).await,
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}

/// Prints an error with its causes, once, and tells the exit code that belongs to it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    note(&format!("{ERROR}error:{ERROR:#} {}\n", printable::lines(&text)));
    let configuration = error.chain().any(<dyn std::error::Error>::is::<crate::config::Error>);
    ExitCode::from(if configuration { 2 } else { 1 })
}

/// Waits for what was printed to be read, but not for ever. Call it before the process ends.
pub fn flush() {
    logs::flush();
    if let Some(output) = ASIDE.get() {
        output.flush(LAST);
    }
}

/// Writes to standard error, for people.
fn note(text: &str) {
    let text = if colored() { text.into() } else { anstream::adapter::strip_str(text).to_string() };
    if !logs::print(&text) {
        // Nothing is left to do if even this cannot be written.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Whether logs, which go to standard error, are coloured.
fn colored() -> bool {
    anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
}

/// From now on nobody waits for who reads standard output: for programs that serve others meanwhile.
#[cfg(feature = "dev-issuer")]
fn print_aside() -> io::Result<()> {
    let _ = ASIDE.set(logs::Queue::start("output", io::stdout())?);
    Ok(())
}

/// Writes text for people to standard output, where a reader that has seen enough (`| head`) is no error. What others have
/// put into it moves and hides nothing.
fn print(text: &str) -> anyhow::Result<()> {
    print_as_it_is(&printable::styled(text))
}

/// The same for JSON.
fn print_json(text: &str) -> anyhow::Result<()> {
    print_as_it_is(&printable::json(text))
}

/// The same as JSON or for people, as `json` wants it.
fn print_either(json: bool, machine: impl FnOnce() -> String, people: impl FnOnce() -> String) -> anyhow::Result<()> {
    if json { print_json(&machine()) } else { print(&people()) }
}

/// The same for what is entirely ours, or for programs.
fn print_as_it_is(text: &str) -> anyhow::Result<()> {
    if let Some(output) = ASIDE.get() {
        let plain = anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never;
        let text = if plain { anstream::adapter::strip_str(text).to_string() } else { text.to_owned() };
        output.put(text.as_bytes());
        return Ok(());
    }
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Until nobody reads standard output any more, as when `| head` has seen enough; for ever where that cannot be told, as
/// with a file. For commands that go on until something happens, which may be never.
async fn reader_gone() {
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    // Nothing is written by it, so that the descriptor stays as it is: blocking, for everybody else who writes.
    match stdout.and_then(pipe::Sender::from_owned_fd_unchecked) {
        Ok(watched) if watched.ready(Interest::ERROR).await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// The end of a help text: commands to copy, each with what it is for.
fn examples(examples: &[(&str, &str)]) -> StyledStr {
    use std::fmt::Write as _;
    let (header, literal) = (STYLES.get_header(), STYLES.get_literal());
    let mut text = format!("{header}Examples:{header:#}");
    for (what, command) in examples {
        let _ = write!(text, "\n  {what}:\n    {literal}{command}{literal:#}");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }
}
