//! `health`: whether a running server is alive and ready, for probes of containers, which have no shell and no curl.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::time::timeout;

use super::admin;
use crate::admin::view::left;

/// Asks a running server whether it is ready, or alive, and exits accordingly.
///
/// Exit codes: 0 yes; 1 no, with the conditions that are pending; or no server answers in time.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("A readiness probe", "spiffe-sds health"),
    ("A liveness probe", "spiffe-sds health --live"),
    ("Of a server whose admin listener is on TCP", "spiffe-sds health --admin tcp://127.0.0.1:9464"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    server: admin::Args,
    /// Whether the process answers at all: a source that is down is no reason to restart it.
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Whether every condition of readiness holds, which is the default.
    #[arg(long)]
    ready: bool,
    /// How long it may take to answer.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let path = if args.live { "/live" } else { "/ready" };
    let asked = timeout(args.timeout, args.server.ask(path)).await;
    let (status, body) = asked.with_context(|| format!("no answer within {}", left(args.timeout)))??;
    super::print(&format!("{}\n", String::from_utf8_lossy(&body).trim_end()))?;
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
