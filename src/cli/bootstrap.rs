//! `bootstrap`: an Envoy configuration that asks this server for its secrets.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use crate::{
    envoy::{self, Action, Bootstrap, Inject, JwtVerifier, Listener, Sds, Tls, Upstream},
    identity::{SpiffeId, TrustDomain},
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
    ("One that lets in only who has a JWT-SVID for it, besides mTLS", "spiffe-sds bootstrap --verify-jwt example.org=payments"),
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
    /// Lets in only requests that carry a JWT-SVID of this trust domain for this audience; can be repeated, and then
    /// any one of them will do. The keys come from --bundles.
    #[arg(long, value_name = "TRUST_DOMAIN=AUDIENCE", value_parser = verifier)]
    verify_jwt: Vec<(TrustDomain, String)>,
    /// Where the server's bundle endpoint (`bundle_endpoint.listeners`) listens: unix:///absolute/path or tcp://IP:port.
    #[arg(long, value_name = "ADDRESS", default_value = "unix:///run/spiffe-sds/bundles.sock")]
    bundles: Endpoint,
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
    /// The verification of --verify-jwt: an entry of `http_filters`, and the connection to the keys.
    Jwt,
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
    let server = Sds::new(variant, address(&args.connect));
    let tls = args.peer.iter().fold(Tls::new(&args.certificate, &args.validation), |tls, id| tls.peer(id.to_string()));
    Ok(match args.fragment {
        Some(Fragment::Cluster) => Bootstrap::cluster_fragment(&server)?,
        Some(Fragment::Secrets) => Bootstrap::secrets_fragment(&server, &tls)?,
        Some(Fragment::Token) => {
            let token = args.token.as_ref().context("--fragment token needs --token: which one shall be injected?")?;
            Bootstrap::token_fragment(&server, &Inject::token(token))?
        }
        Some(Fragment::Jwt) => {
            let verifiers = args.verifiers();
            ensure!(!verifiers.is_empty(), "--fragment jwt needs --verify-jwt: whose tokens, and for whom?");
            Bootstrap::jwt_fragment(&address(&args.bundles), &verifiers)?
        }
        None => whole(args, server, tls).to_yaml()?,
    })
}

fn whole(args: &Args, server: Sds, tls: Tls) -> Bootstrap {
    let bootstrap = Bootstrap::new(&args.node_id, &args.node_cluster, server);
    let (listener, upstream) = match (&args.token, args.upstream) {
        (Some(token), Some(upstream)) => {
            let egress = Listener::new("egress", args.listen, Action::forward("upstream"));
            (egress.inject(Inject::token(token)), Some(Upstream::new("upstream", upstream).tls(tls)))
        }
        _ => (Listener::new("mtls", args.listen, Action::respond("hello from mTLS\n")).tls(tls), None),
    };
    let bootstrap = bootstrap.listener(args.verifiers().into_iter().fold(listener, Listener::jwt));
    let bootstrap = upstream.into_iter().fold(bootstrap, Bootstrap::upstream);
    let bootstrap = if args.verify_jwt.is_empty() { bootstrap } else { bootstrap.bundles(address(&args.bundles)) };
    args.admin.into_iter().fold(bootstrap, Bootstrap::admin)
}

fn address(endpoint: &Endpoint) -> envoy::Address {
    match endpoint.clone() {
        Endpoint::Unix(path) => envoy::Address::Unix(path),
        Endpoint::Tcp(address) => envoy::Address::Tcp(address),
    }
}

impl Args {
    /// One for each trust domain, with all the audiences that are written for it.
    fn verifiers(&self) -> Vec<JwtVerifier> {
        let mut verifiers: Vec<JwtVerifier> = Vec::new();
        for (trust_domain, audience) in &self.verify_jwt {
            match verifiers.iter_mut().find(|known| known.trust_domain == trust_domain.to_string()) {
                Some(known) => known.audiences.push(audience.clone()),
                None => verifiers.push(JwtVerifier::new(trust_domain.to_string(), audience)),
            }
        }
        verifiers
    }
}

fn verifier(text: &str) -> Result<(TrustDomain, String), String> {
    let example = "write such as example.org=payments";
    match text.split_once('=') {
        Some((_, "")) | None => Err(format!("has no audience; {example}")),
        Some((trust_domain, audience)) => TrustDomain::new(trust_domain)
            .map(|trust_domain| (trust_domain, audience.to_owned()))
            .map_err(|error| format!("{error}; {example}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_a_trust_domain_and_an_audience() {
        let (trust_domain, audience) = verifier("example.org=https://api.example.com/?a=b").unwrap();
        assert_eq!((trust_domain.as_ref(), audience.as_str()), ("example.org", "https://api.example.com/?a=b"));
        for wrong in ["example.org", "example.org=", "=payments", "Example Org=payments"] {
            assert!(verifier(wrong).unwrap_err().ends_with("write such as example.org=payments"), "{wrong}");
        }
    }
}
