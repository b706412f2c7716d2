//! Clients and what they hold.

use serde::{Deserialize, Serialize};

use super::{Sight, time};
use crate::server::registry::{Counts, NameView, Query, State, StreamView};

/// Names shown of one stream. Aggregated streams may have thousands.
const NAMES_SHOWN: usize = 100;
/// Characters of one text of a client's.
const LONGEST: usize = 512;

/// Some of the streams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// Over all streams.
    pub totals: Totals,
    /// Streams found.
    pub matched: usize,
    /// How many of them were passed over.
    pub offset: usize,
    /// Those of clients in trouble first, then by node and peer.
    pub streams: Vec<Stream>,
}

/// How all streams stand.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Totals {
    /// Live streams.
    pub streams: usize,
    /// Names that clients have in their newest version.
    pub synced: usize,
    /// Names that were not sent, because nothing of them is there (yet).
    pub not_sent: usize,
    /// Names that cannot be had.
    #[serde(default)]
    pub never: usize,
    /// Names that wait for the client's answer.
    pub stale: usize,
    /// Names whose content the client refused.
    pub error: usize,
}

/// One stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    /// Unique in the life of the process.
    pub id: u64,
    /// `node.id`, as the client says.
    pub node: String,
    /// `node.cluster`, as the client says.
    pub cluster: String,
    /// The process or address, as the kernel says.
    pub peer: String,
    /// `sds` or `ads`.
    pub service: String,
    /// `sotw` or `delta`.
    pub variant: String,
    /// Since when.
    pub opened: String,
    /// How many names it wants.
    pub names_total: usize,
    /// The first hundred of them, those in trouble first.
    pub names: Vec<Name>,
}

/// One name that a client wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// As asked.
    pub name: String,
    /// `synced`, `stale`, `not_sent`, `never` or `error`.
    pub state: String,
    /// The version that the client took last: what it uses.
    pub held: Option<String>,
    /// The version that was sent last. Other than `held`, it was not answered yet, or refused.
    #[serde(default)]
    pub sent: Option<String>,
    /// There is nothing of this name, and never will be for this client.
    #[serde(default)]
    pub never: bool,
    /// Why there is nothing of this name, and what helps.
    #[serde(default)]
    pub reason: Option<String>,
    /// The version that there is now.
    pub current: Option<String>,
    /// When it was last sent.
    pub last_sent: Option<String>,
    /// When the client last took it.
    pub last_ack: Option<String>,
    /// The client's words, when it refused it.
    pub rejection: Option<String>,
}

impl Sight {
    /// The streams that `query` asks for.
    #[must_use]
    pub fn clients(&self, query: &Query) -> Clients {
        let found = self.streams.find(query);
        Clients {
            totals: found.counts.into(),
            matched: found.matched,
            offset: query.offset,
            streams: found.streams.into_iter().map(Stream::from).collect(),
        }
    }
}

impl From<Counts> for Totals {
    fn from(counts: Counts) -> Self {
        Self {
            streams: counts.streams,
            synced: counts.of(State::Synced),
            not_sent: counts.of(State::NotSent),
            never: counts.of(State::Never),
            stale: counts.of(State::Stale),
            error: counts.of(State::Error),
        }
    }
}

impl From<StreamView> for Stream {
    fn from(stream: StreamView) -> Self {
        let mut names = stream.names;
        let names_total = names.len();
        names.sort_by_key(|name| std::cmp::Reverse(name.state));
        names.truncate(NAMES_SHOWN);
        let client = &stream.client;
        Self {
            id: stream.id,
            node: client.node.clone(),
            cluster: client.cluster.clone(),
            peer: client.peer.to_string(),
            service: client.service.as_str().to_owned(),
            variant: client.variant.as_str().to_owned(),
            opened: time(stream.opened),
            names_total,
            names: names.into_iter().map(Name::from).collect(),
        }
    }
}

impl From<NameView> for Name {
    fn from(name: NameView) -> Self {
        Self {
            name: name.name.to_string(),
            state: name.state.as_str().to_owned(),
            held: name.held.map(|version| bounded(version.as_str())),
            sent: name.sent_version.map(|version| bounded(version.as_str())),
            never: name.never,
            reason: name.missing.map(|missing| missing.to_string()),
            current: name.current.map(|version| version.to_string()),
            last_sent: name.sent.map(time),
            last_ack: name.acked.map(time),
            rejection: name.rejection.map(|words| bounded(&words)),
        }
    }
}

impl Name {
    /// The state for people.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.state.as_str() {
            "synced" => "up to date",
            "never" => "never",
            "not_sent" => "not sent",
            "stale" => "waiting for its answer",
            _ => "rejected",
        }
    }

    /// How much somebody should look.
    #[must_use]
    pub fn trouble(&self) -> u8 {
        match self.state.as_str() {
            "error" => 4,
            "never" => 3,
            "not_sent" => 2,
            "stale" => 1,
            _ => 0,
        }
    }

    /// What was sent last, where the client does not use it.
    #[must_use]
    pub fn sent_only(&self) -> Option<&str> {
        self.sent.as_deref().filter(|_| self.sent != self.held)
    }

    /// The client's words, or why it is not given the name.
    #[must_use]
    pub fn words(&self) -> Option<&str> {
        let waits = matches!(self.state.as_str(), "never" | "not_sent");
        self.rejection.as_deref().or(self.reason.as_deref().filter(|_| waits))
    }
}

/// A client's text: clients can say as much as a request may hold.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}
