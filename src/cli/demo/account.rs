//! The account of the demonstration, as lines of text.

use std::time::{Duration, SystemTime};

use anstyle::{AnsiColor, Style};

use super::Ids;
use crate::dev::{CaStep, envoy::load::LoadReport};

const TITLE: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const TRUST: Style = AnsiColor::Yellow.on_default();
const ROTATED: Style = AnsiColor::Cyan.on_default();

/// One thing that happened.
#[derive(Debug, Default)]
pub(super) struct Row {
    /// In one or two words.
    pub(super) what: &'static str,
    /// To which identity or trust.
    pub(super) who: String,
    /// Of the certificate, hexadecimal; empty for trust.
    pub(super) serial: String,
    /// Which Envoy took it; empty when none had to.
    pub(super) by: String,
    /// From sending to its acknowledgement.
    pub(super) latency: Option<Duration>,
}

impl Row {
    /// The line, with what the load has seen up to now.
    pub(super) fn line(&self, load: &LoadReport) -> String {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let time = now.get(11..19).unwrap_or(&now);
        let style = if matches!(self.what, "rotated" | "new token") { ROTATED } else { TRUST };
        let latency = self.latency.map_or_else(String::new, |latency| format!("{:.1}ms", latency.as_secs_f64() * 1e3));
        let ok = load.requests.saturating_sub(load.failures);
        let failed = failed(load);
        format!(
            "{DIM}{time}{DIM:#} {style}{:<11}{style:#} {:<20} {:<8} {:<8} {latency:>8} {ok:>6} {failed}\n",
            self.what,
            short(&self.who),
            self.serial.get(..8).unwrap_or(&self.serial),
            self.by,
        )
    }
}

/// What is about to be seen.
pub(super) fn header(envoy: &str, ids: &Ids, page: &str) -> String {
    let (frontend, backend) = (ids.frontend.to_string(), ids.backend.to_string());
    let (frontend, backend) = (short(&frontend), short(&backend));
    format!(
        "\n{TITLE}Two Envoys {envoy} in mTLS, every request on a connection of its own{TITLE:#}\n\n\
         \x20 requests --> frontend ==== mTLS + JWT ====> backend    {frontend}\n\
         \x20                 ^                            ^         {backend}\n\
         \x20           delta |                            | SotW\n\
         \x20                 '-------- spiffe-sds --------'\n\
         \x20                               ^\n\
         \x20                               | Workload API\n\
         \x20                      development issuer, not for production\n\n\
         Who holds what: {TITLE}{page}/{TITLE:#} in a browser. Ctrl-C ends it.\n\n\
         PUSH-ACK is the time from sending a secret to Envoy's acknowledgement; a\n\
         rotation is listed once Envoy's own admin interface shows the new serial in\n\
         use. A JWT-SVID goes with each request.\n\n\
         {TITLE}{:<8} {:<11} {:<20} {:<8} {:<8} {:>8} {:>6} FAIL{TITLE:#}\n",
        "UTC", "WHAT", "WHO", "SERIAL", "ENVOY", "PUSH-ACK", "OK"
    )
}

/// A SPIFFE ID without what all of them have in common.
fn short(id: &str) -> &str {
    id.strip_prefix("spiffe://").unwrap_or(id)
}

/// How it went.
pub(super) fn summary(load: &LoadReport) -> String {
    let ok = load.requests.saturating_sub(load.failures);
    let mut text = format!(
        "\n{TITLE}{ok} requests ok, {}{TITLE} failed{TITLE:#} in {:.0} s; p50 {:.1} ms, p99 {:.1} ms\n",
        failed(load),
        load.elapsed.as_secs_f64(),
        load.p50.as_secs_f64() * 1e3,
        load.p99.as_secs_f64() * 1e3,
    );
    for failure in &load.samples {
        text.push_str(&format!("{BAD}failed{BAD:#} after {:.1} s: {}\n", failure.at.as_secs_f64(), failure.detail));
    }
    text
}

/// A step of a CA roll-over in words.
pub(super) fn step(step: CaStep) -> &'static str {
    match step {
        CaStep::Prepare => "CA prepared",
        CaStep::Activate => "CA active",
        CaStep::Retire => "CA retired",
    }
}

fn failed(load: &LoadReport) -> String {
    let style = if load.failures == 0 { GOOD } else { BAD };
    format!("{style}{}{style:#}", load.failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TrustDomain;

    #[test]
    fn the_demonstration_fits_a_terminal() {
        let ids = Ids::new(&TrustDomain::new("example.org").unwrap()).unwrap();
        let row = Row {
            what: "CA prepared",
            who: "spiffe://example.org/frontend".into(),
            serial: "a".repeat(40),
            by: "frontend".into(),
            latency: Some(Duration::from_millis(1234)),
        };
        let load = LoadReport { requests: 999_999, ..LoadReport::default() };
        let text = header("1.40.0", &ids, "http://127.0.0.1:65535") + &row.line(&load);
        let plain = anstream::adapter::strip_str(&text).to_string();
        for line in plain.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
}
