//! `bootstrap`: an Envoy configuration that asks this server for its secrets.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;

use crate::{
    envoy::{self, Action, Bootstrap, Inject, Listener, Sds, Tls, Upstream},
    identity::SpiffeId,
    source::Endpoint,
};

/// Prints an Envoy bootstrap that gets its secrets from here.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("A complete Envoy that answers over mTLS", "spiffe-sds bootstrap > envoy.yaml && envoy -c envoy.yaml"),
    ("The same over one delta ADS stream, for one client only",
     "spiffe-sds bootstrap --variant ads-delta --peer spiffe://example.org/client"),
    ("One that puts a token into each request to an mTLS server",
     "spiffe-sds bootstrap --token jwt:payments --upstream 10.0.0.7:8443 --listen 127.0.0.1:8080"),
    ("What to add to an Envoy configuration that you have already",
     "spiffe-sds bootstrap --fragment cluster; spiffe-sds bootstrap --fragment secrets --certificate spiffe://example.org/web"),
]))]
pub(super) struct Args {
    /// How Envoy asks for secrets.
    #[arg(long, value_enum, default_value_t = Variant::Sotw)]
    variant: Variant,
    /// Prints only a part, for a configuration that exists.
    #[arg(long, value_enum, group = "goal")]
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
    /// The name of a token, put into each request as `Authorization: Bearer`. Envoy then takes plain requests and
    /// forwards them over mTLS to --upstream.
    #[arg(long, value_name = "NAME", requires = "goal")]
    token: Option<String>,
    /// Where requests with the token go.
    #[arg(long, value_name = "IP:PORT", requires = "token", group = "goal")]
    upstream: Option<SocketAddr>,
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
    /// The injection of --token: an entry of `http_filters`.
    Token,
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
        Some(Fragment::Token) => {
            let token = args.token.as_ref().context("--fragment token needs --token: which one shall be injected?")?;
            Bootstrap::token_fragment(&server, &Inject::token(token))?
        }
        None => {
            let bootstrap = Bootstrap::new(&args.node_id, &args.node_cluster, server);
            let bootstrap = match (&args.token, args.upstream) {
                (Some(token), Some(upstream)) => {
                    let egress = Listener::new("egress", args.listen, Action::forward("upstream"));
                    let upstream = Upstream::new("upstream", upstream).tls(tls);
                    bootstrap.listener(egress.inject(Inject::token(token))).upstream(upstream)
                }
                _ => {
                    let answer = Action::respond("hello from mTLS\n");
                    bootstrap.listener(Listener::new("mtls", args.listen, answer).tls(tls))
                }
            };
            match args.admin {
                Some(admin) => bootstrap.admin(admin),
                None => bootstrap,
            }
            .to_yaml()?
        }
    })
}
