//! `completions`: a script for the user's shell.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("For this session", "source <(spiffe-sds completions bash)"),
    ("For good, with fish", "spiffe-sds completions fish > ~/.config/fish/completions/spiffe-sds.fish"),
]))]
pub(super) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "spiffe-sds", &mut script);
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
