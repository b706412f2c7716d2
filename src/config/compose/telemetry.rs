//! The section `telemetry`.

use std::time::Duration;

use super::{Compose, MINUTE, raw, scalar};
use crate::telemetry::traces::{self, EndpointError};

const SECTION: &str = "telemetry.traces";
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

impl Compose {
    pub(super) fn traces(&mut self, raw: raw::Traces) -> Option<traces::Config> {
        let given = raw.endpoint.is_some();
        let endpoint = self.parse("telemetry.traces.endpoint", raw.endpoint, |text| {
            text.parse::<traces::Endpoint>().map_err(|error: EndpointError| error.to_string())
        });
        let service_name = self.parse("telemetry.traces.service_name", raw.service_name, |text| scalar::label(&text));
        let headers_file =
            self.parse("telemetry.traces.headers_file", raw.headers_file, |text| scalar::file_path(&text));
        let bounds = SHORTEST_TIMEOUT..=MINUTE;
        let timeout = self.duration("telemetry.traces.timeout", raw.timeout, traces::Config::TIMEOUT, bounds);
        if !given {
            if headers_file.is_some() && self.is_sound(SECTION) {
                self.complain(
                    "telemetry.traces.headers_file",
                    "is about traces, which have no `endpoint`; write where to send them",
                );
            }
            return None;
        }
        if !cfg!(feature = "otlp") {
            self.complain(
                "telemetry.traces.endpoint",
                "needs a build that can send traces, which this one is not; build with `--features otlp`, or remove the key",
            );
        }
        let default = traces::Config::new(endpoint?);
        Some(traces::Config {
            service_name: service_name.unwrap_or(default.service_name),
            sample_percent: raw.sample_percent.unwrap_or(default.sample_percent),
            headers_file,
            timeout,
            ..default
        })
    }
}
