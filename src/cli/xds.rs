//! What `fetch` and `watch` share: the flags of an xDS client, how a secret is shown, and its files.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use crate::{
    admin::view::left,
    client::{
        self, Endpoint, Secret,
        secret::{Certificate, Content},
    },
    printable,
};

/// Where, as whom and what.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// The server: unix:///absolute/path or tcp://IP:port.
    #[arg(long, value_name = "ADDRESS", default_value = "unix:///run/spiffe-sds/sds.sock")]
    server: Endpoint,
    /// A secret to ask for; can be repeated. By default `default` and `ROOTCA`.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// The client's node.id.
    #[arg(long, value_name = "ID", default_value = "spiffe-sds", help_heading = "Node")]
    node_id: String,
    /// The client's node.cluster.
    #[arg(long, value_name = "NAME", default_value = "", help_heading = "Node")]
    node_cluster: String,
    /// A field of the client's node.metadata; the value is JSON or else text; can be repeated.
    #[arg(long = "node-metadata", value_name = "KEY=VALUE", value_parser = metadata, help_heading = "Node")]
    metadata: Vec<(String, serde_json::Value)>,
    /// How long connecting may take, and `fetch` may wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// Refuses whatever comes (NACK), to see what the server makes of it.
    #[arg(long)]
    nack: bool,
    /// Writes what comes into files in this directory, keys and tokens too, readable for this user only (mode 0600).
    #[arg(long, value_name = "DIR")]
    pub(super) out_dir: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl Args {
    pub(super) fn client(&self) -> client::Config {
        let names = match self.names.as_slice() {
            [] => vec!["default".to_owned(), "ROOTCA".to_owned()],
            names => names.to_vec(),
        };
        client::Config {
            endpoint: self.server.clone(),
            names,
            node: self.node_id.clone(),
            cluster: self.node_cluster.clone(),
            metadata: self.metadata.clone(),
            connect_timeout: self.timeout,
            refuse: self.nack.then(|| "refused on request (--nack)".to_owned()),
        }
    }
}

fn metadata(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as region=eu or canary=true")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

/// How streams are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Variant {
    /// StreamSecrets, a stream for each name as Envoy does.
    Sotw,
    /// DeltaSecrets, a stream for each name.
    Delta,
    /// StreamAggregatedResources, one stream.
    AdsSotw,
    /// DeltaAggregatedResources, one stream.
    AdsDelta,
}

impl From<Variant> for client::Variant {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Sotw => Self::Sotw,
            Variant::Delta => Self::Delta,
            Variant::AdsSotw => Self::AdsSotw,
            Variant::AdsDelta => Self::AdsDelta,
        }
    }
}

/// A secret for people and scripts. Holds no key and no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) version: String,
    /// `certificate`, `validation`, `token`, `generic` or `other`.
    pub(super) kind: &'static str,
    /// The SPIFFE ID, the trust domains or the token's audience, in words.
    pub(super) about: String,
    /// Of the leaf, or of all authorities.
    pub(super) serials: Vec<String>,
    pub(super) not_after: Option<String>,
    pub(super) expires_in_seconds: Option<u64>,
    pub(super) problems: Vec<String>,
    pub(super) details: serde_json::Value,
}

impl Row {
    pub(super) fn new(secret: &Secret, now: SystemTime) -> Self {
        let (kind, about, serials, details) = match &secret.content {
            Content::Certificate(chain) => {
                let leaf = chain.first();
                let about = leaf.and_then(|leaf| leaf.spiffe_id.clone()).unwrap_or_else(|| "no SPIFFE ID".into());
                let serials = leaf.map(|leaf| leaf.serial.clone()).into_iter().collect();
                let chain: Vec<_> = chain.iter().map(certificate).collect();
                ("certificate", about, serials, json!({ "chain_length": chain.len(), "chain": chain }))
            }
            Content::Validation { spiffe, domains } => {
                let serials = domains.iter().flat_map(|(_, all)| all.iter().map(|one| one.serial.clone())).collect();
                let about = domains.iter().map(|(name, authorities)| {
                    let name = if name.is_empty() { "any trust domain" } else { name };
                    format!("{name} ({})", authorities.len())
                });
                let about = about.collect::<Vec<_>>().join(", ");
                let about = if about.is_empty() { "trusts nobody".into() } else { about };
                let domains = domains.iter().map(|(name, authorities)| {
                    json!({ "trust_domain": name, "authorities": authorities.iter().map(certificate).collect::<Vec<_>>() })
                });
                let validator = if *spiffe { "spiffe" } else { "ca" };
                (
                    "validation",
                    about,
                    serials,
                    json!({ "validator": validator, "trust_domains": domains.collect::<Vec<_>>() }),
                )
            }
            Content::Generic { length, claims: Some(claims) } => {
                let about = format!("{} for {}", claims.subject, claims.audience.join(", "));
                let details = json!({ "bytes": length, "subject": claims.subject, "audience": claims.audience });
                ("token", about, Vec::new(), details)
            }
            Content::Generic { length: 0, .. } => ("generic", "empty".into(), Vec::new(), json!({ "bytes": 0 })),
            Content::Generic { length, .. } => {
                ("generic", format!("{length} bytes"), Vec::new(), json!({ "bytes": length }))
            }
            Content::Other => ("other", String::new(), Vec::new(), json!({})),
        };
        let expires = secret.expires();
        Self {
            name: shown(&secret.name),
            version: secret.version.clone(),
            kind,
            about,
            serials,
            not_after: expires.map(time),
            expires_in_seconds: expires.map(|at| at.duration_since(now).unwrap_or_default().as_secs()),
            problems: secret.problems.clone(),
            details,
        }
    }

    /// Serial numbers cut to what fits a line.
    pub(super) fn serial(&self) -> String {
        let short = |serial: &String| serial.get(..16).map_or_else(|| serial.clone(), |start| format!("{start}…"));
        match self.serials.as_slice() {
            [] => "-".into(),
            [only] => short(only),
            [first, rest @ ..] => format!("{} +{}", short(first), rest.len()),
        }
    }

    /// How long it lives, in words.
    pub(super) fn left(&self) -> String {
        match self.expires_in_seconds {
            None => "-".into(),
            Some(0) => "expired".into(),
            Some(seconds) => left(Duration::from_secs(seconds)),
        }
    }
}

fn certificate(certificate: &Certificate) -> serde_json::Value {
    json!({
        "spiffe_id": certificate.spiffe_id,
        "subject": certificate.subject,
        "serial": certificate.serial,
        "not_before": time(certificate.not_before),
        "not_after": time(certificate.not_after),
    })
}

pub(super) fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A server's name without what would move the cursor.
pub(super) fn shown(name: &str) -> String {
    printable::line(name).into_owned()
}

/// Writes a secret's files, each whole or not at all.
pub(super) fn save(directory: &Path, secret: &Secret) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for material in &secret.files {
        let path = directory.join(format!("{}.{}", file_name(&secret.name), file_name(&material.ending)));
        replace(&path, &material.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A name that stays in its directory and differs for different secrets.
fn file_name(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if !out.is_empty() => out.push('.'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = path.with_file_name(name);
    // A left-over of an earlier run with this process id; nobody else's file is opened, thanks to `create_new`.
    let _ = fs::remove_file(&draft);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_stay_in_their_directory() {
        assert_eq!(file_name("default"), "default");
        assert_eq!(file_name("spiffe://example.org/a"), "spiffe%3A%2F%2Fexample.org%2Fa");
        assert_eq!(file_name("../x"), "%2E.%2Fx");
        assert_eq!(file_name(".."), "%2E.");
        assert_ne!(file_name("a/b"), file_name("a%2Fb"), "what escapes is escaped");
    }

    #[test]
    fn files_are_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn metadata_is_json_or_text() {
        assert_eq!(metadata("a=true"), Ok(("a".into(), json!(true))));
        assert_eq!(metadata("a=b=c"), Ok(("a".into(), json!("b=c"))));
        assert!(metadata("a").is_err());
    }
}
