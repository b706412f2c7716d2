//! Where identities come from: which sources, in which order, and how their failures are treated.

use std::{path::PathBuf, time::Duration};

use super::{Compose, MINUTE, Problem, raw, scalar};
use crate::{
    identity::TrustDomain,
    source::{Config as Source, Endpoint, backoff, failover, files, supervisor, workload_api},
};

const API: &str = "source.workload_api";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The `source` section.
pub(super) struct Composed {
    /// The preferred one first. Never empty, but where a problem says why.
    pub(super) sources: Vec<Source>,
    pub(super) failover: failover::Config,
    pub(super) supervisor: supervisor::Config,
}

fn missing_endpoint() -> Problem {
    let fix = "is not set; set SPIFFE_ENDPOINT_SOCKET, pass --endpoint, or write it into the configuration file";
    Problem::new(None, "source.workload_api.endpoint", fix)
}

impl Compose {
    pub(super) fn source(&mut self, raw: raw::Source) -> Composed {
        let wanted = raw.files.is_some();
        let mut sources = self.workload_apis(raw.workload_api);
        sources.extend(raw.files.and_then(|files| self.files(files)).map(Source::Files));
        // A misspelt key was complained about; that the right one is missing is then no news.
        if sources.is_empty() && !wanted && self.is_sound("source") {
            self.problems.push(missing_endpoint());
        }
        Composed {
            sources,
            failover: self.failover(raw.failover),
            supervisor: self.supervisor(raw.denied_grace, raw.backoff),
        }
    }

    fn workload_apis(&mut self, mut raw: raw::WorkloadApi) -> Vec<Source> {
        let (one, several) = (format!("{API}.endpoint"), format!("{API}.endpoints"));
        if raw.endpoint.is_some() && raw.endpoints.is_some() {
            // A flag or variable beats the file, whichever of the two it sets.
            match (self.is_in_file(&one), self.is_in_file(&several)) {
                (false, true) => raw.endpoints = None,
                (true, false) => raw.endpoint = None,
                _ => self.complain(&several, "stands beside `endpoint`; move that one into this list"),
            }
        }
        let trust_domain =
            self.parse(&format!("{API}.trust_domain"), raw.trust_domain, |text| scalar::trust_domain(&text));
        let listed = raw.endpoints.is_some();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (index, text) in raw.endpoints.into_iter().flatten().enumerate() {
            let key = format!("{several}[{index}]");
            let Some(endpoint) = self.parse(&key, Some(text), |text| scalar::endpoint(&text)) else { continue };
            if endpoints.contains(&endpoint) {
                self.complain(&key, "is in the list already; remove one of the two");
            }
            endpoints.push(endpoint);
        }
        if listed && endpoints.is_empty() && self.is_sound(&several) {
            self.complain(&several, "is empty; write at least one endpoint, or remove the key");
        }
        endpoints.extend(self.parse(&one, raw.endpoint, |text| scalar::endpoint(&text)));
        let api = |endpoint| Source::WorkloadApi(workload_api::Config { endpoint, trust_domain: trust_domain.clone() });
        endpoints.into_iter().map(api).collect()
    }

    fn is_in_file(&self, key: &str) -> bool {
        self.places.get(key).is_some_and(|origin| origin.is_in_file())
    }

    fn files(&mut self, raw: raw::Files) -> Option<files::Config> {
        let key = "source.files";
        let svids: Vec<_> = raw.svids.into_iter().flatten().collect();
        let bundles: Vec<_> = raw.bundles.into_iter().flatten().collect();
        if svids.is_empty() && bundles.is_empty() && self.is_sound(key) {
            self.complain(key, "has neither `svids` nor `bundles`; write where the files are");
        }
        let svids: Vec<_> = svids
            .into_iter()
            .enumerate()
            .filter_map(|(index, raw)| self.file_svid(&format!("{key}.svids[{index}]"), raw))
            .collect();
        let mut config = files::Config { svids, bundles: Default::default() };
        for (index, raw) in bundles.into_iter().enumerate() {
            let key = format!("{key}.bundles[{index}]");
            let Some((trust_domain, path)) = self.file_bundle(&key, raw) else { continue };
            if config.bundles.insert(trust_domain, path).is_some() {
                self.complain(
                    &format!("{key}.trust_domain"),
                    "has a bundle in this list already; remove one of the two",
                );
            }
        }
        self.is_sound(key).then_some(config)
    }

    fn file_svid(&mut self, key: &str, raw: raw::FileSvid) -> Option<files::SvidFiles> {
        let raw::FileSvid { directory, certificate, key: private_key, bundle, hint } = raw;
        let mut path = |name: &str, value: Option<String>| {
            self.parse(&format!("{key}.{name}"), value, |text| scalar::file_path(&text))
        };
        let paths = match (directory, certificate, private_key) {
            (Some(directory), None, None) => {
                let bundle = bundle.map(|bundle| path("bundle", Some(bundle)));
                let directory = path("directory", Some(directory))?;
                files::Paths::Directory { directory, bundle: bundle.flatten() }
            }
            (None, Some(certificate), Some(private_key)) => {
                let bundle = bundle.map(|bundle| path("bundle", Some(bundle)));
                let (certificate, key) = (path("certificate", Some(certificate)), path("key", Some(private_key)));
                files::Paths::Each { certificate: certificate?, key: key?, bundle: bundle.flatten() }
            }
            _ => {
                if self.is_sound(key) {
                    self.complain(key, "needs either `directory`, or `certificate` and `key`; write one of the two");
                }
                return None;
            }
        };
        Some(files::SvidFiles { paths, hint: hint.unwrap_or_default() })
    }

    fn file_bundle(&mut self, key: &str, raw: raw::FileBundle) -> Option<(TrustDomain, PathBuf)> {
        if (raw.trust_domain.is_none() || raw.path.is_none()) && self.is_sound(key) {
            self.complain(key, "needs `trust_domain` and `path`; write both");
        }
        let trust_domain =
            self.parse(&format!("{key}.trust_domain"), raw.trust_domain, |text| scalar::trust_domain(&text));
        let path = self.parse(&format!("{key}.path"), raw.path, |text| scalar::file_path(&text));
        Some((trust_domain?, path?))
    }

    fn failover(&mut self, raw: raw::Failover) -> failover::Config {
        let default = failover::Config::default();
        let (lost, failback) = ("source.failover.lost_after", "source.failover.failback_after");
        failover::Config {
            lost_after: self.duration(lost, raw.lost_after, default.lost_after, Duration::ZERO..=60 * MINUTE),
            stale_percent: raw.stale_percent.unwrap_or(default.stale_percent),
            failback_after: self.duration(failback, raw.failback_after, default.failback_after, Duration::ZERO..=DAY),
            on_denial: raw.on_denial.unwrap_or(default.on_denial),
        }
    }

    fn supervisor(&mut self, denied_grace: Option<String>, raw: raw::Backoff) -> supervisor::Config {
        let default = supervisor::Config::default();
        let millis = Duration::from_millis;
        let (initial_key, max_key) = ("source.backoff.initial", "source.backoff.max");
        let initial = self.duration(initial_key, raw.initial, default.backoff.initial, millis(10)..=MINUTE);
        let max = self.duration(max_key, raw.max, default.backoff.max, millis(100)..=10 * MINUTE);
        if initial > max && self.is_sound("source.backoff") {
            let (at, other, value) = if self.places.contains_key(max_key) {
                (max_key, "initial", initial)
            } else {
                (initial_key, "max", max)
            };
            let value = humantime::format_duration(value);
            let relation = if at == max_key { "shorter than" } else { "longer than" };
            self.complain(at, format!("is {relation} `{other}`, which is {value}; make `max` the longer one"));
        }
        let grace = Duration::ZERO..=24 * 60 * MINUTE;
        supervisor::Config {
            backoff: backoff::Config { initial, max },
            denied_grace: self.duration("source.denied_grace", denied_grace, default.denied_grace, grace),
        }
    }
}
