//! `serve`: from a source to Envoy, until stopped.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context as _;

use super::config::{self, flag};
use crate::{
    app::App,
    config::Config,
    lifecycle, listen,
    systemd::{Handed, Notifier},
    telemetry::logs,
};

/// Serves identities to Envoy until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("With a SPIRE agent, on the default socket",
     "SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock spiffe-sds serve"),
    ("On a socket of your own, for the group of Envoy",
     "spiffe-sds serve --endpoint unix:///run/spire/agent.sock --set 'listeners=[{unix: {path: /run/sds.sock, group: envoy}}]'"),
    ("With a configuration file", "spiffe-sds serve --config /etc/spiffe-sds/spiffe-sds.yaml"),
]))]
pub(super) struct Args {
    #[command(flatten)]
    config: config::Args,
    /// Where Envoy connects, in place of the configured listeners: unix:///absolute/path or tcp://127.0.0.1:port;
    /// can be repeated.
    #[arg(long, value_name = "ADDRESS", help_heading = "Configuration")]
    listen: Vec<String>,
    /// The form of the log: auto, human or json.
    #[arg(long, value_name = "FORMAT", help_heading = "Configuration")]
    log_format: Option<String>,
    /// What is logged: a level, or a list such as info,spiffe_sds::server=debug.
    #[arg(long, value_name = "FILTER", visible_alias = "log-filter", help_heading = "Configuration")]
    log_level: Option<String>,
    /// Lets debuggers of the same user look into the process, and the kernel write core files of it. They hold private keys.
    #[arg(long)]
    allow_core_dumps: bool,
}

pub(super) async fn run(args: Args, environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
    if !args.allow_core_dumps {
        // Before the first key.
        lifecycle::keep_memory_private().context("cannot keep the memory of this process private")?;
    }
    let listen = (!args.listen.is_empty()).then(|| args.listen.join(","));
    let flags = [
        flag("--listen", "listeners", listen),
        flag("--log-format", "log.format", args.log_format),
        flag("--log-level", "log.filter", args.log_level),
    ];
    let sources = args.config.sources(environment.clone(), flags.into_iter().flatten().collect())?;
    let config = Config::new(&sources).map_err(crate::config::Error::from)?;
    let logs = logs::init(config.logs(), super::colored())?;
    listen::descriptors::raise();
    let handed = Handed::receive(&environment, config.systemd().store);
    let stop = lifecycle::stop_on_signals(super::flush)?;
    let app = App::bind_handed(&config, &handed, Notifier::new(&environment)).await?.with_logs(logs);
    tokio::spawn(app.reload(sources).run(stop.clone()));
    app.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}
