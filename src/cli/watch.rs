//! `watch`: what Envoy would get, as it changes.

use std::{collections::BTreeMap, process::ExitCode, time::SystemTime};

use serde_json::json;

use super::xds::{self, Row, Variant};
use crate::{
    client::{self, Update},
    lifecycle,
};

/// Subscribes to secrets as Envoy would and prints a line for each change, until stopped. Works with any SDS server.
///
/// Streams that end are opened again, with what is held from before. Exit codes: 0 stopped or seen enough (--count);
/// 1 the server cannot be reached at the start.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("See the identity rotate", "spiffe-sds watch"),
    ("Everything of a node's server, by name", "spiffe-sds watch --variant ads-delta --name default --name ALL"),
    ("What does the server do with a refusal?", "spiffe-sds watch --name default --nack"),
    ("Keep files fresh for something that reads files", "spiffe-sds watch --name default --out-dir /run/identity"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    client: xds::Args,
    /// How to ask.
    #[arg(long, value_enum, default_value = "delta")]
    variant: Variant,
    /// Ends after so many lines.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = lifecycle::stop_on_signals(|| ())?;
    let mut subscription = client::subscribe(&args.client.client(), args.variant.into()).await?;
    let mut held = BTreeMap::new();
    let mut lines = 0;
    while args.count.is_none_or(|count| lines < count) {
        let update = tokio::select! {
            () = stop.cancelled() => break,
            () = super::reader_gone() => break,
            update = subscription.next() => update,
        };
        let Some(update) = update else { break };
        if let (Update::Secret(secret), Some(directory)) = (&update, &args.client.out_dir) {
            xds::save(directory, secret)?;
        }
        let now = SystemTime::now();
        super::print_either(args.client.json, || json_line(&update, now), || line(&update, &mut held, now))?;
        lines += 1;
    }
    subscription.close().await;
    Ok(ExitCode::SUCCESS)
}

fn json_line(update: &Update, now: SystemTime) -> String {
    let at = xds::time(now);
    let value = match update {
        Update::Secret(secret) => json!({ "at": at, "event": "secret", "secret": Row::new(secret, now) }),
        Update::Removed(name) => json!({ "at": at, "event": "removed", "name": name }),
        Update::Ended { names, error } => {
            json!({ "at": at, "event": "ended", "names": names, "error": error.to_string() })
        }
    };
    format!("{value}\n")
}

fn line(update: &Update, held: &mut BTreeMap<String, Row>, now: SystemTime) -> String {
    let at = xds::time(now);
    match update {
        Update::Secret(secret) => {
            let row = Row::new(secret, now);
            let change = change(held.get(&row.name), &row);
            let version = row.version.get(..12).unwrap_or(&row.version);
            let (name, serial, left, about) = (&row.name, row.serial(), row.left(), &row.about);
            let line = format!("{at}  {name:<12} {serial:<18} {left:<14} {version:<12}  {change}: {about}\n");
            held.insert(row.name.clone(), row);
            line
        }
        Update::Removed(name) => format!("{at}  {:<12} the server has no such secret\n", xds::shown(name)),
        Update::Ended { error, .. } => format!("{at}  {error}\n"),
    }
}

/// What is new about it, in a few words.
fn change(before: Option<&Row>, now: &Row) -> String {
    if let Some(problem) = now.problems.first() {
        return format!("refused, {problem}");
    }
    let Some(before) = before else { return "first".into() };
    if before.kind != now.kind {
        return format!("{} became {}", before.kind, now.kind);
    }
    if before.about != now.about {
        return "changed".into();
    }
    let gained = now.serials.iter().filter(|serial| !before.serials.contains(serial)).count();
    let lost = before.serials.iter().filter(|serial| !now.serials.contains(serial)).count();
    match (now.kind, gained, lost) {
        ("certificate", 1.., _) => "renewed".into(),
        ("validation", 1.., _) | ("validation", _, 1..) => format!("authorities +{gained} -{lost}"),
        _ if before.not_after != now.not_after => "renewed".into(),
        _ if before.version == now.version => "again".into(),
        _ => "changed".into(),
    }
}
