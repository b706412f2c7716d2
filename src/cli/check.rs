//! `check`: what would be served, without serving it.

mod report;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use futures_util::StreamExt as _;

use super::config;
use crate::{
    identity::{IdentitySnapshot, Workload},
    source::{Source as _, SourceError, WorkloadApi, workload_api},
};
use report::Report;

/// Checks the configuration, asks the source, and shows each SVID and trust bundle with its expiry.
///
/// Exit codes: 0 all is well; 1 the source cannot be reached, gives nothing or something expired; 2 the configuration is wrong.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("What does this agent give us?", "spiffe-sds check --endpoint unix:///run/spire/agent.sock"),
    ("For a script", "spiffe-sds check --config sds.yaml --json | jq -r '.svids[].not_after'"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    config: config::Args,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Checks the configuration alone, without asking the source.
    #[arg(long)]
    offline: bool,
    /// How long to wait for the source.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Args, environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
    let config = args.config.load(environment, Vec::new())?;
    if args.offline {
        super::print("the configuration is valid\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let snapshot = tokio::time::timeout(args.timeout, fetch(config.source()))
        .await
        .context("the source did not answer in time; is it running, and is this workload registered? (--timeout)")??;
    let report = Report::new(&snapshot, &config.secrets().naming, SystemTime::now());
    super::print(&if args.json { report.json()? } else { report.tables() })?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first snapshot of the source.
async fn fetch(config: &workload_api::Config) -> anyhow::Result<IdentitySnapshot> {
    let source = WorkloadApi::new(config.clone());
    let first = source.watch(&Workload::Own).next().await;
    first.unwrap_or(Err(SourceError::Closed)).with_context(|| format!("no identity from {}", config.endpoint))
}
