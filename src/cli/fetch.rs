//! `fetch`: what Envoy would get, now.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use comfy_table::{Table, presets};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use super::xds::{self, Row};
use crate::client::{self, ClientError, Secret, Update};

/// Some name is missing: the server has no such secret, or not yet.
const MISSING: u8 = 3;
/// Between calls of a server that is not ready.
const AGAIN: Duration = Duration::from_millis(200);

/// Asks a server for secrets as Envoy would, and shows what comes, decoded and checked. Works with any SDS server.
///
/// Keys and tokens are not shown; --out-dir writes them. Exit codes: 0 everything asked for came and Envoy would take it;
/// 1 the server cannot be reached, ends with an error or sends what Envoy would refuse; 3 something is missing, though
/// waited for until --timeout.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("What would Envoy get?", "spiffe-sds fetch"),
    ("From a SPIRE agent", "spiffe-sds fetch --server unix:///run/spire/agent.sock --name default --name ALL"),
    ("Certificate and key as files", "spiffe-sds fetch --name default --out-dir ./identity"),
    ("When does it expire?", "spiffe-sds fetch --name default --json | jq -r '.secrets[].not_after'"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    client: xds::Args,
    /// How to ask.
    #[arg(long, value_enum, default_value = "delta")]
    variant: Variant,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Variant {
    /// StreamSecrets, a stream for each name as Envoy does.
    Sotw,
    /// DeltaSecrets, a stream for each name.
    Delta,
    /// StreamAggregatedResources, one stream.
    AdsSotw,
    /// DeltaAggregatedResources, one stream.
    AdsDelta,
    /// FetchSecrets, one call.
    Fetch,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.client.client();
    let answers = match args.variant {
        Variant::Fetch => unary(&config, &args.client).await?,
        Variant::Sotw => streamed(&config, client::Variant::Sotw, &args.client).await?,
        Variant::Delta => streamed(&config, client::Variant::Delta, &args.client).await?,
        Variant::AdsSotw => streamed(&config, client::Variant::AdsSotw, &args.client).await?,
        Variant::AdsDelta => streamed(&config, client::Variant::AdsDelta, &args.client).await?,
    };
    if let Some(directory) = &args.client.out_dir {
        for secret in answers.secrets.values() {
            xds::save(directory, secret)?;
        }
    }
    let now = SystemTime::now();
    let rows: Vec<_> =
        config.names.iter().filter_map(|name| answers.secrets.get(name)).map(|secret| Row::new(secret, now)).collect();
    if args.client.json {
        let errors: Vec<_> = answers.errors.iter().map(ToString::to_string).collect();
        let answer = json!({ "secrets": rows, "missing": answers.missing, "errors": errors });
        super::print_json(&(serde_json::to_string_pretty(&answer)? + "\n"))?;
    } else {
        super::print(&text(&rows, &answers))?;
    }
    let refused = rows.iter().any(|row| !row.problems.is_empty());
    Ok(if refused || !answers.errors.is_empty() {
        ExitCode::FAILURE
    } else if answers.missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISSING)
    })
}

/// What became of the names asked for.
#[derive(Default)]
struct Answers {
    secrets: BTreeMap<String, Secret>,
    missing: Vec<String>,
    errors: Vec<ClientError>,
}

async fn unary(config: &client::Config, args: &xds::Args) -> anyhow::Result<Answers> {
    let deadline = Instant::now() + args.timeout;
    let secrets = loop {
        let answer = timeout_at(deadline, client::fetch(config)).await;
        match answer.map_err(|_| anyhow::anyhow!("the server did not answer in time (--timeout)"))? {
            // One call cannot wait for an identity as a stream does.
            Err(ClientError::Refused { code: Code::Unavailable, .. }) if Instant::now() + AGAIN < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            answer => break answer?,
        }
    };
    let secrets: BTreeMap<_, _> = secrets.into_iter().map(|secret| (secret.name.clone(), secret)).collect();
    let missing = config.names.iter().filter(|name| !secrets.contains_key(*name)).cloned().collect();
    Ok(Answers { secrets, missing, errors: Vec::new() })
}

/// Waits until each name has an answer: a secret, a no, or an error.
async fn streamed(config: &client::Config, variant: client::Variant, args: &xds::Args) -> anyhow::Result<Answers> {
    let deadline = Instant::now() + args.timeout;
    let mut subscription = client::subscribe(config, variant).await?;
    let (mut answers, mut open) = (Answers::default(), config.names.clone());
    while !open.is_empty() {
        let Ok(Some(update)) = timeout_at(deadline, subscription.next()).await else { break };
        match update {
            Update::Secret(secret) => {
                open.retain(|name| *name != secret.name);
                answers.secrets.insert(secret.name.clone(), *secret);
            }
            Update::Removed(name) => {
                open.retain(|other| *other != name);
                answers.missing.push(name);
            }
            Update::Ended { names, error } => {
                open.retain(|name| !names.contains(name));
                answers.errors.push(error);
            }
        }
    }
    subscription.close().await;
    // Silence is how a server says "not yet", and in SotW also "no".
    answers.missing.append(&mut open);
    Ok(answers)
}

fn text(rows: &[Row], answers: &Answers) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAME", "KIND", "ABOUT", "SERIAL", "NOT AFTER", "LEFT", "VERSION", "CHECK"]);
    for row in rows {
        let check = if row.problems.is_empty() { "ok" } else { "refused" };
        let not_after = row.not_after.clone().unwrap_or_else(|| "-".into());
        let version = row.version.get(..12).unwrap_or(&row.version).to_owned();
        let (name, kind, about) = (row.name.clone(), row.kind.to_owned(), row.about.clone());
        let cells = [name, kind, about, row.serial(), not_after, row.left(), version, check.to_owned()];
        table.add_row(cells.map(|cell| xds::shown(&cell)));
    }
    let mut out = if rows.is_empty() { String::new() } else { format!("{}\n", table.trim_fmt()) };
    for row in rows {
        for problem in &row.problems {
            out.push_str(&format!("{}: Envoy would refuse it: {problem}\n", xds::shown(&row.name)));
        }
    }
    for name in &answers.missing {
        out.push_str(&format!("{}: missing: the server has no such secret, or not yet\n", xds::shown(name)));
    }
    for error in &answers.errors {
        out.push_str(&format!("error: {error}\n"));
    }
    out
}
