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
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        // clap_complete 4.6.11 spells a program with a hyphen in two ways, so that nothing is completed behind its
        // first word. In a version that is mended there is nothing to replace.
        script = script.replace("spiffe__subcmd__sds", "spiffe__sds");
    }
    super::print_as_it_is(&script)?;
    Ok(ExitCode::SUCCESS)
}
