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
    source::{JwtSource as _, Source as _, SourceError, WorkloadApi, decode::jwt::JwtBundles, jwt, workload_api},
};
use report::{Asked, Report};

/// Checks the configuration, asks the source, and shows each SVID, trust bundle and configured token with its expiry.
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
    let mut report = Report::new(&snapshot, &config.secrets().naming, SystemTime::now());
    if !config.jwt().svids.is_empty() {
        let (asked, keys) = tokio::time::timeout(args.timeout, fetch_tokens(config.source(), config.jwt()))
            .await
            .context("the source did not answer in time about JWT-SVIDs; does it issue any? (--timeout)")?;
        report = report.tokens(&asked, keys.values().map(AsRef::as_ref), SystemTime::now());
    }
    super::print(&if args.json { report.json()? } else { report.tables() })?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every configured token, verified with the keys, and those.
async fn fetch_tokens(source: &workload_api::Config, jwt: &jwt::Config) -> (Vec<Asked>, JwtBundles) {
    let source = WorkloadApi::new(source.clone());
    // Without keys the signatures stay unverified, and the table shows that there are none.
    let keys = source.watch_keys(&Workload::Own).next().await.and_then(Result::ok).unwrap_or_default();
    let mut asked = Vec::new();
    for request in &jwt.svids {
        let answer = source.fetch(&Workload::Own, request, &keys).await;
        asked.push((request.clone(), answer.map_err(|error| error.chain())));
    }
    (asked, keys)
}

/// The first snapshot of the source.
async fn fetch(config: &workload_api::Config) -> anyhow::Result<IdentitySnapshot> {
    let source = WorkloadApi::new(config.clone());
    let first = source.watch(&Workload::Own).next().await;
    first.unwrap_or(Err(SourceError::Closed)).with_context(|| format!("no identity from {}", config.endpoint))
}
