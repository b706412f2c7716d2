//! `resend`, `log-level` and `refresh-tokens`: what an operator can make a running server do.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin;

/// Makes a running server send secrets again, to a node, of a name, or both.
///
/// For a proxy that lost what it was sent. Content that the proxy has rejected is sent again too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("Everything of one proxy", "spiffe-sds resend --node envoy-1"),
    ("One name to all who want it", "spiffe-sds resend --name default"),
]))]
pub(super) struct Resend {
    #[command(flatten)]
    server: admin::Args,
    /// The `node.id` of the clients.
    #[arg(long, value_name = "ID", required_unless_present = "name")]
    node: Option<String>,
    /// The name of the secret.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Makes a running server log more, or less, for a while; then it logs what is configured again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("See every stream for ten minutes", "spiffe-sds log-level info,spiffe_sds::server=debug --for 10m"),
]))]
pub(super) struct LogLevel {
    #[command(flatten)]
    server: admin::Args,
    /// A level, or a list such as info,spiffe_sds::server=debug.
    filter: String,
    /// For how long; a day at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m")]
    period: String,
}

/// Makes a running server ask its source for all JWT-SVIDs again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[("After a leak", "spiffe-sds refresh-tokens")]))]
pub(super) struct RefreshTokens {
    #[command(flatten)]
    server: admin::Args,
}

#[derive(Deserialize)]
struct Resent {
    streams: usize,
}

#[derive(Deserialize)]
struct Logging {
    filter: String,
    seconds: u64,
}

#[derive(Deserialize)]
struct Refreshing {
    tokens: usize,
}

pub(super) async fn resend(args: Resend) -> anyhow::Result<ExitCode> {
    let (node, name) = (args.node.unwrap_or_default(), args.name.unwrap_or_default());
    let done: Resent = args.server.post("/actions/resend", &[("node", &node), ("name", &name)]).await?;
    super::print(&format!("sending again on {} streams\n", done.streams))?;
    // Nobody was meant: most likely a typing error.
    Ok(if done.streams == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(super) async fn log_level(args: LogLevel) -> anyhow::Result<ExitCode> {
    let form = [("filter", args.filter.as_str()), ("for", args.period.as_str())];
    let done: Logging = args.server.post("/actions/log-level", &form).await?;
    super::print(&format!("logging {} for {} s\n", done.filter, done.seconds))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn refresh_tokens(args: RefreshTokens) -> anyhow::Result<ExitCode> {
    let done: Refreshing = args.server.post("/actions/refresh-tokens", &[]).await?;
    super::print(&format!("asking for {} tokens again\n", done.tokens))?;
    Ok(ExitCode::SUCCESS)
}
