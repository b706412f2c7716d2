//! Questions to a running Envoy's admin interface.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;

use super::{POLL, http};
use crate::telemetry::logs;

/// The admin interface of one Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    address: SocketAddr,
}

/// Why there is no answer, or not the one waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Envoy does not answer.
    #[error("envoy's admin interface at {address} did not answer {path}: {detail}")]
    Unreachable {
        /// The admin interface.
        address: SocketAddr,
        /// What was asked.
        path: String,
        /// The error with its causes.
        detail: String,
    },
    /// Envoy answers something else.
    #[error("envoy's admin interface answered {path} with {status}: {body}")]
    Answer {
        /// What was asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// A bounded wait ended.
    #[error("waited {bound:?} for {what}, last seen: {last}")]
    Waited {
        /// The bound.
        bound: Duration,
        /// What was waited for.
        what: String,
        /// What there was instead.
        last: String,
    },
}

impl Admin {
    /// A request that takes longer than this has failed.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// The admin interface at this address; nothing is sent yet.
    pub const fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The body of a page, for example `/config_dump`.
    ///
    /// # Errors
    /// When Envoy does not answer, or not with 200.
    pub async fn get(&self, path: &str) -> Result<Bytes, Error> {
        self.ask("GET", path).await
    }

    /// The same for the pages that change something, for example `/drain_listeners`.
    ///
    /// # Errors
    /// When Envoy does not answer, or not with 200.
    pub async fn post(&self, path: &str) -> Result<Bytes, Error> {
        self.ask("POST", path).await
    }

    /// Whether every listener and cluster of the start has been initialised. An Envoy that ran into
    /// `initial_fetch_timeout` also says so: look at the secrets too.
    pub async fn is_ready(&self) -> bool {
        self.get("/ready").await.is_ok_and(|body| body.starts_with(b"LIVE"))
    }

    /// `/server_info`: version, state, uptime, command line.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn server_info(&self) -> Result<Value, Error> {
        self.json("/server_info").await
    }

    /// Counters, gauges and text readouts whose name matches this regular expression (RE2, unanchored).
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, Value>, Error> {
        let page = self.json(&format!("/stats?format=json&filter={}", percent_encode(filter))).await?;
        let stats = page.get("stats").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named = |stat: &Value| Some((stat.get("name")?.as_str()?.to_owned(), stat.get("value")?.clone()));
        Ok(stats.iter().filter_map(named).collect())
    }

    /// One counter or gauge by its whole name; none while Envoy has not made it.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.stats(&exactly(name)).await?.get(name).and_then(Value::as_u64))
    }

    /// One text readout by its whole name, for example `sds.default.version_text`.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn text(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(self.stats(&exactly(name)).await?.get(name).and_then(Value::as_str).map(str::to_owned))
    }

    /// Waits until a counter or gauge is as wanted, and returns it. One that does not exist yet counts as 0.
    ///
    /// # Errors
    /// When it is not within the bound; the last value or error is in the message.
    pub async fn wait_stat(&self, name: &str, wanted: impl Fn(u64) -> bool, bound: Duration) -> Result<u64, Error> {
        let probe = async || match self.stat(name).await {
            Ok(value) if wanted(value.unwrap_or(0)) => Ok(value.unwrap_or(0)),
            Ok(value) => Err(format!("{value:?}")),
            Err(error) => Err(error.to_string()),
        };
        until(bound, &format!("stat {name}"), probe).await
    }

    /// `/certs`: every certificate in use by a TLS context.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn certs(&self) -> Result<Value, Error> {
        self.json("/certs").await
    }

    /// The serial numbers of the leaf certificates in use, in hexadecimal as Envoy prints them, sorted, each once.
    /// Connections pin the context they were made with, so a replaced serial can stay for a while.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn cert_serials(&self) -> Result<Vec<String>, Error> {
        self.serials("cert_chain").await
    }

    /// Waits until a leaf certificate with this serial number is in use.
    ///
    /// # Errors
    /// When it is not within the bound; the serials in use are in the message.
    pub async fn wait_serial(&self, serial: &str, bound: Duration) -> Result<(), Error> {
        let probe = async || match self.cert_serials().await {
            Ok(serials) if serials.iter().any(|used| used == serial) => Ok(()),
            Ok(serials) => Err(format!("{serials:?}")),
            Err(error) => Err(error.to_string()),
        };
        until(bound, &format!("certificate {serial}"), probe).await
    }

    /// [`cert_serials`](Self::cert_serials) of the authorities in the validation contexts.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn authority_serials(&self) -> Result<Vec<String>, Error> {
        self.serials("ca_cert").await
    }

    /// The dumps of one resource field, for example `dynamic_active_secrets` or `dynamic_warming_secrets`. A secret
    /// here may be one that its users rejected; what serves is in [`certs`](Self::certs).
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn config_dump(&self, resource: &str) -> Result<Vec<Value>, Error> {
        let mut page = self.json(&format!("/config_dump?resource={resource}")).await?;
        let configs = page.get_mut("configs").map(Value::take);
        Ok(configs.and_then(|configs| configs.as_array().cloned()).unwrap_or_default())
    }

    /// The version of the secret of this name that Envoy holds; none while it waits for one.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn secret_version(&self, name: &str) -> Result<Option<String>, Error> {
        let secrets = self.config_dump("dynamic_active_secrets").await?;
        let text = |secret: &Value, key: &str| secret.get(key).and_then(Value::as_str).map(str::to_owned);
        let found = secrets.iter().find(|secret| text(secret, "name").as_deref() == Some(name));
        Ok(found.and_then(|secret| text(secret, "version_info")))
    }

    /// Where each listener really listens, by its name; port 0 has become a port here.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn listeners(&self) -> Result<BTreeMap<String, SocketAddr>, Error> {
        let page = self.json("/listeners?format=json").await?;
        let listeners = page.get("listener_statuses").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let parse = |listener: &Value| {
            let socket = listener.get("local_address")?.get("socket_address")?;
            let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
            let ip = socket.get("address")?.as_str()?.parse().ok()?;
            Some((listener.get("name")?.as_str()?.to_owned(), SocketAddr::new(ip, port)))
        };
        Ok(listeners.iter().filter_map(parse).collect())
    }

    async fn serials(&self, chain: &str) -> Result<Vec<String>, Error> {
        let page = self.certs().await?;
        let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut serials: Vec<_> = list(&page, "certificates")
            .iter()
            .flat_map(|certificate| list(certificate, chain))
            .filter_map(|certificate| certificate.get("serial_number")?.as_str().map(str::to_owned))
            .collect();
        serials.sort();
        serials.dedup();
        Ok(serials)
    }

    async fn json(&self, path: &str) -> Result<Value, Error> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer {
            path: path.to_owned(),
            status: 200,
            body: format!("{error} in {:?}", beginning(&body)),
        })
    }

    async fn ask(&self, method: &str, path: &str) -> Result<Bytes, Error> {
        let answer = http::request(self.address, method, path, Self::TIMEOUT).await;
        let answer = answer.map_err(|error| Error::Unreachable {
            address: self.address,
            path: path.to_owned(),
            detail: logs::chain(&error),
        })?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (status, body) = (answer.status().as_u16(), beginning(answer.body()));
        Err(Error::Answer { path: path.to_owned(), status, body })
    }
}

/// Looks until `probe` has an answer; until then it says what it sees instead.
///
/// # Errors
/// When `bound` has passed without an answer.
pub async fn until<T>(
    bound: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Error> {
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(last) if begun.elapsed() >= bound => return Err(Error::Waited { bound, what: what.to_owned(), last }),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// A regular expression for exactly this name.
fn exactly(name: &str) -> String {
    let mut pattern = String::from("^");
    for c in name.chars() {
        if !c.is_alphanumeric() && c != '_' {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "$"
}

/// Everything but letters, digits and `-._~` (RFC 3986, section 2.3) percent-encoded.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_exactly() {
        assert_eq!(exactly("sds.ALL.update_success"), r"^sds\.ALL\.update_success$");
        assert_eq!(percent_encode("^a.b+é$"), "%5Ea.b%2B%C3%A9%24");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_bound_and_says_what_it_saw() {
        let begun = Instant::now();
        let error = until(Duration::from_millis(50), "a miracle", async || Err::<(), _>("nothing".into())).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("a miracle") && error.contains("nothing"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
