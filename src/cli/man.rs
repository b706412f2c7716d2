//! `man`: manual pages, for packages.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Writes the manual pages into a directory, one for each command.
#[derive(Debug, clap::Args)]
#[command(hide = true, after_long_help = super::examples(&[
    ("For this machine", "spiffe-sds man /usr/local/share/man/man1"),
]))]
pub(super) struct Args {
    /// The directory, which must exist.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pages = clap_mangen::generate_to(super::Cli::command(), &args.directory);
    pages.with_context(|| format!("cannot write manual pages into {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
