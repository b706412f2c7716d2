//! `check`: what would be served, without serving it.

mod difference;
mod report;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use futures_util::StreamExt as _;

use super::{admin, config};
use crate::{
    config::{Change, Config},
    identity::{IdentitySnapshot, Workload},
    secret::DefaultIdentity,
    source::{
        JwtSource, Source, SourceError,
        decode::jwt::{JwtBundles, JwtKeys},
        jwt, pinned,
    },
};
use report::{Asked, Report, SourceRow};

/// Checks the configuration, asks the sources, and shows each SVID, trust bundle and configured token with its expiry.
///
/// Exit codes: 0 all is well; 1 no source can be reached, gives nothing, something expired or something that is left
/// out; 2 the configuration is wrong.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("What does this agent give us?", "spiffe-sds check --endpoint unix:///run/spire/agent.sock"),
    ("What would a reload of the running server change?", "spiffe-sds check --diff"),
    ("... with another file?", "spiffe-sds check --config new.yaml --diff"),
    ("... if this file were in force?", "spiffe-sds check --config new.yaml --diff /etc/spiffe-sds/spiffe-sds.yaml"),
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
    /// Shows what a reload would change, and what of it waits for a restart: compared with the running server, or with FILE
    /// as if it were in force; does not ask the source. Without --config the file that the server reads is taken.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = difference::RUNNING)]
    diff: Option<PathBuf>,
    #[command(flatten)]
    server: admin::Args,
    /// How long to wait for the source.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Args, environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
    if args.diff.as_deref() == Some(Path::new(difference::RUNNING)) {
        let changes = difference::from_running(&args.server, args.config, environment).await?;
        return told(&changes, args.json);
    }
    let sources = args.config.sources(environment, Vec::new())?;
    if let Some(old) = &args.diff {
        return told(&difference::from_file(old, &sources)?, args.json);
    }
    let config = Config::new(&sources).map_err(crate::config::Error::from)?;
    if args.offline {
        super::print("the configuration is valid\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let (limits, default) = (config.source_limits(), &config.secrets().default_identity);
    let asked = config.sources().iter().map(|source| ask(source.source(limits, default), args.timeout));
    let answers = futures_util::future::join_all(asked).await;
    // At the start the first that delivers is in service.
    let in_service = answers.iter().position(|(_, answer)| answer.is_ok());
    let sources = answers.iter().enumerate().map(|(index, (name, answer))| {
        let standby = in_service.is_some_and(|first| first < index);
        SourceRow::new(name, standby, answer.as_ref().err().map(|error| format!("{error:#}")))
    });
    let sources = sources.collect();
    let snapshot = into_first(answers)?;
    let mut report = Report::new(&snapshot, &config.secrets().naming, default, SystemTime::now()).with_sources(sources);
    if !config.jwt().is_idle()
        && let Some(source) = in_service.and_then(|index| config.sources().get(index))
    {
        let tokens = fetch_tokens(source.jwt_source(limits, default), config.jwt(), default, &snapshot);
        let tokens = tokio::time::timeout(args.timeout, tokens)
            .await
            .context("the source did not answer in time about JWT-SVIDs; does it issue any? (--timeout)")?;
        report = report.tokens(&tokens.asked, &tokens.keys, SystemTime::now());
    }
    if args.json {
        super::print_json(&report.json()?)?
    } else {
        super::print(&report.tables())?
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn told(changes: &[Change], json: bool) -> anyhow::Result<ExitCode> {
    super::print_either(json, || difference::json(changes), || difference::lines(changes))?;
    Ok(ExitCode::SUCCESS)
}

/// What a source says about tokens.
struct Tokens {
    asked: Vec<Asked>,
    keys: Result<JwtKeys, String>,
}

/// Every configured token, verified with the keys, and those. Each for the identity that `snapshot` tells, as the server
/// asks.
async fn fetch_tokens(
    source: Arc<dyn JwtSource>,
    jwt: &jwt::Config,
    default: &DefaultIdentity,
    snapshot: &IdentitySnapshot,
) -> Tokens {
    // Without keys the signatures stay unverified, and the table shows that there are none.
    let keys = source.watch_keys(&Workload::Own).next().await.unwrap_or(Err(SourceError::Closed));
    let keys = keys.map_err(|error| error.chain());
    let nobodys = JwtBundles::new();
    let bundles = keys.as_ref().map_or(&nobodys, |keys| &keys.bundles);
    let mut asked = Vec::new();
    for request in &jwt.svids {
        let wanted = jwt::resolved(request, default, snapshot);
        let answer = source.fetch(&Workload::Own, &wanted, bundles).await;
        asked.push((request.clone(), answer.map_err(|error| error.chain())));
    }
    Tokens { asked, keys }
}

/// The first snapshot of a source.
async fn ask(source: Arc<dyn Source>, patience: Duration) -> (Arc<str>, anyhow::Result<IdentitySnapshot>) {
    let name = source.name();
    let mut session = source.watch(&Workload::Own);
    let answer = match tokio::time::timeout(patience, session.next()).await {
        Ok(first) => first
            .unwrap_or(Err(SourceError::Closed))
            .and_then(|it| pinned(&source, it))
            .with_context(|| format!("no identity from {name}")),
        Err(_) => Err(anyhow::anyhow!(
            "the source did not answer in time; is it running, and is this workload registered? (--timeout)"
        )),
    };
    (name, answer)
}

/// The answer of the first source that gave one; if none did, what the preferred one said.
fn into_first(answers: Vec<(Arc<str>, anyhow::Result<IdentitySnapshot>)>) -> anyhow::Result<IdentitySnapshot> {
    let mut failure = None;
    for (_, answer) in answers {
        match answer {
            Ok(snapshot) => return Ok(snapshot),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no source is configured")))
}
