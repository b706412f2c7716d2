//! `bootstrap`: an Envoy configuration that asks this server for its secrets.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{ArgGroup, ValueEnum};
use tokio::time::timeout;

use super::admin;
use crate::{
    envoy::{self, Action, Bootstrap, Inject, JwtVerifier, Listener, Sds, Tls, Upstream},
    identity::{SpiffeId, TrustDomain},
    source::Endpoint,
};

/// How long the bundle endpoint may take to tell its refresh hint.
const ASKED: Duration = Duration::from_secs(2);

/// What Envoy's `tls_params.signature_algorithms` takes: BoringSSL's names, without those that rest on SHA-1.
const SIGNATURE_ALGORITHMS: [&str; 10] = [
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512",
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512",
    "ed25519",
];

/// Prints an Envoy bootstrap that gets its secrets from here.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("goal").multiple(true)), after_long_help = super::examples(&[
    ("A complete Envoy that answers over mTLS", "spiffe-sds bootstrap > envoy.yaml && envoy -c envoy.yaml"),
    ("The same over one delta ADS stream, for one client only",
     "spiffe-sds bootstrap --variant ads-delta --peer spiffe://example.org/client"),
    ("One that puts a token into each request to an mTLS server",
     "spiffe-sds bootstrap --token jwt:payments --upstream 10.0.0.7:8443 --listen 127.0.0.1:8080"),
    ("One that lets in only who has a JWT-SVID for it, besides mTLS", "spiffe-sds bootstrap --verify-jwt example.org=payments"),
    ("A client over ADS: plain requests in, mTLS out; its upstream comes from a file of its own",
     "spiffe-sds bootstrap --variant ads-delta --upstream 10.0.0.7:8443 --upstreams-from /etc/envoy/clusters.yaml > envoy.yaml; \
      spiffe-sds bootstrap --variant ads-delta --upstream 10.0.0.7:8443 --fragment upstreams > /etc/envoy/clusters.yaml"),
    ("Identities with P-521 or Ed25519 keys, which Envoy takes only when it is told to; both ends need it",
     "spiffe-sds bootstrap --signature-algorithms ecdsa_secp521r1_sha512,ecdsa_secp256r1_sha256"),
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
    /// Signature algorithms for TLS, in the names of BoringSSL, separated by commas. By default Envoy's own list, with
    /// which every handshake with a P-521 or Ed25519 certificate fails.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = signature_algorithm)]
    signature_algorithms: Vec<String>,
    /// The name of a token, put into each request as `Authorization: Bearer`, on its way to --upstream.
    #[arg(long, value_name = "NAME", requires = "goal")]
    token: Option<String>,
    /// Makes it a client: Envoy takes plain requests and forwards them over mTLS to this address.
    #[arg(long, value_name = "IP:PORT", value_parser = ip_and_port, group = "goal")]
    upstream: Option<SocketAddr>,
    /// The file, ending in .yaml, in which Envoy finds the upstream; needed with an ADS variant, because Envoy crashes
    /// when a static upstream takes its secrets over ADS. --fragment upstreams prints its content.
    #[arg(long, value_name = "PATH", requires = "upstream")]
    upstreams_from: Option<PathBuf>,
    /// Lets in only requests that carry a JWT-SVID of this trust domain for this audience; can be repeated, and then
    /// any one of them will do. The keys come from --bundles.
    #[arg(long, value_name = "TRUST_DOMAIN=AUDIENCE", value_parser = verifier)]
    verify_jwt: Vec<(TrustDomain, String)>,
    /// Where the server's bundle endpoint (`bundle_endpoint.listeners`) listens: unix:///absolute/path or tcp://IP:port.
    #[arg(long, value_name = "ADDRESS", default_value = "unix:///run/spiffe-sds/bundles.sock")]
    bundles: Endpoint,
    /// How often Envoy fetches the keys of --verify-jwt anew. By default the refresh hint that the bundle endpoint gives
    /// for the trust domain, or the default of `bundle_endpoint.refresh_hint`, 1m, where it does not answer. Keys have to
    /// be published for longer than this before they sign.
    #[arg(long, value_name = "DURATION", value_parser = refresh_hint)]
    refresh_hint: Option<Duration>,
    /// Where Envoy listens.
    #[arg(long, value_name = "IP:PORT", value_parser = ip_and_port, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where Envoy's administration interface listens: tcp://IP:port, IP:port or unix:///absolute/path. By default nowhere.
    #[arg(long, value_name = "ADDRESS", value_parser = admin::address)]
    admin: Option<Endpoint>,
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
    /// The content of the file that --upstreams-from names.
    Upstreams,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut verifiers = args.verifiers();
    for verifier in &mut verifiers {
        verifier.refresh = match args.refresh_hint {
            Some(hint) => hint,
            None => published_hint(&args.bundles, &verifier.trust_domain).await.unwrap_or(verifier.refresh),
        };
    }
    super::print_as_it_is(&render(args, verifiers)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The `spiffe_refresh_hint` of the trust domain's bundle, if the bundle endpoint is there to be asked.
async fn published_hint(bundles: &Endpoint, trust_domain: &str) -> Option<Duration> {
    let path = format!("/bundle/{trust_domain}");
    let (status, body) = timeout(ASKED, admin::request(bundles, "GET", &path, String::new())).await.ok()?.ok()?;
    let bundle: serde_json::Value = serde_json::from_slice(&body).ok().filter(|_| status.is_success())?;
    let hint = Duration::from_secs(bundle.get("spiffe_refresh_hint")?.as_u64()?);
    (!hint.is_zero()).then_some(hint)
}

/// The YAML that was asked for.
fn render(args: &Args, verifiers: Vec<JwtVerifier>) -> anyhow::Result<String> {
    let variant = match args.variant {
        Variant::Sotw => envoy::Variant::Sotw,
        Variant::Delta => envoy::Variant::Delta,
        Variant::AdsSotw => envoy::Variant::AdsSotw,
        Variant::AdsDelta => envoy::Variant::AdsDelta,
    };
    let server = Sds::new(variant, address(&args.connect));
    let tls = args.peer.iter().fold(Tls::new(&args.certificate, &args.validation), |tls, id| tls.peer(id.to_string()));
    let tls = tls.signature_algorithms(&args.signature_algorithms);
    Ok(match args.fragment {
        Some(Fragment::Cluster) => Bootstrap::cluster_fragment(&server)?,
        Some(Fragment::Secrets) => Bootstrap::secrets_fragment(&server, &tls)?,
        Some(Fragment::Token) => {
            let token = args.token.as_ref().context("--fragment token needs --token: which one shall be injected?")?;
            Bootstrap::token_fragment(&server, &Inject::token(token))?
        }
        Some(Fragment::Jwt) => {
            ensure!(!verifiers.is_empty(), "--fragment jwt needs --verify-jwt: whose tokens, and for whom?");
            Bootstrap::jwt_fragment(&address(&args.bundles), &verifiers)?
        }
        Some(Fragment::Upstreams) => {
            ensure!(args.upstream.is_some(), "--fragment upstreams needs --upstream: where do requests go?");
            whole(args, server, tls, verifiers).upstreams_fragment()?
        }
        None => {
            let whole = whole(args, server, tls, verifiers);
            ensure!(
                !variant.is_aggregated() || whole.upstreams.is_empty() || whole.upstreams_from.is_some(),
                "an upstream that takes its secrets over {variant} crashes Envoy unless it comes from a file: add \
                 --upstreams-from /etc/envoy/clusters.yaml, and fill that file with the output of the same command with \
                 --fragment upstreams"
            );
            whole.to_yaml()?
        }
    })
}

fn whole(args: &Args, server: Sds, tls: Tls, verifiers: Vec<JwtVerifier>) -> Bootstrap {
    let mut bootstrap = Bootstrap::new(&args.node_id, &args.node_cluster, server);
    let listener = match args.upstream {
        Some(upstream) => {
            bootstrap = bootstrap.upstream(Upstream::new("upstream", upstream).tls(tls));
            let egress = Listener::new("egress", args.listen, Action::forward("upstream"));
            args.token.iter().fold(egress, |egress, token| egress.inject(Inject::token(token)))
        }
        None => Listener::new("mtls", args.listen, Action::respond("hello from mTLS\n")).tls(tls),
    };
    if !verifiers.is_empty() {
        bootstrap = bootstrap.bundles(address(&args.bundles));
    }
    bootstrap.upstreams_from.clone_from(&args.upstreams_from);
    let bootstrap = bootstrap.listener(verifiers.into_iter().fold(listener, Listener::jwt));
    args.admin.iter().fold(bootstrap, |bootstrap, admin| bootstrap.admin(address(admin)))
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

/// `IP:port`, with or without `tcp://` in front.
fn ip_and_port(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    address.parse().map_err(|_| "write IP:port, for IPv6 [IP]:port".to_owned())
}

fn refresh_hint(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(hint) if hint >= Duration::from_secs(1) => Ok(hint),
        Ok(_) => Err("is shorter than 1s".to_owned()),
        Err(_) => Err("write a number with its unit, such as 10s or 1m".to_owned()),
    }
}

fn signature_algorithm(text: &str) -> Result<String, String> {
    if SIGNATURE_ALGORITHMS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("Envoy knows no such algorithm; it knows {}", SIGNATURE_ALGORITHMS.join(", ")))
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
    fn an_algorithm_is_one_of_boringssls() {
        assert_eq!(signature_algorithm("ed25519").as_deref(), Ok("ed25519"));
        assert!(signature_algorithm("ECDSA_P521").unwrap_err().contains("ecdsa_secp521r1_sha512"));
    }

    #[test]
    fn addresses_may_have_their_scheme() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(ip_and_port("127.0.0.1:80"), Ok(address));
        assert_eq!(ip_and_port("tcp://127.0.0.1:80"), Ok(address));
        assert!(ip_and_port("localhost:80").unwrap_err().contains("IP:port"));
    }

    #[test]
    fn a_verifier_is_a_trust_domain_and_an_audience() {
        let (trust_domain, audience) = verifier("example.org=https://api.example.com/?a=b").unwrap();
        assert_eq!((trust_domain.as_ref(), audience.as_str()), ("example.org", "https://api.example.com/?a=b"));
        for wrong in ["example.org", "example.org=", "=payments", "Example Org=payments"] {
            assert!(verifier(wrong).unwrap_err().ends_with("write such as example.org=payments"), "{wrong}");
        }
    }
}
