//! `bootstrap`: an Envoy configuration that asks this server for its secrets.

use std::{net::SocketAddr, process::ExitCode};

use clap::ValueEnum;

use crate::{
    envoy::{self, Action, Bootstrap, Listener, Sds, Tls},
    identity::SpiffeId,
    source::Endpoint,
};

/// Prints an Envoy bootstrap that gets its secrets from here.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("A complete Envoy that answers over mTLS", "spiffe-sds bootstrap > envoy.yaml && envoy -c envoy.yaml"),
    ("The same over one delta ADS stream, for one client only",
     "spiffe-sds bootstrap --variant ads-delta --peer spiffe://example.org/client"),
    ("What to add to an Envoy configuration that you have already",
     "spiffe-sds bootstrap --fragment cluster; spiffe-sds bootstrap --fragment secrets --certificate spiffe://example.org/web"),
]))]
pub(super) struct Args {
    /// How Envoy asks for secrets.
    #[arg(long, value_enum, default_value_t = Variant::Sotw)]
    variant: Variant,
    /// Prints only a part, for a configuration that exists.
    #[arg(long, value_enum)]
    fragment: Option<Fragment>,
    /// Where the server listens: unix:///absolute/path or tcp://IP:port.
    #[arg(long, value_name = "ADDRESS", default_value = "unix:///run/spiffe-sds/sds.sock")]
    connect: Endpoint,
    /// The name of the certificate: the default one, or a SPIFFE ID.
    #[arg(long, value_name = "NAME", default_value = "default")]
    certificate: String,
    /// The name of the validation context: our own trust domain's, all of them, or the ID of a trust domain.
    #[arg(long, value_name = "NAME", default_value = "ROOTCA")]
    validation: String,
    /// A SPIFFE ID that is let in; can be repeated. Without any, whoever the validation context trusts is.
    #[arg(long, value_name = "SPIFFE_ID")]
    peer: Vec<SpiffeId>,
    /// Where Envoy listens.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Envoy's administration port. By default none.
    #[arg(long, value_name = "IP:PORT")]
    admin: Option<SocketAddr>,
    /// What Envoy calls itself.
    #[arg(long, value_name = "ID", default_value = "envoy")]
    node_id: String,
    /// What Envoy calls its kind.
    #[arg(long, value_name = "NAME", default_value = "envoy")]
    node_cluster: String,
}

/// How Envoy asks for secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    /// SDS, the whole state each time.
    Sotw,
    /// SDS, changes only.
    Delta,
    /// All secrets on one aggregated stream, the whole state each time.
    AdsSotw,
    /// All secrets on one aggregated stream, changes only.
    AdsDelta,
}

/// A part of a bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fragment {
    /// The connection to this server.
    Cluster,
    /// The references to secrets: a `common_tls_context`.
    Secrets,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    super::print(&render(args)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The YAML that was asked for.
fn render(args: &Args) -> anyhow::Result<String> {
    let variant = match args.variant {
        Variant::Sotw => envoy::Variant::Sotw,
        Variant::Delta => envoy::Variant::Delta,
        Variant::AdsSotw => envoy::Variant::AdsSotw,
        Variant::AdsDelta => envoy::Variant::AdsDelta,
    };
    let address = match args.connect.clone() {
        Endpoint::Unix(path) => envoy::Address::Unix(path),
        Endpoint::Tcp(address) => envoy::Address::Tcp(address),
    };
    let server = Sds::new(variant, address);
    let tls = args.peer.iter().fold(Tls::new(&args.certificate, &args.validation), |tls, id| tls.peer(id.to_string()));
    Ok(match args.fragment {
        Some(Fragment::Cluster) => Bootstrap::cluster_fragment(&server)?,
        Some(Fragment::Secrets) => Bootstrap::secrets_fragment(&server, &tls)?,
        None => {
            let listener = Listener::new("mtls", args.listen, Action::respond("hello from mTLS\n")).tls(tls);
            let bootstrap = Bootstrap::new(&args.node_id, &args.node_cluster, server).listener(listener);
            match args.admin {
                Some(admin) => bootstrap.admin(admin),
                None => bootstrap,
            }
            .to_yaml()?
        }
    })
}
