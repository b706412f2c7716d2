//! What the page, `/debug` and `spiffe-sds status` show: plain values, read from the running server at one moment.
//!
//! Times are RFC 3339 in UTC. Nothing here has a field that could hold a private key or a token.

mod client;
mod configuration;
mod identity;
mod source;
mod withdrawn;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::actions::Actions;
use crate::{
    identity::{Availability, JwtSnapshot, Refusal, Withdrawn},
    lifecycle::{self, Readiness},
    server::Streams,
    source::{LineStatus, SourceStatus},
    telemetry::journal::{Entry, Journal, Weight},
};

pub use client::{Clients, Name, Stream, Totals};
pub use configuration::{Change, Configuration, Origin, Reloaded, Setting};
pub use identity::{Authority, Identity, Token, Trust, identities, tokens, trust};
pub use source::{InService, LeftOut, Source, SourceState, Standing};
pub use withdrawn::Gone;

/// What is looked at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Since when the server runs.
    pub started: SystemTime,
    /// For the first line of the page.
    pub readiness: Readiness,
    /// Where identities come from, the preferred source first.
    pub sources: watch::Receiver<Arc<[LineStatus]>>,
    /// What of their answers is left out of what is served.
    pub refused: watch::Receiver<Arc<[Refusal]>>,
    /// How the one in service does.
    pub source: watch::Receiver<SourceStatus>,
    /// The configuration in force; none where the program was not started from one.
    pub configuration: watch::Receiver<Option<Arc<Configuration>>>,
    /// What is in service.
    pub identities: watch::Receiver<Availability>,
    /// Tokens in service, and the keys that verify them.
    pub tokens: watch::Receiver<Arc<JwtSnapshot>>,
    /// What was in service, and the source lists no longer.
    pub withdrawn: watch::Receiver<Arc<[Withdrawn]>>,
    /// Who is connected.
    pub streams: Streams,
    /// What happened.
    pub journal: Journal,
    /// What an operator can do.
    pub actions: Actions,
}

/// Something that must hold before the server counts as ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// Its stable name.
    pub name: String,
    /// Whether it holds.
    pub ready: bool,
    /// Whether the server is not ready without it; it is degraded otherwise.
    #[serde(default = "counts")]
    pub required: bool,
    /// Why it does not hold.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Servers of before had no others.
fn counts() -> bool {
    true
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one an event.
    pub sequence: u64,
    /// The first time.
    pub first: String,
    /// The last time, if it happened more than once.
    pub last: String,
    /// How often.
    pub count: u64,
    /// `routine`, `notice` or `problem`.
    pub weight: String,
    /// A stable name.
    pub event: String,
    /// A resource name, SPIFFE ID or trust domain.
    pub subject: String,
    /// A version, or somebody's words.
    pub detail: String,
    /// The client or operator; the first of several.
    pub who: String,
}

impl Condition {
    /// Whether somebody must look into it. How the source does stands elsewhere, in more words.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        !self.ready && self.name != "source"
    }
}

impl Sight {
    /// What must hold before the server counts as ready.
    #[must_use]
    pub fn conditions(&self) -> Vec<Condition> {
        self.readiness.conditions().into_iter().map(Condition::from).collect()
    }
}

impl From<lifecycle::Condition> for Condition {
    fn from(it: lifecycle::Condition) -> Self {
        Self {
            name: it.name.to_owned(),
            ready: it.pending.is_none(),
            required: it.required,
            reason: it.pending.map(std::borrow::Cow::into_owned),
        }
    }
}

/// Some events.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// How many match.
    pub matched: usize,
    /// How many were passed over.
    pub offset: usize,
    /// Newest first.
    pub events: Vec<Event>,
}

/// What an identity's or authority's validity says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// As it should be.
    Valid,
    /// Less than a third of its life is left: a source that renews in time has renewed by then.
    Expiring,
    /// Begins in the future.
    NotYetValid,
    /// Over.
    Expired,
}

impl Life {
    fn of(from: SystemTime, to: SystemTime, now: SystemTime) -> Self {
        let life = to.duration_since(from).unwrap_or_default();
        match to.duration_since(now) {
            Err(_) => Self::Expired,
            Ok(_) if now < from => Self::NotYetValid,
            Ok(left) if left < life / 3 => Self::Expiring,
            Ok(_) => Self::Valid,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expires soon",
            Self::NotYetValid => "not yet valid",
            Self::Expired => "expired",
        }
    }
}

impl Sight {
    /// The events that mention `text`, newest first.
    #[must_use]
    pub fn events(&self, text: &str, offset: usize, limit: usize) -> Events {
        let text = text.to_lowercase();
        let mentions = |entry: &Entry| {
            let fields = [entry.kind, entry.weight.as_str(), &entry.subject, &entry.detail, &entry.who];
            text.is_empty()
                || fields.iter().any(|field| field.to_lowercase().contains(&text))
                || time(entry.first).to_lowercase().contains(&text)
        };
        let (matched, entries) = self.journal.newest(mentions, offset, limit);
        Events { matched, offset, events: entries.into_iter().map(Event::from).collect() }
    }
}

impl From<Entry> for Event {
    fn from(entry: Entry) -> Self {
        Self {
            sequence: entry.sequence,
            first: time(entry.first),
            last: time(entry.last),
            count: entry.count,
            weight: entry.weight.as_str().to_owned(),
            event: entry.kind.to_owned(),
            subject: entry.subject.to_string(),
            detail: entry.detail.to_string(),
            who: entry.who.to_string(),
        }
    }
}

impl Event {
    /// Whether somebody should look.
    #[must_use]
    pub fn is_problem(&self) -> bool {
        self.weight == Weight::Problem.as_str()
    }
}

/// RFC 3339 with milliseconds, UTC.
pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// RFC 3339 with seconds, UTC: for certificates.
pub(crate) fn seconds(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The two largest units, such as `364d 23h` or `1m 5s`.
pub(crate) fn left(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    let largest = units.iter().position(|(_, count)| *count > 0).unwrap_or(3);
    let shown = units.iter().skip(largest).take(2).filter(|(unit, count)| *count > 0 || *unit == "s" && seconds == 0);
    shown.map(|(unit, count)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_two_units() {
        let of = |seconds| left(Duration::from_secs(seconds));
        let said = [of(0), of(65), of(60), of(3_600), of(86_399), of(31_535_990)];
        assert_eq!(said, ["0s", "1m 5s", "1m", "1h", "23h 59m", "364d 23h"]);
    }
}
